"""A SLURM of one node for tests: controller, node and authentication as processes of the test, on ports of their own.

It needs root and Debian's packages slurm-wlm and munge. Nothing outside its folder is written, and nothing else that
runs on the machine is touched. It has no accounting, as a small cluster may not, and books cards that are none.
"""

import contextlib
import dataclasses
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol")
CPUS, MEGABYTES = 8, 64_000  # said to be there: jobs wait for each other less; what they really use is small
CARDS = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
)  # a card must have a file; these count and compute nothing
PARTITION = "short"
COLUMNS = ("JobID", "State", "TimeLimit", "MinMemory", "tres-per-job", "Comment", "Name")

CONFIGURATION = """\
ClusterName=moelora
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=5,batch_sched_delay=0,sched_min_interval=0
MinJobAge=3600
KillWait=2
DefMemPerCPU=500
EnforcePartLimits=ALL
MailProg=/bin/true
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes} Gres=gpu:fake:{cards} State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime=24:00:00 State=UP
"""


def why_not() -> "str | None":
    """Return why no SLURM can be started here, or nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install --no-install-recommends slurm-wlm munge"
    if os.geteuid() != 0:
        return "a SLURM of the test's own can only be started by root"
    return None


@dataclasses.dataclass(frozen=True)
class Job:
    """A job as ``squeue`` has it, finished ones included."""

    number: str
    state: str
    minutes: str
    megabytes: str
    cards: str
    comment: str
    name: str

    @property
    def over(self) -> bool:
        """Return whether the job neither waits nor runs."""
        return self.state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED")


class Cluster:
    """A SLURM of one node in a fresh folder; a context manager that stops what it started."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.processes: list[subprocess.Popen] = []

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which SLURM's commands reach this cluster."""
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> "Cluster":
        try:
            self._write()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            for job in self.jobs():
                if not job.over:
                    self.command("scancel", job.number)
        self._stop()

    def command(self, *words: str, seconds: float = 30) -> str:
        """Return what a command of SLURM printed; its time is limited, since what cannot be had is waited for."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[Job]:
        """Return all jobs since the start, in order."""
        shown = self.command("squeue", "-h", "-t", "all", "-O", ",".join(f"{column}:250|" for column in COLUMNS))
        rows = [[cell.strip() for cell in line.split("|")[: len(COLUMNS)]] for line in shown.splitlines()]
        return sorted((Job(*row) for row in rows), key=lambda job: int(job.number))

    def _write(self) -> None:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            ports = one.getsockname()[1], two.getsockname()[1]
        self.host = socket.gethostname().split(".")[0]
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=self.host, ports=ports, folder=self.folder, cpus=CPUS, megabytes=MEGABYTES, cards=len(CARDS),
                partition=PARTITION,
            )
        )  # fmt: skip
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName={self.host} Name=gpu Type=fake File={path}\n" for path in CARDS)
        )
        # The plugin clears SLURM_CONF inside a job, where its own srun then looks for /etc/slurm.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(srun.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def _start(self) -> None:
        at = str(self.folder)
        self._run(
            "munged", "--foreground", "--force", f"--key-file={at}/munge.key", f"--socket={at}/munge.sock",
            f"--pid-file={at}/munged.pid", f"--log-file={at}/munged.log", f"--seed-file={at}/munged.seed",
        )  # fmt: skip
        self._wait(lambda: (self.folder / "munge.sock").exists(), "munged")
        self._run("slurmctld", "-D", "-i")
        self._run("slurmd", "-D", "-N", self.host)
        self._wait(lambda: self.command("sinfo", "-h", "-o", "%t").strip() == "idle", "the node")

    def _run(self, *words: str) -> None:
        with open(self.folder / f"{words[0]}.out", "w") as out:
            # should the test itself be killed, they end with it
            command = ["setpriv", "--pdeathsig", "TERM", *words]
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def _wait(self, there, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.SubprocessError):
                if there():
                    return
            if time.monotonic() > deadline or any(process.poll() is not None for process in self.processes):
                logs = "\n".join(path.read_text()[-800:] for path in sorted(self.folder.glob("*.out")))
                raise RuntimeError(f"{what} of the test's SLURM did not come up\n{logs}")
            time.sleep(0.1)

    def _stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
