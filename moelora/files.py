"""Reading and writing files so that nothing half-written is ever read.

A file is written beside its place under a temporary name, flushed to the disk and renamed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.errors import OutputError, RecordError
from moelora.strict_json import parse_json


def canonical_json(document: Any) -> str:
    """Return the one JSON text of a document: sorted keys, no spaces, no NaN."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pretty_json(document: Any) -> str:
    """Return readable JSON with sorted keys and a final newline.

    Raises:
        ValueError: the document holds NaN or infinity, which JSON cannot carry.
    """
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def atomic_write_bytes(path: "Path | str", data: bytes) -> None:
    """Write bytes under a temporary name and rename them into place.

    Raises:
        OutputError: the folder cannot be written or the disk is full; the original file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is the trouble, which the error below names
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; "
            "check that the folder exists, that you may write to it and that the disk has room"
        ) from error


def atomic_write_text(path: "Path | str", text: str) -> None:
    """Write text as UTF-8, atomically (see :func:`atomic_write_bytes`)."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: "Path | str", document: Any) -> None:
    """Write a document as readable JSON with sorted keys, atomically."""
    atomic_write_text(path, pretty_json(document))


def write_if_different(path: "Path | str", text: str) -> bool:
    """Write text only when the file does not already say it; return whether it was written."""
    path = Path(path)
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (OSError, UnicodeDecodeError):
        pass  # absent or unreadable: write it
    atomic_write_text(path, text)
    return True


def read_json(path: "Path | str", kind: str = "file") -> Any:
    """Return the document in a JSON file.

    Raises:
        RecordError: the file is missing, cannot be read, is truncated or not JSON; the message names it.
    """
    path = Path(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{kind} {path} does not exist; run the step that writes it") from error
    except OSError as error:
        raise RecordError(f"{kind} {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, not JSON, or JSON that says one thing twice
        raise RecordError(
            f"{kind} {path} is truncated or not JSON ({error}); delete it and run the step that writes it again"
        ) from error


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
    """Put a finished temporary folder in the place of an older one.

    Two renames; a kill between them leaves the old folder under ``.<name>.old``, which the next call removes.
    """
    old = target.with_name(f".{target.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    if old.exists():
        shutil.rmtree(old)
