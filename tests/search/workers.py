"""Several workers on one study, of which one is killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from studies import peak

from moelora.search.ask import trials_of
from moelora.search.choose import trials_document

REPOSITORY = Path(__file__).parents[2]
SECONDS = "0.4"


def start(study, log: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, Path(__file__).with_name("cheap_worker.py"), study.folder / "study.json", log, SECONDS]
    return subprocess.Popen(command, env=environment)


def wait_until(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def in_a_trial(log: Path) -> bool:
    """Return whether a worker has begun more trials than it has ended, and has ended some."""
    text = log.read_text() if log.is_file() else ""
    return text.count("began") > text.count("ended") > 0


def finish_with_a_kill(study, workers: int = 4) -> str:
    """Let workers finish a study, one of them killed inside a trial; check the results and say what became of it."""
    logs = [study.folder / f"worker{index}.log" for index in range(workers)]
    processes = [start(study, log) for log in logs]
    try:
        wait_until(lambda: in_a_trial(logs[0]))
        os.kill(processes[0].pid, signal.SIGKILL)
        assert [process.wait(timeout=300) for process in processes] == [-signal.SIGKILL] + [0] * (workers - 1)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    trials = trials_of(study.open())
    document = trials_document(study, trials)
    results = [trial for trial in document["trials"] if trial["result"]]
    states = Counter(trial["state"] for trial in document["trials"])
    # one result a slot, none lost and none doubled
    assert sorted(trial["slot"] for trial in results) == list(range(study.slots))
    assert states["complete"] == study.slots and states["running"] == 0
    assert sorted(trial["number"] for trial in document["trials"]) == list(range(len(trials)))
    assert all(trial["values"] == [peak(trial["params"])] for trial in results)
    # what workers ended is what the study has, but for the trial in which one was killed; it was tried again
    ended = Counter(int(line.split()[2]) for log in logs for line in log.read_text().splitlines() if "ended" in line)
    failed = [trial for trial in document["trials"] if trial["state"] == "fail"]
    complete = {trial["number"] for trial in document["trials"] if trial["state"] == "complete"}
    assert set(ended.values()) == {1} and complete <= set(ended) <= complete | {trial["number"] for trial in failed}
    assert len(failed) == 1 and failed[0]["reason"] == "its worker ended without a word"
    (retried,) = [trial for trial in results if trial["slot"] == failed[0]["slot"]]
    assert retried["params"] == failed[0]["params"] and retried["number"] > failed[0]["number"]
    assert min(log.read_text().count("ended") for log in logs[1:]) > 0
    return (
        f"{workers} workers, one killed in trial {failed[0]['number']}: {len(results)} results of {study.slots}, "
        f"{len(trials)} trials, {dict(states)}; slot {failed[0]['slot']} was tried again as trial {retried['number']}"
    )
