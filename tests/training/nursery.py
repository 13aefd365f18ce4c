"""Children of a process that has imported everything: each carries out a run as the command line does, and is killed.

A fork costs a hundredth of a second where a new interpreter takes ten to import torch, so that many kills are cheap. A
child is killed at the n-th operation on the files of its run, inside the n-th flush with half of the bytes on the disk,
in the n-th step, or after a time. Run as ``python nursery.py FOLDER KILLS SEED``; prints what happened.
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
STEPS, CHECKPOINT = 12, 3
METHODS = ("lora", "mixlora")


def preload() -> None:
    """Import what a run imports on its way; nothing is computed, so no thread is started."""
    import accelerate  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401

    import moelora.dense
    import moelora.evaluation.command
    import moelora.evaluation.routing
    import moelora.evaluation.score
    import moelora.training.command
    import moelora.training.run
    import moelora.tuners  # noqa: F401

    torch.set_num_threads(1)


def make_plan(world: Path, root: Path, method: str) -> Path:
    """Write the plan of a run below a root; return its path."""
    from world import plan, task_document, write_plan

    document = plan("encoder", [task_document("mood"), task_document("odd")], method, max_steps=STEPS)
    document["training"]["checkpoint_every_steps"] = CHECKPOINT
    document["settings"]["dropout"] = 0.1
    document["diagnostics"] = {"routing": True}
    return write_plan(root, document)


def carry_out(world: Path, path: Path, apart: bool) -> int:
    """Train and score a plan through the command line: in one process, or one verb after the other."""
    from moelora.cli import main

    shared = ["--plans", str(path), "--fingerprint", "test", "--data", str(world / "data"),
              "--base", str(world / "encoder"), "--manifest", str(path.parents[4] / "jobs" / "job.json")]  # fmt: skip
    if not apart:
        return main(["train", "--evaluate", *shared])
    return main(["train", *shared]) or main(["evaluate", *shared])


def begin(work, log: Path) -> int:
    """Fork a child that does the work and ends with its status; return its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = work()
    except SystemExit as error:
        status = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def end(child: int) -> int:
    """Wait for a child; return its exit status, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def count_operations(folder: Path, act) -> None:
    """Call ``act`` with the number of each operation on files below a folder, before it happens."""
    prefix, done = str(folder), [0]

    def hook(event: str, arguments: tuple) -> None:
        if event in OPERATIONS and any(str(word).startswith(prefix) for word in arguments[:2]):
            if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            done[0] += 1
            act(done[0])

    sys.addaudithook(hook)


def arm(moment: tuple, folder: Path) -> None:
    """Let this process die at a moment."""
    kind, number = moment
    calls = [0]

    def at_call(function, before=die):
        def counted(*arguments, **options):
            calls[0] += 1
            if calls[0] == number:
                before(*arguments[:1]) if before is not die else die()
            return function(*arguments, **options)

        return counted

    def tear(handle: int) -> None:
        os.ftruncate(handle, os.fstat(handle).st_size // 2)
        die()

    if kind == "operation":
        count_operations(folder, lambda count: die() if count == number else None)
    elif kind == "flush":
        os.fsync = at_call(os.fsync, tear)
    elif kind == "step":
        import torch

        torch.optim.AdamW.step = at_call(torch.optim.AdamW.step)
    elif kind == "scoring":
        import moelora.evaluation.score

        moelora.evaluation.score.predict = at_call(moelora.evaluation.score.predict)


def findings(path: Path) -> dict:
    """Return all that a run left, by name, without what differs between equal runs."""
    record = json.loads((path.parent / "record.json").read_text())
    resumed = record["training"].pop("resumed")
    for key in ("environment", "costs", "content_sha256"):
        del record[key]
    for key in ("seconds", "cpu_seconds"):
        del record["training"][key]
    files = {
        str(file.relative_to(path.parent)): file.read_bytes()
        for pattern in ("adapter/*", "items.parquet", "routing.safetensors", "resolved.json")
        for file in sorted(path.parent.glob(pattern))
    }
    left = [file.name for file in path.parent.rglob("*tmp*")] + [file.name for file in path.parent.glob(".adapter*")]
    return {"record": record, "resumed": resumed, "files": files, "left": left}


def draw_moment(chance: random.Random, operations: int, seconds: float) -> tuple:
    """Return where the next child dies."""
    kind = chance.choice(("operation", "operation", "flush", "step", "scoring", "time", "time"))
    number = {
        "operation": chance.randint(1, operations), "flush": chance.randint(1, 20), "step": chance.randint(1, STEPS),
        "scoring": chance.randint(1, 2), "time": chance.uniform(0.0, seconds),
    }[kind]  # fmt: skip
    return kind, number


def run_to_a_kill(world: Path, path: Path, apart: bool, moment: tuple, log: Path) -> int:
    """Carry out a run in a child that dies at a moment; return how the child ended."""

    def work() -> int:
        arm(moment, path.parent)
        return carry_out(world, path, apart)

    child = begin(work, log)
    if moment[0] == "time":
        time.sleep(moment[1])
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return end(child)


def undisturbed(world: Path, root: Path, method: str) -> tuple[dict, int, float]:
    """Return what a run leaves that nothing disturbs, on how many operations, and how long it took."""
    path, counts = make_plan(world, root, method), root / "operations"

    def work() -> int:
        seen = [0]
        count_operations(path.parent, lambda count: seen.__setitem__(0, count))
        status = carry_out(world, path, apart=False)
        counts.write_text(str(seen[0]))
        return status

    began = time.monotonic()
    assert end(begin(work, root / "log.txt")) == 0, (root / "log.txt").read_text()
    return findings(path), int(counts.read_text()), time.monotonic() - began


def kill_many(folder: Path, kills: int, seed: int) -> dict:
    """Kill runs until there were so many kills; return how many of them, and which, ended otherwise."""
    from world import write_world

    chance = random.Random(seed)
    world = folder / "world"
    assert end(begin(lambda: write_world(world) and 0, folder / "world.log")) == 0
    expected = {method: undisturbed(world, folder / method, method) for method in METHODS}
    done, cases, resumes, mismatches = 0, 0, 0, []
    while done < kills:
        method = METHODS[cases % len(METHODS)]
        apart = chance.random() < 0.5
        root = folder / f"case{cases}"
        path, log = make_plan(world, root, method), root / "log.txt"
        reference, operations, seconds = expected[method]
        moments = []
        for _ in range(chance.randint(1, 3)):
            moment = draw_moment(chance, operations, seconds)
            status = run_to_a_kill(world, path, apart, moment, log)
            moments.append(f"{moment[0]} {moment[1]:.3g}{'' if status == -signal.SIGKILL else ' (ended before)'}")
            done += status == -signal.SIGKILL
        status = end(begin(lambda path=path, apart=apart: carry_out(world, path, apart), log))
        wrong = [f"exit status {status}"] if status else []
        if not wrong:
            found = findings(path)
            resumes += found["resumed"]
            wrong = [key for key in ("record", "files", "left") if found[key] != reference[key]]
            names = set(found["files"]) | set(reference["files"])
            wrong += sorted(name for name in names if found["files"].get(name) != reference["files"].get(name))
        cases += 1
        print(f"{method}, {'two verbs' if apart else 'one verb'}: killed at {', '.join(moments)}: {wrong or 'equal'}")
        if wrong:
            mismatches.append(f"{root}: {wrong}")
    return {"kills": done, "runs": cases, "resumes": resumes, "mismatches": mismatches}


def race(folder: Path) -> dict:
    """Let two processes carry out one run at once; return how they ended, what they said and what was left."""
    from world import write_world

    world = folder / "world"
    assert end(begin(lambda: write_world(world) and 0, folder / "world.log")) == 0
    reference, _, _ = undisturbed(world, folder / "alone", "lora")
    path = make_plan(world, folder / "both", "lora")
    logs = [folder / "first.txt", folder / "second.txt"]
    children = [begin(lambda: carry_out(world, path, apart=False), log) for log in logs]
    statuses = [end(child) for child in children]
    return {
        "statuses": statuses,
        "said": [log.read_text() for log in logs],
        "equal": findings(path) == reference,
        "numbers": children,
    }


if __name__ == "__main__":
    preload()
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    if sys.argv[2] == "race":
        print(json.dumps(race(target)))
    else:
        outcome = kill_many(target, int(sys.argv[2]), int(sys.argv[3]))
        print(f"kills {outcome['kills']}, runs {outcome['runs']}, resumes {outcome['resumes']}, "
              f"mismatches {len(outcome['mismatches'])}")  # fmt: skip
        raise SystemExit(bool(outcome["mismatches"]))
