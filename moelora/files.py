"""Reading and writing files so that nothing half-written, and nothing changed since, is ever read.

A file is written beside its place under a temporary name, flushed to the disk and renamed. What a run or an allocation
leaves as JSON is sealed: it carries the SHA-256 of its own content, and whoever reads it is told when the two differ.
"""

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from moelora.errors import OutputError, RecordError
from moelora.strict_json import parse_json

SEAL = "content_sha256"  # the key of a sealed document that says what the rest of it should be


def canonical_json(document: Any) -> str:
    """Return the one JSON text of a document: sorted keys, no spaces, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pretty_json(document: Any) -> str:
    """Return readable JSON with sorted keys and a final newline.

    Raises:
        ValueError: the document holds NaN or infinity, which JSON cannot carry.
    """
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def atomic_file(path: "Path | str", flush: bool = True) -> Iterator[BinaryIO]:
    """Yield a file for bytes that takes its place once the block has ended without an error.

    The temporary name is never another process's: process numbers repeat on other machines and in containers.

    Args:
        path: the file.
        flush: wait until the disk has it. Without, a machine that loses its power may leave an empty or partial file.

    Raises:
        OutputError: the folder cannot be written or the disk is full; the original file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            yield handle
            handle.flush()
            if flush:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder itself may be the trouble, which the error names
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def unwritable(path: "Path | str", error: Exception) -> OutputError:
    """Return the error that says which file could not be written, why, and what to do."""
    reason = getattr(error, "strerror", None) or error
    return OutputError(
        f"cannot write {path}: {reason}; check that the folder exists, that you may write to it and that the disk has "
        "room, then give the same command again"
    )


def atomic_write_bytes(path: "Path | str", data: bytes, flush: bool = True) -> None:
    """Write bytes under a temporary name and rename them into place.

    Raises:
        OutputError: as :func:`atomic_file` says.
    """
    with atomic_file(path, flush) as handle:
        handle.write(data)


def atomic_write_text(path: "Path | str", text: str, flush: bool = True) -> None:
    """Write text as UTF-8, atomically (see :func:`atomic_write_bytes`)."""
    atomic_write_bytes(path, text.encode("utf-8"), flush)


def atomic_write_json(path: "Path | str", document: Any) -> None:
    """Write a document as readable JSON with sorted keys, atomically."""
    atomic_write_text(path, pretty_json(document))


def write_sealed_json(path: "Path | str", document: dict[str, Any]) -> None:
    """Write a document as readable JSON with the sum of its own content, atomically.

    :func:`read_json` compares the two and leaves the sum out of what it returns.
    """
    plain = json.loads(canonical_json(document))  # as it will be read: keys are texts, tuples are lists
    atomic_write_json(path, {**plain, SEAL: content_sum(plain)})


def content_sum(document: dict[str, Any]) -> str:
    """Return the SHA-256 of a document as JSON with sorted keys, no spaces and ASCII only: 64 hex digits."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_if_different(path: "Path | str", text: str) -> bool:
    """Write text only when the file does not already say it; return whether it was written.

    It is not waited for until the disk has it: whoever writes a file in this way compares it again the next time, and
    thousands of plans would wait for minutes.
    """
    path = Path(path)
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (OSError, UnicodeDecodeError):
        pass  # absent or unreadable: write it
    atomic_write_text(path, text, flush=False)
    return True


def read_json(path: "Path | str", kind: str = "file") -> Any:
    """Return the document in a JSON file; a sealed one is checked and comes without its seal.

    Raises:
        RecordError: the file is missing, unreadable, truncated, not JSON, or sealed and changed since; the message
            names it.
    """
    path = Path(path)
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{kind} {path} does not exist; run the step that writes it") from error
    except OSError as error:
        raise RecordError(
            f"{kind} {path} cannot be read: {error.strerror or error}; check its disk and mode"
        ) from error
    except ValueError as error:  # not UTF-8, not JSON, or JSON that says one thing twice
        raise RecordError(
            f"{kind} {path} is truncated or not JSON ({error}); delete it and run the step that writes it again"
        ) from error
    if isinstance(document, dict) and SEAL in document:
        said, found = document.pop(SEAL), content_sum(document)
        if said != found:
            raise RecordError(
                f"{kind} {path} was changed since it was written: its content has sha256 "
                f"{found[:12]}…, and it says {str(said)[:12]}…; delete it and run the step that writes "
                f"it again (a change that is meant goes without the key '{SEAL}')"
            )
    return document


def read_object(path: "Path | str", kind: str, keys: Mapping[str, type]) -> dict[str, Any]:
    """Return the object in a JSON file, after a look at the keys that the caller needs.

    Raises:
        RecordError: as `read_json`, or a key is missing or holds another kind of value; the message names both.
    """
    document = read_json(path, kind)
    if not isinstance(document, dict):
        raise RecordError(f"{kind} {path} holds a {type(document).__name__}, expected an object; make it again")
    for key, wanted in keys.items():
        if not isinstance(document.get(key), wanted):
            found = f"is a {type(document[key]).__name__}" if key in document else "is missing"
            raise RecordError(f"{kind} {path}: '{key}' {found}, expected a {wanted.__name__}; make the file again")
    return document


def sha256_file(path: "Path | str") -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def replace_folder(source: Path, target: Path) -> None:
    """Put a finished temporary folder in the place of an older one, once its files are on the disk.

    Two renames; a kill between them leaves the old folder under ``.<name>.<random>.old``, which the next call removes.
    The same becomes of what cannot be removed yet: a network file system keeps a file that is still open under another
    name, and with it the folder around it.

    Raises:
        OSError: a rename failed; the old folder is in its place, or under that name.
    """
    for path in source.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
    name = glob.escape(target.name)
    for leftover in (*target.parent.glob(f".{name}.old"), *target.parent.glob(f".{name}.*.old")):
        shutil.rmtree(leftover, ignore_errors=True)
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)
