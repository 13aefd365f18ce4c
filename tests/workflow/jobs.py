"""The jobs of a pipeline as the system sees them."""

import os

import psutil


def jobs_of(pid: int) -> list[psutil.Process]:
    """Return the jobs below a Snakemake: the Python processes, not the shells around them."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in below if verb(process)]


def jobs_in(session: int, every: bool = False) -> list[psutil.Process]:
    """Return the jobs of a session, or every process of it."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = os.getsid(process.pid) == session
        except (ProcessLookupError, PermissionError):
            continue
        if inside and (every or verb(process)):
            found.append(process)
    return found


def verb(process: psutil.Process) -> str:
    """Return the verb of moelora that a process carries out; empty where it does not."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    return words[3] if len(words) > 3 and words[1:3] == ["-m", "moelora"] else ""
