"""Where a study is kept: a journal file by default, PostgreSQL by its URL, SQLite for a single worker."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

from moelora.errors import ConfigError, OutputError, RecordError, first_line
from moelora.search import leases

JOURNAL = "journal"
JOURNAL_FILE = "journal.log"
NETWORK = re.compile(r"nfs\d?|cifs|smb\w*|lustre|gpfs|beegfs|ceph|glusterfs|afs|9p|panfs|pvfs2|fuse\.(sshfs|glusterfs)")


def check_storage(storage: str, source: str) -> None:
    """Refuse a storage of an unknown kind, and a password that would end in files.

    Raises:
        ConfigError: as said.
    """
    at = f"{source}: 'search.storage'"
    if storage == JOURNAL or re.match(r"sqlite:///.", storage):
        return
    found = re.match(r"postgresql(\+\w+)?://([^@/]*@)?", storage)
    if not found:
        raise ConfigError(
            f"{at} must be '{JOURNAL}' (a file beside the trials), 'postgresql://user@host/database', or "
            f"'sqlite:///file' for a single worker, found {storage!r}"
        )
    if ":" in (found[2] or ""):
        raise ConfigError(
            f"{at} holds a password, which would be copied into plans and logs; leave it out and put it into "
            "~/.pgpass or the variable PGPASSWORD"
        )


def is_single(storage: str) -> bool:
    """Return whether a storage is for one worker at a time."""
    return storage.startswith("sqlite:")


def refuse_parallel(storage: str, source: str) -> None:
    """Refuse a second worker on SQLite.

    Raises:
        ConfigError: as said, with advice.
    """
    if is_single(storage):
        raise ConfigError(
            f"{source}: 'search.storage' is SQLite, which is refused for more than one worker: writers wait for one "
            "lock, a waiting trial can time out, and on network file systems the lock does not hold at all; use "
            f"'{JOURNAL}' (the default, made for shared folders), 'postgresql://user@host/database', or one core"
        )


def open_storage(storage: str, folder: Path) -> Any:
    """Return Optuna's storage.

    Args:
        storage: as the suite has it, already checked.
        folder: of the study; a journal and relative SQLite files lie there.

    Raises:
        ConfigError: the driver for PostgreSQL is missing, or SQLite lies on a network file system.
        OutputError: the storage cannot be reached or written.
        RecordError: the journal is damaged.
    """
    import optuna

    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if storage == JOURNAL:
            return _open_journal(folder / JOURNAL_FILE)
    except OSError as error:
        raise OutputError(
            f"cannot write the study to {folder}: {error.strerror}; check that you may write there"
        ) from error
    return _open_sqlite(storage, folder) if is_single(storage) else _open_postgresql(storage)


def _open_journal(path: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    class MendingLock(JournalFileSymlinkLock):
        """Lets nobody write behind a line that a killed worker or a full disk cut short, which would spoil both."""

        def acquire(self) -> bool:
            acquired = super().acquire()
            try:
                cut_torn_line(path)
            except OSError:
                self.release()
                raise
            return acquired

    # The whole path: a lock that points to a relative one points to nothing, and one that a killed worker left is then
    # waited for without end (see `moelora.search.leases`).
    path = path.resolve()
    try:
        lock = MendingLock(str(path), grace_period=leases.GRACE_SECONDS)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except ValueError as error:  # a line that is not JSON
        raise RecordError(
            f"journal {path} is damaged ({error}); restore it, or remove its last line where that is cut short"
        ) from error


def cut_torn_line(path: Path) -> None:
    """Remove what stands after a file's last line end: nobody was told that it had been written."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept, tail = end, b""
        while kept and b"\n" not in tail:
            begin = max(0, kept - 4096)
            file.seek(begin)
            tail, kept = file.read(kept - begin), begin
        kept += tail.rfind(b"\n") + 1
        if kept < end:
            file.truncate(kept)


def _open_sqlite(storage: str, folder: Path) -> Any:
    path = folder / storage.removeprefix("sqlite:///")
    kind = file_system(path.parent)
    if NETWORK.fullmatch(kind):
        raise ConfigError(
            f"'search.storage' puts SQLite on {path.parent}, which is a network file system ({kind}), where SQLite's "
            f"lock does not hold; use '{JOURNAL}' (the default) or 'postgresql://user@host/database'"
        )
    return _open_database(f"sqlite:///{path}", {})


def _open_postgresql(storage: str) -> Any:
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "'search.storage' is PostgreSQL, whose driver is not installed; say pip install 'moelora[postgresql]'"
        ) from error
    url = re.sub(r"^postgresql(\+\w+)?://", "postgresql+psycopg://", storage)
    return _open_database(url, {"pool_pre_ping": True})  # a job may hold its connection over hours of training


def _open_database(url: str, engine: dict[str, Any]) -> Any:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url, engine_kwargs=engine)
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = first_line(getattr(error, "orig", None) or error)
        raise OutputError(
            f"the study's database {url} cannot be reached: {reason}; check that the server runs and lets you in"
        ) from error


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system that holds a folder; empty where the machine does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    resolved = f"{folder.resolve()}/"
    for line in lines:
        _, place, found, *_ = line.split(" ")
        place = place.replace("\\040", " ").rstrip("/") + "/"
        if resolved.startswith(place) and len(place) >= len(best):
            best, kind = place, found
    return kind
