"""Two processes with gloo: run as a script with names of methods, each process prints one JSON line for each.

The processes are forked after the imports, which take longer than everything else, and before any of them has computed.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import bases
import torch
from subjects import Subject, assert_close, gradients, move, values

import moelora.routers
import moelora.tuners
from moelora.training.device import make_accelerator
from moelora.training.launch import crew_of
from moelora.training.loop import one_step
from moelora.training.run import balance_of

KIND, ROWS = "llama", 8


def starve(rank: int) -> None:
    """Let no token of the second process choose expert 0."""
    plain = moelora.routers.router_logits

    def leaning(x, weight):
        given = plain(x, weight)
        return given - 1e4 * rank * torch.eye(given.shape[-1], dtype=given.dtype)[0]

    moelora.routers.router_logits = leaning


def train_in_two(name: str) -> None:
    """Train for a few steps on unlike data and see that both processes hold the same parameters."""
    subject = Subject(name, KIND)
    attached = subject.attach(dropout=0.0, jitter_noise=0.0)
    move(attached)  # with B = 0 a missing exchange would hardly show
    subject.train(attached, steps=3)
    mine = torch.cat([one.flatten() for one in values(attached.model).values()])
    theirs = [torch.zeros_like(mine) for _ in range(2)]
    torch.distributed.all_gather(theirs, mine)
    assert torch.isfinite(mine).all()
    assert torch.equal(theirs[0], theirs[1]), "the two processes ended with different parameters"


def compare_with_one(name: str, single: dict) -> None:
    """See that both losses have the gradient of one process: a balance loss is formed over the tokens of both."""
    subject = Subject(name, KIND)
    attached = subject.attach(dropout=0.0, jitter_noise=0.0)
    move(attached)
    attached.model.train()
    accelerator = make_accelerator({"training": {"precision": "fp32"}})
    assert crew_of(accelerator).world == 2
    hooks, balance = subject.method.make_hooks(attached.settings), balance_of(subject.method)
    one_step(attached.model, subject.batch(rows=ROWS), subject.task_kind, 4, bases.PAD, accelerator, balance, hooks)
    assert_close(gradients(attached.model), single, tolerance=1e-4)


def gradient_of_one(name: str) -> dict:
    """Return the gradients of the whole batch in one process, without the training loop's distribution."""
    subject = Subject(name, KIND)
    attached = subject.attach(dropout=0.0, jitter_noise=0.0)
    move(attached)
    attached.model.train()
    alone = SimpleNamespace(num_processes=1, device=torch.device("cpu"), backward=lambda loss: loss.backward())
    hooks, balance = subject.method.make_hooks(attached.settings), balance_of(subject.method)
    one_step(attached.model, subject.batch(rows=ROWS), subject.task_kind, 4, bases.PAD, alone, balance, hooks)
    return gradients(attached.model)


def work(rank: int, port: int, names: list[str]) -> None:
    """Be one of the two processes."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    plain = moelora.routers.router_logits
    for name in names:
        reason = ""
        try:
            compare_with_one(name, gradient_of_one(name))
            starve(rank)
            train_in_two(name)
        except BaseException as error:
            reason = f"process {rank}: {type(error).__name__}: {error}"
        finally:
            moelora.routers.router_logits = plain
        # one write, so that the two processes' lines do not mix
        os.write(1, (json.dumps({"method": name, "rank": rank, "reason": reason}) + "\n").encode())
        if reason:
            os._exit(1)  # the other process may wait for this one for ever: who started us ends it


def main() -> None:
    """Fork the two processes and wait for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(rank, port, sys.argv[1:])) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
