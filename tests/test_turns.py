"""One pipeline at a time in a suite's folder, and none before the jobs of a killed one have ended."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from moelora import turns
from moelora.errors import OutputError

HOLD = "import sys; from moelora import turns; held = {}; print('held', flush=True); sys.stdin.read()"
TURN = HOLD.format("turns.take_turn(sys.argv[1])")
JOB = HOLD.format("turns.attend()")


@pytest.fixture
def start():
    """Return what starts a process that holds something until it is ended."""
    processes = []

    def begin(code, *arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], env=os.environ | environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_turn_is_had_by_one_and_names_its_process(tmp_path, start):
    other = start(TURN, tmp_path / "tiny")
    assert turns.take_turn(tmp_path / "tiny") is None
    assert turns.turn_holder(tmp_path / "tiny").startswith(f"process {other.pid} on ")
    with turns.take_turn(tmp_path / "other"):
        assert turns.turn_holder(tmp_path / "other").startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_turn_ends_with_its_process_however_it_ends(tmp_path, start, end):
    other = start(TURN, tmp_path)
    other.send_signal(end)
    other.wait()
    with turns.take_turn(tmp_path):
        assert turns.turn_holder(tmp_path).startswith(f"process {os.getpid()} on ")


def test_jobs_hold_their_lock_together_and_a_pipeline_waits_for_all(tmp_path, start, monkeypatch):
    jobs = [start(JOB, **{turns.VARIABLE: str(tmp_path / turns.JOBS)}) for _ in range(2)]
    said = []

    def end_one(_):
        if jobs:
            job = jobs.pop()
            job.kill()
            job.wait()

    monkeypatch.setattr(turns.time, "sleep", end_one)
    turns.wait_for_jobs(tmp_path, said.append)
    assert jobs == [] and len(said) == 1
    assert "jobs of an earlier pipeline" in said[0] and f"fuser -v {tmp_path / turns.JOBS}" in said[0]


def test_nobody_waits_where_no_job_is(tmp_path):
    said = []
    for _ in range(2):
        turns.wait_for_jobs(tmp_path, said.append).close()
    assert said == []


def test_what_a_killed_pipeline_started_is_a_job_from_its_first_moment(tmp_path, monkeypatch):
    """It knows nothing of locks and has not said a word: it inherited."""
    killed = (
        "import os, subprocess, sys; from moelora import turns\n"
        "turns.hand_down(turns.wait_for_jobs(sys.argv[1], print))\n"
        "print(subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, tmp_path], stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    orphans, said = [int(done.stdout)], []

    def end_it(_):
        while orphans:
            os.kill(orphans.pop(), signal.SIGKILL)

    try:
        monkeypatch.setattr(turns.time, "sleep", end_it)
        turns.wait_for_jobs(tmp_path, said.append, pause=0).close()
        assert orphans == [] and len(said) == 1
    finally:
        end_it(0)


def test_a_process_outside_a_pipeline_attends_nothing(monkeypatch):
    monkeypatch.delenv(turns.VARIABLE, raising=False)
    assert turns.attend() is False


def test_the_command_line_attends(tmp_path, start):
    path = tmp_path / "suite" / turns.JOBS
    command = [sys.executable, "-m", "moelora", "--version"]
    subprocess.run(command, env=os.environ | {turns.VARIABLE: str(path)}, check=True, capture_output=True)
    assert not path.exists()  # parsing ends before anything is done
    command = [
        sys.executable,
        "-m",
        "moelora",
        "collect",
        "--manifests",
        "absent.json",
        "--out",
        tmp_path / "x.parquet",
    ]
    done = subprocess.run(command, env=os.environ | {turns.VARIABLE: str(path)}, capture_output=True, text=True)
    assert done.returncode == 2 and path.is_file()


def test_without_locks_of_the_file_system_nothing_is_in_the_way(tmp_path, monkeypatch):
    def no_locks(handle, kind):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(turns.fcntl, "flock", no_locks)
    with turns.take_turn(tmp_path), turns.take_turn(tmp_path):
        turns.wait_for_jobs(tmp_path, pytest.fail)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/\.pipeline\.lock"):
        turns.take_turn(tmp_path / "file")
    assert turns.turn_holder(tmp_path / "file") == "an unnamed process"
