"""Kill a pipeline again and again, let it finish, and compare what it leaves with an undisturbed run.

    python tests/faults/campaign.py --kills 100 --log kills.jsonl

It works in a copy of the checkout in a temporary folder. An undisturbed run of the suite gives the reference. Then
Snakemake is started and killed at random moments: Snakemake alone, so that its jobs are orphans that go on writing; one
job; or everything at once. After each kill of Snakemake the lock is removed with the documented command, and the
pipeline is started again at once. A pipeline that finishes between two kills ends a round: its results are compared
with the reference, then deleted, and the next round begins with nothing. After the last kill it finishes undisturbed
and is compared too. The log has one JSON document a line; the last is the summary. The exit status is 1 where anything
differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))
sys.path.insert(0, str(Path(__file__).parent))

import psutil
from checkouts import Checkout
from jobs import jobs_in, jobs_of, verb
from same_results import differences, left_over, products
from small import shrink

KINDS = ("snakemake", "job", "everything")
VARIANTS = ["majority", "lora", "mixlora", "lora_smoe"]


class Campaign:
    """Kills of the pipeline in one checkout.

    Args:
        checkout: a copy of the repository that is this campaign's own.
        suite: name of the suite that runs.
        seed: of the moments, the kinds and the victims.
        mean: seconds between two kills, on average, as long as the pipeline gets on.
        log: where the log goes, one JSON document a line.
    """

    def __init__(self, checkout: Checkout, suite: str, seed: int, mean: float, log: Path):
        self.checkout, self.suite, self.log = checkout, suite, log
        self.random = random.Random(seed)
        self.base = self.mean = mean
        self.results = checkout.path / "results" / suite
        self.reference = checkout.path / "reference"
        self.output = checkout.path / "output.txt"
        self.sessions: set[int] = set()
        self.kinds: list[str] = []
        self.counts: Counter = Counter()
        self.mismatches: list[str] = []
        self.troubles: list[str] = []
        self.left_over: set[str] = set()
        self.furthest = 0
        self.job_was_killed = False
        self.pipeline: subprocess.Popen | None = None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")

    def say(self, event: str, **details: Any) -> None:
        """Add a line to the log."""
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **details}) + "\n")

    def make_reference(self) -> None:
        """Let the suite run undisturbed and put its results aside."""
        began = time.monotonic()
        self.checkout.snakemake()
        self.results.rename(self.reference)
        self.wipe()
        self.say("reference", products=len(products(self.reference)), seconds=round(time.monotonic() - began, 1))

    def wipe(self) -> None:
        """Delete all that a pipeline left, and what Snakemake remembers of it."""
        for name in ("results/" + self.suite, "reports", ".snakemake"):
            shutil.rmtree(self.checkout.path / name, ignore_errors=True)
        self.furthest = 0

    def disturb(self, kills: int, minutes: float) -> None:
        """Kill until there were so many kills, or so many minutes have passed."""
        end = time.monotonic() + 60 * minutes
        self.start()
        while self.number < kills and time.monotonic() < end:
            moment = min(self.random.expovariate(1 / self.mean), 4 * self.mean)
            try:
                self.pipeline.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                self.kill(moment)
            else:
                self.after_the_end(self.pipeline.returncode)
                self.start()
        if self.pipeline.poll() is None:
            self.end_of_all(signal.SIGKILL, self.pipeline)
            self.counts["everything"] += 1
            self.say("kill", number=self.number, kind="everything", done=self.furthest)

    @property
    def number(self) -> int:
        """How many kills there were."""
        return sum(self.counts[kind] for kind in KINDS)

    def start(self) -> None:
        """Start the pipeline; its session is remembered, so that its orphans can be found."""
        self.pipeline = self.checkout.start(self.output)
        self.sessions.add(self.pipeline.pid)
        self.job_was_killed = False
        self.counts["starts"] += 1

    def kill(self, moment: float) -> None:
        """Kill something of the pipeline, and begin again where that ended it."""
        if not self.kinds:
            self.kinds = self.random.sample(KINDS, len(KINDS))  # all kinds, equally often
        kind = self.kinds.pop()
        jobs = jobs_of(self.pipeline.pid)
        verbs = sorted(filter(None, map(verb, jobs)))
        if kind != "everything" and not jobs:
            self.kinds.append(kind)  # its turn comes when there is a job, to be killed or orphaned
            return
        if kind == "job":
            victim = self.random.choice(jobs)
            verbs = [verb(victim)]
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                return
            self.job_was_killed = True
        elif kind == "snakemake":
            os.kill(self.pipeline.pid, signal.SIGKILL)
            self.pipeline.wait()
        else:
            self.end_of_all(signal.SIGKILL, self.pipeline)
        self.counts[kind] += 1
        self.adapt()
        self.say("kill", number=self.number, kind=kind, after=round(moment, 2), at_work=verbs, done=self.furthest)
        if kind != "job":
            self.begin_again()

    def adapt(self) -> None:
        """Wait longer for the next kill where the pipeline did not get on since the last, so that it ends some day."""
        done = len(products(self.results)) if self.results.is_dir() else 0
        self.mean = self.base if done > self.furthest else self.mean * 1.2
        self.furthest = max(done, self.furthest)

    def begin_again(self) -> None:
        """Say what the documents say after a kill: unlock, then the same command."""
        orphans = self.orphans()
        unlocked = self.checkout.snakemake("--unlock", check=False)
        if "Unlocked" not in unlocked:
            self.trouble("--unlock did not work", unlocked)
        if orphans:
            self.counts["restarts beside orphans"] += 1
        self.start()

    def after_the_end(self, status: int) -> None:
        """Look at a pipeline that ended by itself: a round is over, or a job that was killed kept it from finishing."""
        if status == 0:
            self.round_over()
        elif self.job_was_killed:
            self.counts["ends after the kill of a job"] += 1
        else:
            self.trouble(f"the pipeline ended with {status} though nothing of it was killed", self.output.read_text())

    def round_over(self) -> None:
        """Compare finished results with the reference and begin with nothing."""
        self.compare()
        self.wipe()
        self.mean = self.base

    def finish(self) -> None:
        """Let the pipeline finish undisturbed after the last kill, and compare."""
        unlocked = self.checkout.snakemake("--unlock", check=False)
        if "Unlocked" not in unlocked:
            self.trouble("--unlock did not work", unlocked)
        self.start()
        if self.pipeline.wait():
            self.trouble("the undisturbed finish failed", self.output.read_text())
        self.compare()
        again = self.checkout.snakemake("-n", check=False)
        if "Nothing to be done" not in again:
            self.trouble("after the finish there is still something to do", again)

    def compare(self) -> None:
        """Compare the finished results with the reference, and note how often their runs were resumed."""
        # what is at work now would be an orphan that was not waited for
        if orphans := self.orphans():
            self.trouble("jobs outlive a pipeline that finished", " ".join(orphans[0].cmdline()))
        found = differences(self.results, self.reference)
        resumed = [resumes(path) for path in sorted(self.results.rglob("record.json"))]
        left = left_over(self.results)
        self.left_over |= set(left)
        self.mismatches += found
        self.counts["rounds"] += 1
        self.counts["resumes"] += sum(resumed)
        self.counts["records compared"] += len(resumed)
        self.counts["products compared"] += len(products(self.results))
        self.say("compared", round=self.counts["rounds"], records=len(resumed), resumes=sum(resumed),
                 mismatches=found, left_over=left)  # fmt: skip

    def trouble(self, what: str, output: str) -> None:
        """Note what should not have happened."""
        self.troubles.append(what)
        self.say("trouble", what=what, output=output[-3000:].replace(str(self.checkout.path), "."))

    def orphans(self) -> list[psutil.Process]:
        """Return the jobs that go on though their pipeline is gone."""
        current = self.pipeline.pid if self.pipeline.poll() is None else None
        found = []
        for session in self.sessions - {current}:
            found += jobs_in(session)
        return found

    def end_of_all(self, kind: signal.Signals, pipeline: subprocess.Popen) -> None:
        """Send a signal to everything in a pipeline's session."""
        try:
            os.killpg(pipeline.pid, kind)
        except ProcessLookupError:
            pass  # it has ended meanwhile
        pipeline.wait()

    def clean_up(self) -> None:
        """End every process that this campaign started."""
        for session in self.sessions:
            for process in jobs_in(session, every=True):
                process.kill()
        if self.pipeline is not None:
            self.pipeline.wait()

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the campaign."""
        return {
            "kills": self.number,
            "kills_by_kind": {kind: self.counts[kind] for kind in KINDS},
            **{key.replace(" ", "_"): self.counts[key] for key in (
                "starts", "restarts beside orphans", "ends after the kill of a job", "rounds", "resumes",
                "records compared", "products compared",
            )},
            "mismatches": len(self.mismatches),
            "troubles": len(self.troubles),
            "left_over": sorted(self.left_over),
        }  # fmt: skip


def resumes(record: Path) -> int:
    """Return how often a run was resumed."""
    return (json.loads(record.read_text(encoding="utf-8"))["training"] or {}).get("resumed", 0)


def run_campaign(checkout: Checkout, *, suite: str, kills: int, minutes: float, seed: int, mean: float, log: Path):
    """Carry out a campaign and return it; its processes are gone then."""
    campaign = Campaign(checkout, suite, seed, mean, log)
    try:
        campaign.make_reference()
        campaign.disturb(kills, minutes)
        campaign.finish()
    finally:
        campaign.clean_up()
    campaign.say("summary", seed=seed, mean=mean, **campaign.summary())
    return campaign


def shrink_for_kills(checkout: Checkout, variants: list[str], **changes: Any) -> None:
    """Make the suite small, but with jobs of several runs and with training that can be interrupted between states."""
    shrink(checkout, variants, regimes={"published": {"seeds": [0, 1]}}, jobs={"carry": ["seed"]}, **changes)
    path = checkout.path / "workflow/config/suites/tiny.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in (("max_steps: 6", "max_steps: 60"), ("checkpoint_every_steps: 3", "checkpoint_every_steps: 10")):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=120, help="after which no more is killed (default: 120)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mean", type=float, default=12, help="seconds between kills (default: 12)")
    parser.add_argument("--whole", action="store_true", help="the whole suite tiny instead of a small form of it")
    parser.add_argument("--log", type=Path, default=Path("results/kills.jsonl"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moelora-kills-", ignore_cleanup_errors=True) as folder:
        checkout = Checkout(Path(folder) / "checkout")
        if not options.whole:
            shrink_for_kills(checkout, VARIANTS)
        campaign = run_campaign(
            checkout, suite="tiny", kills=options.kills, minutes=options.minutes, seed=options.seed, mean=options.mean,
            log=options.log,
        )  # fmt: skip
    print(json.dumps(campaign.summary(), indent=1))
    for line in (*campaign.mismatches, *campaign.troubles):
        print(line, file=sys.stderr)
    return 1 if campaign.mismatches or campaign.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
