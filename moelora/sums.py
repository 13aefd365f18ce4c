"""The sums of what a suite built for itself, kept beside it: data from a generator, base models from a seed.

Whoever reads such a file compares. A folder without sums, as older versions left it, is read as it is.
"""

from pathlib import Path

from moelora.errors import RecordError
from moelora.files import read_json, sha256_file, write_sealed_json

SUMS_FILE = "sums.json"


def folder_sums(folder: Path, pattern: str = "*") -> dict[str, str]:
    """Return path within a folder → SHA-256 of every file below it that matches; its own file of sums is left out."""
    paths = sorted(path for path in folder.rglob(pattern) if path.is_file() and path.name != SUMS_FILE)
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def write_sums(folder: Path) -> None:
    """Write the sums of all files below a folder; the last step of building it."""
    write_sealed_json(folder / SUMS_FILE, {"schema": 1, "files": folder_sums(folder)})


def check_sums(folder: "Path | str", *names: str) -> None:
    """Refuse files that were changed since they were built.

    Args:
        folder: what was built.
        names: paths within it that are to be read, or patterns of them; all of its files where none is named.

    Raises:
        RecordError: a file is missing or was changed, or the sums themselves were; says what to do.
    """
    folder = Path(folder)
    if not (folder / SUMS_FILE).is_file():
        return
    known = read_json(folder / SUMS_FILE, "sums")["files"]
    asked = {name: total for name, total in known.items() if not names or any(map(Path(name).match, names))}
    refuse_changed(folder, asked, f"delete the folder {folder} and build it again; the same bytes come out")


def refuse_changed(folder: Path, sums: dict[str, str], advice: str) -> None:
    """Compare files with the sums they should have.

    Raises:
        RecordError: one is missing, truncated or changed; names it and ends with the advice.
    """
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise RecordError(f"{path} is missing; {advice}")
        if (found := sha256_file(path)) != expected:
            raise RecordError(
                f"{path} is truncated or was changed since it was written: found sha256 {found[:12]}…, expected "
                f"{expected[:12]}…; {advice}"
            )
