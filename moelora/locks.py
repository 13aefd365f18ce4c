"""One process at a time on one run.

A process that was orphaned by a killed pipeline goes on; a new pipeline then waits until it is done instead of writing
the same files. The lock is the kernel's: it is gone with the process that held it, however that ended, so there is
nothing to clear by hand. The file that carries it stays, and says who held it last.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from moelora.files import unwritable
from moelora.progress import logger

LOCK_FILE = ".lock"
PAUSE_SECONDS = 0.5  # between two looks at a lock that another process holds
NOT_OFFERED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def run_lock(folder: Path, label: str) -> Iterator[None]:
    """Hold the lock of a run's folder while the block runs; wait for the process that has it.

    Where the file system offers no locks the block runs without one, after a warning. Of several processes that train
    one run together the first holds the lock for all.

    Args:
        folder: the run's folder; made if it is not there.
        label: names the run in log lines.

    Raises:
        OutputError: the lock's file cannot be written.
    """
    if int(os.environ.get("RANK") or 0):  # set by torchrun and accelerate
        yield
        return
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+b", buffering=0)
    except OSError as error:
        raise unwritable(path, error) from error
    with handle:
        if _take(handle, label, path):
            _sign(handle)
        yield


def holder(path: Path) -> str:
    """Return who took a lock last, in words."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has not signed yet, or the disk was full


def _take(handle, label: str, path: Path) -> bool:
    """Take the lock, sooner or later; return False where there are none."""
    waited = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waited:
                logger.info("%s: waiting for %s, which is at work on this run", label, holder(path))
                waited = True
            time.sleep(PAUSE_SECONDS)  # not a blocking call, which a signal could not end
        except OSError as error:
            if error.errno not in NOT_OFFERED:
                raise unwritable(path, error) from error
            logger.warning(
                "%s: the file system of %s offers no locks (%s); see to it that no other pipeline is at work in this "
                "results folder",
                label,
                path,
                error.strerror,
            )
            return False
        else:
            if waited:
                logger.info("%s: the other process is gone; going on", label)
            return True


def _sign(handle) -> None:
    """Write into the lock's file who holds it; it is for people, and nothing depends on it."""
    with contextlib.suppress(OSError):
        handle.truncate(0)
        handle.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
