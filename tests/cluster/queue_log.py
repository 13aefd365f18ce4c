"""What a queue showed while a test ran: a line of ``squeue`` for every change of a job, and what the test did."""

import platform
import re
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

from slurm import CPUS, PARTITION, Cluster

# number, state, CPUs, memory, time limit, cards, reason, rule and wildcards
COLUMNS = "JobID:.5,State:.11,NumCPUs:.5,MinMemory:.12,TimeLimit:.12,tres-per-job:.14,Reason:.20,Comment:.90"


def narrow(line: str) -> str:
    """Return a line of squeue with its last column, which is wide, close to the others."""
    return re.sub(r"\s+(\S+)\s*$", r"  \1", line)


class Watch(threading.Thread):
    """Ask ``squeue`` twice a second and write what changed, with the seconds since the start."""

    def __init__(self, cluster: Cluster, path: Path, title: str):
        super().__init__(daemon=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cluster, self._log = cluster, open(path, "w", encoding="utf-8")
        self._lock, self._ended, self._began = threading.Lock(), threading.Event(), time.monotonic()
        self._seen: dict[str, str] = {}
        slurm = cluster.command("scontrol", "--version").strip()
        self._write(title)
        self._write(
            f"{slurm}, Snakemake {version('snakemake')}, its plugin for SLURM "
            f"{version('snakemake-executor-plugin-slurm')}, Python {platform.python_version()}"
        )
        self._write(f"One node that says it has {CPUS} CPUs and four cards that only count; partition {PARTITION}.")
        self._write("Lines with a number are squeue's, written when one changed; lines with * say what was done.\n")

    def __enter__(self) -> "Watch":
        self._write(f"   time {narrow(self._cluster.command('squeue', '-t', 'all', '-O', COLUMNS).splitlines()[0])}")
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        self.join()
        self._look()
        self._log.close()

    def note(self, text: str) -> None:
        """Write what was done, or found."""
        with self._lock:
            self._write(f"{self._time()} * {text}")

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.wait(0.5):
            self._look()

    def _look(self) -> None:
        try:
            lines = self._cluster.command("squeue", "-h", "-t", "all", "-S", "i", "-O", COLUMNS).splitlines()
        except subprocess.SubprocessError:
            return  # the controller is busy; the next look sees the same
        with self._lock:
            for line in lines:
                number, state = line.split()[:2]
                if self._seen.get(number) != state and state != "COMPLETING":
                    self._seen[number] = state
                    self._write(f"{self._time()} {narrow(line)}")

    def _time(self) -> str:
        return f"{time.monotonic() - self._began:5.0f} s"

    def _write(self, line: str) -> None:
        print(line, file=self._log, flush=True)
        if sys.stdout.isatty():
            print(line, flush=True)
