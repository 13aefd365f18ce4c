"""Leases: one small file for each trial in work, so that a trial whose worker died is found and failed.

Optuna's journal knows no heartbeat, and that of its databases serves `optimize` alone. A worker makes its lease before
it asks, names the lease's token in the trial, and renews the file while it works. A lease is dead when its process is
gone, seen from the same machine, or when it was not renewed for longer than the study allows, seen from anywhere.
"""

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moelora.errors import OutputError
from moelora.files import atomic_write_json

ENDING = ".lease.json"
GRACE_SECONDS = 30  # after which a lock counts as left by a worker that was killed


@dataclasses.dataclass
class Lease:
    """A worker's claim on one slot of a study; ``token`` is what its trial calls it."""

    path: Path
    token: str
    slot: int
    interval: float
    _stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    _thread: "threading.Thread | None" = None

    def __enter__(self) -> "Lease":
        """Renew the lease in the background until the block ends."""
        self._thread = threading.Thread(target=self._renew, name=f"lease {self.slot}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        """Stop renewing and give the slot back."""
        self._stop.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._stop.wait(self.interval):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                return  # a sweep took us for dead; the storage will refuse what we tell
            except OSError:
                continue  # a file system that is away for a moment; the next renewal may succeed


@dataclasses.dataclass(frozen=True)
class Leases:
    """The leases of one study.

    Attributes:
        folder: where they lie; every worker must see it.
        seconds: age since the last renewal after which a lease is dead.
    """

    folder: Path
    seconds: float

    def claim(self, slot: int, *, attended: bool = True) -> "Lease | None":
        """Return a new lease on a slot, or ``None`` while there is another on it, alive or not yet swept.

        Args:
            slot: which of the study's results is to be made.
            attended: whether this process works on the trial; ``False`` for a trial that is told by a later command,
                whose lease lives until it is too old.

        Raises:
            OutputError: the folder cannot be written.
        """
        token = uuid.uuid4().hex[:12]
        path = self.folder / f"{slot:05d}.{token}{ENDING}"
        with self.lock():
            if any(self.folder.glob(f"{slot:05d}.*{ENDING}")):
                return None
            owner = {"pid": os.getpid(), "started": _started(os.getpid())} if attended else {}
            atomic_write_json(path, {"slot": slot, "place": _place(), **owner})
        return Lease(path, token, slot, interval=min(30.0, self.seconds / 4))

    def tokens(self) -> dict[str, bool]:
        """Return every lease's token, and whether it is alive."""
        now = self._now()
        return {_token(path): self._alive(path, now) for path in self._files()}

    def release(self, token: str) -> None:
        """Remove a lease; nothing happens when it is gone already."""
        for path in self.folder.glob(f"*.{token}{ENDING}"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other workers from claiming; one that was killed inside is overruled after half a minute.

        Raises:
            OutputError: the folder cannot be written.
        """
        from optuna.storages.journal import JournalFileSymlinkLock

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Optuna looks at what the lock points to, and would wait for ever where that is not there: so it is made,
            # and named by its whole path. Made once: whatever changes it puts off the moment of being overruled.
            target = self.folder.resolve() / "claims"
            if not target.exists():
                target.touch()
            held = JournalFileSymlinkLock(str(target), grace_period=GRACE_SECONDS)
            held.acquire()
        except OSError as error:
            raise OutputError(
                f"cannot write leases to {self.folder}: {error.strerror}; check that you may write there"
            ) from error
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # overruled while we were slow: there is nothing to give back
                held.release()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{ENDING}")) if self.folder.is_dir() else []

    def _alive(self, path: Path, now: float) -> bool:
        try:
            renewed = path.stat().st_mtime
            owner = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # removed or damaged meanwhile
        if owner.get("place") == _place() and "pid" in owner and not _runs(owner):
            return False
        return now - renewed <= self.seconds

    def _now(self) -> float:
        """Return the file system's own time, in seconds: a server's clock may differ from this machine's."""
        if not self.folder.is_dir():
            return time.time()
        probe = self.folder / f".{uuid.uuid4().hex}.now"
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError:
            return time.time()  # a folder that may only be read
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)


def _token(path: Path) -> str:
    return path.name.removesuffix(ENDING).partition(".")[2]


def _place() -> str:
    """Return what processes share that can see each other: the machine and, in containers, their name space."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""  # no Linux
    return f"{socket.gethostname()} {space}".strip()


def _started(pid: int) -> "float | None":
    """Return when a process of this machine began; ``None`` when there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _runs(owner: dict[str, Any]) -> bool:
    """Return whether the process that made a lease still runs: a later one may have its number."""
    started = _started(owner["pid"])
    # some systems count from a boot time that moves a little when the clock is set
    return started is not None and abs(started - owner["started"]) < 5.0
