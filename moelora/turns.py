"""Turns: one pipeline at a time in a suite's folder, and none before the jobs of a killed one have ended.

Snakemake's own lock is a mark on the disk: a kill leaves it behind, and ``--unlock`` removes it whether or not a
pipeline is at work. Here the kernel keeps the locks, so they end with the process that has them, however it ends.

A pipeline has its turn from the moment it writes plans until it ends. It and its jobs hold a second lock together,
which the next pipeline waits for: jobs outlive a Snakemake that is killed alone, and go on writing.
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from moelora.errors import OutputError
from moelora.records.environment import now

PIPELINE = ".pipeline.lock"
JOBS = ".jobs.lock"
VARIABLE = "MOELORA_JOBS"
"""Environment variable with the path of `JOBS`, which the workflow sets for its jobs."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that has no such locks: then Snakemake's own lock is all there is."""


def take_turn(folder: "Path | str") -> "IO[str] | None":
    """Return the turn in a suite's folder as an open file that must be kept open; ``None`` while another has it.

    Raises:
        OutputError: the folder cannot be written.
    """
    handle = _open(Path(folder) / PIPELINE)
    if not _lock(handle, fcntl.LOCK_EX):
        handle.close()
        return None
    handle.seek(0)
    handle.truncate()
    handle.write(f"process {os.getpid()} on {socket.gethostname()}, begun {now()}")
    handle.flush()
    return handle


def turn_holder(folder: "Path | str") -> str:
    """Return who has the turn in a suite's folder, or had it last."""
    try:
        return (Path(folder) / PIPELINE).read_text(encoding="utf-8") or "an unnamed process"
    except (OSError, UnicodeDecodeError):
        return "an unnamed process"


def wait_for_jobs(folder: "Path | str", say: Callable[[str], None], pause: float = 0.5) -> IO[str]:
    """Return once no job of an earlier pipeline is at work in a suite's folder.

    Args:
        folder: the suite's.
        say: is told once why nothing happens.
        pause: seconds between looks.

    Returns:
        An open file that holds the lock of the jobs to come: those that inherit it hold it as long as they live.

    Raises:
        OutputError: the folder cannot be written.
    """
    path = Path(folder) / JOBS
    handle = _open(path)
    if not _lock(handle, fcntl.LOCK_EX):
        say(
            f"jobs of an earlier pipeline, which was killed, are still at work in {folder}; waiting for them, so that "
            f"no two write the same. 'fuser -v {path}' lists them; what is ended is made again"
        )
        while not _lock(handle, fcntl.LOCK_EX):
            time.sleep(pause)
    _lock(handle, fcntl.LOCK_SH)  # together with the jobs
    return handle


def hand_down(handle: IO[str]) -> None:
    """Let all processes that this one starts inherit an open file, from the very moment they exist.

    It becomes the standard input, which Snakemake's jobs do not read: other files are closed for them.
    """
    with handle:
        os.dup2(handle.fileno(), 0)


_attending: list[IO[str]] = []  # open as long as the process lives


def attend() -> bool:
    """Count this process among a pipeline's jobs until it ends; return whether there is a pipeline.

    A job on another machine inherits nothing from its pipeline.

    Raises:
        OutputError: the suite's folder cannot be written.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return False
    handle = _open(Path(path))
    while not _lock(handle, fcntl.LOCK_SH):  # a pipeline that begins looks for an instant
        time.sleep(0.05)
    _attending.append(handle)
    return True


def _open(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; check that you may write there") from error


def _lock(handle: IO[str], kind: int) -> bool:
    """Take a lock of a file if nobody is in the way; return whether it was taken or there are no locks to take."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
