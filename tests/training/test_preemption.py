"""Signals in the middle of training and scoring, sent by the process to itself at a chosen place."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from world import plan, task_document, write_plan

from moelora.cli import main
from moelora.files import sha256_file
from moelora.training import loop, preemption
from moelora.training.preemption import Preempted, agree, deferring, leave, listening
from moelora.training.processes import ALONE

STEPS = 9


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def arguments(world, root, paths):
    return ["train", "--evaluate", "--plans", *map(str, paths), "--manifest", str(root / "job.json"), "--fingerprint",
            "test", "--data", str(world / "data"), "--base", str(world / "encoder")]  # fmt: skip


def document(**training):
    document = plan("encoder", [task_document("mood")], max_steps=STEPS, **training)
    document["settings"]["dropout"] = 0.1
    return document


def finding(path):
    record = json.loads((path.parent / "record.json").read_text())
    for key in ("environment", "costs", "content_sha256"):
        del record[key]
    resumed = record["training"].pop("resumed")
    record["training"] = {k: v for k, v in record["training"].items() if not k.endswith("seconds")}
    return resumed, record, sha256_file(path.parent / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    path = write_plan(root, document())
    assert main(arguments(world, root, [path])) == 0
    return finding(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_in_a_step_is_heard_after_it_and_the_run_goes_on_from_there(
    world, tmp_path, monkeypatch, capfd, undisturbed, number
):
    paths = [write_plan(tmp_path, document(), seed=seed) for seed in (0, 1)]
    one_step, steps = loop.one_step, []

    def signalled(*given):
        steps.append(1)
        if len(steps) == 4:
            send(number)
        return one_step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", signalled)
        with pytest.raises(SystemExit) as left:
            main(arguments(world, tmp_path, paths))
    assert left.value.code == (130 if number == signal.SIGINT else 143)
    said = f"stopped by {signal.Signals(number).name} at step 4 of {STEPS}, its state saved; the same command goes on"
    assert capfd.readouterr().err.count(said) == 1 and (paths[0].parent / "log.txt").read_text().count(said) == 1
    assert len(steps) == 4  # of the first run; the second did not begin
    assert not [path for path in tmp_path.rglob("*.json") if path.name in ("record.json", "train.json", "job.json")]
    assert len(list((paths[0].parent / ".state").iterdir())) == 1  # though this plan saves none on its own
    assert signal.getsignal(number) is not preemption._requests.receive

    assert main(arguments(world, tmp_path, paths)) == 0
    assert finding(paths[0]) == (1, *undisturbed[1:])
    assert len(json.loads((tmp_path / "job.json").read_text())["runs"]) == 2


def test_a_signal_in_the_last_step_or_while_the_adapter_is_written_loses_no_training(
    world, tmp_path, monkeypatch, undisturbed
):
    from moelora.training import attach

    one_step, save_adapter, steps = loop.one_step, attach.save_adapter, []

    def last_step(*given):
        steps.append(1)
        if len(steps) == STEPS:
            send(signal.SIGTERM)
        return one_step(*given)

    def written(*given):
        send(signal.SIGTERM)
        save_adapter(*given)

    path = write_plan(tmp_path, document())
    for place, function in (((loop, "one_step"), last_step), ((attach, "save_adapter"), written)):
        with monkeypatch.context() as patch:
            patch.setattr(*place, function)
            with pytest.raises(SystemExit, match="143"):
                main(arguments(world, tmp_path, [path]))
    assert (path.parent / "train.json").exists() and not (path.parent / ".state").exists()
    assert len(steps) == STEPS
    assert main(arguments(world, tmp_path, [path])) == 0
    assert finding(path) == (1, *undisturbed[1:])


def test_a_signal_while_scoring_ends_the_process_at_once(world, tmp_path, monkeypatch, capfd, undisturbed):
    from moelora.evaluation import score

    def signalled(*given, **options):
        send(signal.SIGTERM)
        raise AssertionError("scoring went on")

    path = write_plan(tmp_path, document())
    with monkeypatch.context() as patch:
        patch.setattr(score, "predict", signalled)
        with pytest.raises(SystemExit, match="143"):
            main(arguments(world, tmp_path, [path]))
    assert "stopped by SIGTERM; the same command goes on from there" in capfd.readouterr().err
    assert (path.parent / "train.json").exists() and not (path.parent / "record.json").exists()
    assert main(arguments(world, tmp_path, [path])) == 0
    assert finding(path) == undisturbed


def test_what_is_ignored_stays_ignored_and_handlers_come_back():
    before = {number: signal.getsignal(number) for number in preemption.STATUSES}
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with listening("test"), deferring(""):
            send(signal.SIGUSR1)
            assert agree(ALONE, False, True) == [False, False, True]
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before[signal.SIGUSR1])
    assert {number: signal.getsignal(number) for number in preemption.STATUSES} == before


def test_a_deferred_signal_is_answered_at_the_end_of_the_block():
    with pytest.raises(Preempted) as left, listening("test"):
        with deferring(", with all put away"):
            send(signal.SIGUSR1)
            send(signal.SIGTERM)  # a scheduler's second word, and no second request
            assert agree(ALONE) == [True]
        raise AssertionError("not reached")
    assert left.value.code == 143
    assert left.value.text == "stopped by SIGUSR1, with all put away; the same command goes on from there"


def test_without_listening_nobody_is_asked_and_other_threads_change_nothing():
    assert agree(ALONE) == [False]
    with pytest.raises(Preempted, match="143"):
        leave("")
    before = signal.getsignal(signal.SIGTERM)

    def listen():
        with listening("test"):
            found.append(signal.getsignal(signal.SIGTERM) is before)

    found = []
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [True]


STUBBORN = """
import sys, time
from moelora.training.preemption import deferring, listening
with listening("test"), deferring(""):
    print("listening", flush=True)
    while True:
        time.sleep(0.02)
"""


def test_the_same_signal_again_ends_a_process_that_is_still_busy():
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "listening\n"
    process.send_signal(signal.SIGTERM)
    for _ in range(200):  # until it comes late enough for a second request
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(0.3)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == -signal.SIGTERM


TOGETHER = """
import os, signal, sys
import torch
from accelerate import Accelerator
from moelora.training.preemption import agree, deferring, leave, listening
from moelora.training.launch import crew_of
rank = 0 if os.fork() else 1
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
crew = crew_of(Accelerator(cpu=True))
with listening("together"), deferring(""):
    for step in range(1, 10):
        if rank == 1 and step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        asked, due = agree(crew, rank == 0 and step == 2)
        print(f"{rank} {step} {asked} {due}", flush=True)
        if asked:
            if rank == 0:
                print("child", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
            leave("")
"""


@pytest.mark.slow
def test_of_several_processes_all_leave_after_the_same_step_when_one_is_asked():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.run(
        [sys.executable, "-c", TOGETHER], env=os.environ | {"MASTER_PORT": port}, capture_output=True, text=True
    )
    assert process.returncode == 143, process.stderr
    said = process.stdout.splitlines()
    assert said.count("child 143") == 1
    for rank in "01":
        steps = [line.split()[1:] for line in said if line.startswith(rank)]
        assert steps == [[str(n), str(n == 4), str(n == 2)] for n in range(1, 5)]
    assert "stopped by a signal to another process" in process.stderr
