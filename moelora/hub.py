"""The hub behind models and data sets: a short question before anything is fetched, and a look at what came.

The clients wait for a hub that hangs for minutes, once a file. So it is asked for the repository first, with a short
limit; where nobody answers, the clients look only at what is here already.

A client checks the size of what it fetches, not the bytes. So here every file of a commit is compared with the sum by
which the hub names it, and with the sum that a file of that name and commit had when it was first used from this cache.
"""

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moelora.errors import OutputError
from moelora.files import atomic_write_text, sha256_file
from moelora.progress import logger

COMMIT = re.compile("[0-9a-f]{40}")
FOLDERS = {"model": "models", "dataset": "datasets"}


class AlteredError(Exception):
    """What lies here is not what its commit holds."""


def advice(place: str) -> str:
    """Return what to do about something that cannot be had.

    Args:
        place: where its id stands.
    """
    return (
        "Check the id and the network, and say the same command again: what was fetched is kept. A copy fetched "
        "earlier is used with HF_HUB_OFFLINE=1, a mirror with HF_ENDPOINT, and a local copy by naming its folder as "
        f"'hub' in {place}"
    )


@contextlib.contextmanager
def reached(kind: str, name: str, revision: "str | None") -> Iterator[None]:
    """Let clients ask the hub within the block, or look only at what is here where it does not answer.

    Args:
        kind: ``model`` or ``dataset``.
        name: an id of the hub, or a folder, about which nobody is asked.
        revision: branch, tag or commit; ``None`` is the newest.

    Raises:
        AlteredError: the hub has another commit under the name of the one that is asked for.
        OSError: it does not answer, and what was wanted is not here.
    """
    from huggingface_hub import constants

    trouble = None
    if not Path(name).is_dir() and not constants.is_offline_mode():
        trouble = ask(kind, name, revision)
    if trouble is None:
        yield
        return
    logger.warning("%s does not answer (%s); looking for '%s' here", constants.ENDPOINT, trouble, name)
    with _offline():
        try:
            yield
        except Exception as error:
            found = f"{type(error).__name__}: {_first_line(error)}"
            raise OSError(f"{constants.ENDPOINT} does not answer ({trouble}), and no copy is here ({found})") from error


def ask(kind: str, name: str, revision: "str | None", tries: int = 2) -> "str | None":
    """Ask the hub for a repository; return why there was no answer.

    An answer that there is no such thing, or that it may not be had, is one: the clients find better words for it.
    ``HF_HUB_ETAG_TIMEOUT`` limits each try, to 10 seconds where it is not set.

    Raises:
        AlteredError: the hub has another commit under the name of the one that is asked for.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    trouble = None
    for attempt in range(tries):
        if attempt:
            time.sleep(1)
        try:
            limit = float(constants.HF_HUB_ETAG_TIMEOUT)
            found = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=limit)
        except HFValidationError:
            return None
        except HfHubHTTPError as error:
            if error.response.status_code < 500 and error.response.status_code != 429:
                return None
            trouble = f"status {error.response.status_code}"
        except Exception as error:  # a connection fails in many ways, each with a type of its own
            trouble = f"{type(error).__name__}: {_first_line(error)}"
        else:
            if revision and COMMIT.fullmatch(revision) and found.sha not in (revision, None):
                raise AlteredError(f"{constants.ENDPOINT} has commit {found.sha} under the name of {revision}")
            return None
    return trouble


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0][:200]


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Let the clients look only at what is here."""
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def check_snapshot(kind: str, name: str, commit: str) -> None:
    """Compare the files of a commit in the client's cache with their sums; what is altered is deleted.

    Raises:
        AlteredError: names the file, both sums and what to do.
    """
    from huggingface_hub import constants

    if not COMMIT.fullmatch(commit):
        return
    snapshot = Path(constants.HF_HUB_CACHE) / f"{FOLDERS[kind]}--{name.replace('/', '--')}" / "snapshots" / commit
    for path in sorted(path for path in snapshot.rglob("*") if path.is_file()):
        blob, file = path.resolve(), path.relative_to(snapshot).as_posix()
        found = hub_sum(blob, len(blob.name))
        if found is None:
            continue  # a copy without its hub's name, or a mirror with names of its own
        if found != blob.name:
            raise AlteredError(
                f"{file} at commit {commit} has the sum {found}, but the hub's is {blob.name}: it was changed on its "
                f"way ({constants.ENDPOINT}) or on the disk. {discard(blob)}"
            )
        check_known(kind, name, commit, file, found, blob)


def discard(path: Path) -> str:
    """Delete a file or folder of a cache, which is fetched or made anew then; return what is to be done now."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        return f"Delete {path}, which this process may not ({error.strerror}), and say the same command again"
    return "The copy here was deleted; say the same command again, which fetches it anew"


def check_prepared(name: str, data: Any) -> None:
    """Compare what the client prepared from a data set of the hub, and the files it did so from, with their sums.

    Args:
        name: the data set's id.
        data: one split, or all by name, as the client returns them.

    Raises:
        AlteredError: names the file, both sums and what to do.
    """
    from importlib.metadata import version

    made_by = f"datasets {version('datasets')}, pyarrow {version('pyarrow')}"  # another version may write other bytes
    prepared = []
    for split in data.values() if isinstance(data, dict) else [data]:
        for path in (Path(file["filename"]) for file in split.cache_files):
            places = [place for place, part in enumerate(path.parts) if COMMIT.fullmatch(part)]
            if places:  # others are from a folder, or were made in this process
                prepared.append((path.parts[places[-1]], path, "/".join(path.parts[max(0, places[-1] - 3) :])))
    for commit, path in {commit: path for commit, path, _ in prepared}.items():
        try:
            check_snapshot("dataset", name, commit)
        except AlteredError:
            discard(path.parent)  # it was made from altered files, and is used without them
            raise
    for commit, path, file in prepared:
        check_known("dataset", name, commit, f"{file} ({made_by})", sha256_file(path), path.parent)


def hub_sum(path: Path, digits: int) -> "str | None":
    """Return a file's sum as the hub names files: of as many digits, ``None`` where the hub has no such sums."""
    if digits == 64:
        return sha256_file(path)
    if digits != 40:
        return None
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)  # as git names it
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: digest).hexdigest()


def check_known(kind: str, name: str, commit: str, file: str, found: str, copy: Path) -> None:
    """Compare a sum with the one that was noted when the file was first used, and note it if it is the first.

    Args:
        kind: ``model`` or ``dataset``.
        name: id of the repository.
        commit: of the repository.
        file: what was summed.
        found: its sum.
        copy: what is to be deleted where the sums differ: which of the two is right nobody here knows.

    Raises:
        AlteredError: the sums differ.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HOME) / "moelora" / "sums" / FOLDERS[kind] / quote(name, safe="") / commit
    note = folder / quote(file, safe="")
    try:
        known = note.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        known = ""
    except (OSError, UnicodeDecodeError):
        return
    if not known:
        # a folder that cannot be written keeps no sums; two that note at once note the same or meet the next time
        with contextlib.suppress(OutputError):
            atomic_write_text(note, found + "\n")
    elif known != found:
        raise AlteredError(
            f"{file} at commit {commit} has the sum {found}, but had {known} when it was first used here, and a commit "
            f"does not change: the copy was damaged, or {constants.ENDPOINT} serves something else. {discard(copy)}; "
            f"if it was wrong the first time, delete {note} too"
        )
