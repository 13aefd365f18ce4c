"""``python -m bench.parallel``: two processes beside one, and a sharded model beside a whole one, as numbers.

Both processes are forked once. Each trains every case alone, and then with the other; what is printed is by how much
the two differ: of loss curves and balance curves the largest relative difference, of gradients and trained parameters
the largest difference as a part of the largest entry (of parameters: of the largest change).
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench import parallel_cases
from moelora.files import atomic_write_json

WORLD = 2


def work(rank: int, _port: int, pipe: Any, names: list[str]) -> None:
    """Be one of the processes, and send what each case gave."""
    for name in names:
        try:
            pipe.send((name, rank, parallel_cases.CASES[name]()))
        except BaseException:
            pipe.send((name, rank, {"error": traceback.format_exc()}))
            os._exit(1)  # the other may wait for this one for ever: who started us ends it


def _enter(target: Callable, rank: int, port: int, pipe: Any, given: tuple) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "MOELORA_DEVICE": "cpu",
    }  # fmt: skip
    torch.set_num_threads(1)
    target(rank, port, pipe, *given)


@contextlib.contextmanager
def processes(target: Callable, *given: Any) -> Iterator[Any]:
    """Fork two processes that call ``target`` with rank, port, a pipe to send to and what is given.

    Returns:
        The pipe's other end.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    workers = [
        fork.Process(target=_enter, args=(target, rank, port, there, given), daemon=True) for rank in range(WORLD)
    ]
    for worker in workers:
        worker.start()
    try:
        yield here
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def compare(
    names: "list[str] | None" = None, patience: float = 300.0, tell: "Callable[[str], None] | None" = None
) -> dict[str, list[dict]]:
    """Return what each case gave in each process.

    Args:
        names: of cases; all of them by default.
        patience: seconds without a word after which a case is taken to hang.
        tell: gets a line on each case and process as it comes.

    Raises:
        RuntimeError: a case failed or hung.
    """
    names = list(parallel_cases.CASES) if names is None else names
    found: dict[str, list[dict]] = {name: [{} for _ in range(WORLD)] for name in names}
    with processes(work, names) as pipe:
        for _ in range(WORLD * len(names)):
            if not pipe.poll(patience):
                heard = [name for name in names if any(found[name])]
                raise RuntimeError(f"no word for {patience:.0f} s; heard of so far: {', '.join(heard) or 'none'}")
            name, rank, numbers = pipe.recv()
            if "error" in numbers:
                raise RuntimeError(f"{name}, process {rank}:\n{numbers['error']}")
            found[name][rank] = numbers
            if tell is not None:
                tell(f"{name}, process {rank}: {json.dumps(numbers)}")
    return found


def table(found: dict[str, list[dict]]) -> str:
    """Return Markdown with the larger number of the two processes in each cell."""
    columns = sorted({column for numbers in found.values() for one in numbers for column in one})
    lines = [f"| case | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name, numbers in found.items():
        cells = [_cell([one[column] for one in numbers if column in one]) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list) -> str:
    if not values:
        return ""
    if all(isinstance(value, bool) for value in values):
        return "yes" if all(values) else "no"
    return f"{max(values):.0e}" if max(values) else "0"


def main(arguments: "list[str] | None" = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.parallel", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=tuple(parallel_cases.CASES), help="only these")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON too")
    options = parser.parse_args(arguments)
    found = compare(options.cases, tell=lambda line: print(line, file=sys.stderr))
    print(table(found))
    if options.out:
        atomic_write_json(options.out, {"schema": 1, "processes": WORLD, "torch": torch.__version__, "cases": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
