"""Two real processes at one lock."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from moelora import locks
from moelora.errors import OutputError
from moelora.locks import LOCK_FILE, holder, run_lock

HOLDER = """
import sys
from pathlib import Path
from moelora.locks import run_lock
from moelora.progress import start_logging
start_logging()
with run_lock(Path(sys.argv[1]), "a run"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def start(folder):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["killed", "finished"])
def test_the_second_waits_says_for_whom_and_goes_on(tmp_path, ending):
    first = start(tmp_path)
    assert first.stdout.readline() == "held\n"
    second = start(tmp_path)
    waiting = second.stderr.readline()
    assert f"a run: waiting for process {first.pid} on {socket.gethostname()}, which is at work on this run" in waiting
    if ending == "killed":
        first.send_signal(signal.SIGKILL)  # the kernel frees the lock, whatever the file says
    else:
        first.communicate("\n")
    first.wait()
    assert second.stdout.readline() == "held\n"
    assert holder(tmp_path / LOCK_FILE) == f"process {second.pid} on {socket.gethostname()}"
    assert "the other process is gone; going on" in second.communicate("\n")[1]
    assert second.returncode == 0


def test_a_signal_ends_the_wait(tmp_path, monkeypatch):
    from moelora.training.preemption import Preempted, listening

    first = start(tmp_path)
    assert first.stdout.readline() == "held\n"
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match="143"), listening("test"), run_lock(tmp_path, "a run"):
        raise AssertionError("two hold the lock")
    first.communicate("\n")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_there_is_a_warning_and_the_run_goes_on(tmp_path, monkeypatch, heard, number):

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run_lock(tmp_path, "a run"):
        pass
    assert "offers no locks" in "".join(heard) and "no other pipeline is at work" in "".join(heard)


def test_a_lock_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/\.lock"), run_lock(tmp_path / "file", "a run"):
        pass

    def broken(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OutputError, match="Input/output error"), run_lock(tmp_path, "a run"):
        pass


def test_of_several_processes_of_one_run_the_first_holds_the_lock_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr("moelora.locks.time.sleep", lambda seconds: pytest.fail("waited for the lock"))
    with run_lock(tmp_path, "a run"):
        monkeypatch.setenv("RANK", "1")
        with run_lock(tmp_path, "a run"):  # does not wait
            pass
    monkeypatch.setenv("RANK", "0")
    with run_lock(tmp_path, "a run"):
        pass


def test_a_holder_that_has_not_signed_is_another_process(tmp_path):
    assert holder(tmp_path / "none") == "another process"
    (tmp_path / LOCK_FILE).write_text("")
    assert holder(tmp_path / LOCK_FILE) == "another process"
