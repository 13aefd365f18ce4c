"""Say under which licences the locked packages come, and which known advisories speak of them. It never fails.

Licences are read from the metadata of the packages as they are installed here. Advisories are looked up by pip-audit,
the one on the path or one in a throw-away environment; that needs the network, and where it cannot be done in time the
answer is "not checked".
"""

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
UNKNOWN = "not stated"
SHORT = 60
"""Characters of a licence field; a longer one is the whole text of a licence, not its name."""


def locked(path: Path = LOCK) -> dict[str, str]:
    """Return the locked packages with their versions."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def licence_of(name: str) -> str:
    """Return the licence that an installed package states, in its own words."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed here"
    stated = metadata.get("License-Expression") or ""
    if not stated:
        classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
        words = [line.rpartition(" :: ")[2] for line in classifiers]
        stated = ", ".join(sorted({word for word in words if word != "OSI Approved"}))
    field = (metadata.get("License") or "").strip()
    return stated or (field if field and len(field) <= SHORT and "\n" not in field else UNKNOWN)


def licences(names: list[str]) -> dict[str, list[str]]:
    """Return licence → packages, both sorted."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(licence_of(name), []).append(name)
    return dict(sorted(found.items()))


def run(command: list[str], deadline: float) -> tuple[int, str]:
    """Run a command until it ends or the time is up; return its exit code, -1 for the latter, and what it said."""
    left = deadline - time.monotonic()
    if left <= 0:
        return -1, "the time is up"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=left, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return -1, "the time is up"
    except OSError as error:
        return -1, str(error)
    return done.returncode, (done.stdout + done.stderr).strip()


def advisories(seconds: float, tool: "list[str] | None" = None) -> str:
    """Return what pip-audit finds, or why it was not checked.

    Args:
        seconds: after which it is given up.
        tool: the command of pip-audit; None looks for it, or installs it for the moment.
    """
    deadline = time.monotonic() + seconds
    if tool is None and (there := shutil.which("pip-audit")):
        tool = [there]
    with tempfile.TemporaryDirectory() as folder:
        if tool is None:
            python = Path(folder) / "bin" / "python"
            for step in (
                [sys.executable, "-m", "venv", folder],
                [str(python), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "10", "pip-audit"],
            ):
                code, said = run(step, deadline)
                if code:
                    return f"not checked: pip-audit cannot be installed ({last_line(said)})"
            tool = [str(python), "-m", "pip_audit"]
        options = [
            "--requirement",
            str(LOCK),
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--timeout",
            "10",
        ]
        code, said = run([*tool, *options], deadline)
    if code == 0 or (code == 1 and "known vulnerabilit" in said):
        return said or "no known vulnerabilities found"
    return f"not checked: {last_line(said)}"


def last_line(text: str) -> str:
    """Return the last line of a text, cut where it is long."""
    return (text.splitlines() or ["no answer"])[-1].strip()[:200]


def main() -> int:
    """Print both; the exit code is 0 whatever they say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="for the advisories (default: %(default)s)")
    options = parser.parse_args()
    print("Licences of the locked packages, as they state them:")
    for licence, names in licences(list(locked())).items():
        print(f"  {licence}: {', '.join(names)}")
    print("Advisories about the locked packages, for information:")
    print("  " + advisories(options.seconds).replace("\n", "\n  "), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
