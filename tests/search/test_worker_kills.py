"""A worker that is killed at random moments again and again ends with the study of one that was left alone."""

import random
import subprocess
from collections import Counter

import pytest
from studies import SEARCH, SPACE, make_study, peak
from workers import start, wait_until

from moelora.search.ask import trials_of
from moelora.search.choose import choose, trials_document
from moelora.search.outcome import Outcome
from moelora.search.tell import DIED
from moelora.search.worker import work

KILLS = 8
GRID = {"rate": {**SPACE["rate"], "points": 4}, "rank": SPACE["rank"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": {**SEARCH["sampler"], "name": "tpe"}},
        {"sampler": {**SEARCH["sampler"], "name": "grid"}, "space": GRID},
    ],
    ids=["tpe", "grid"],
)
def test_a_worker_killed_at_random_moments_ends_with_the_same_study(tmp_path, changes):
    changes |= {"trials": 12, "retries": KILLS}
    undisturbed = make_study(tmp_path / "undisturbed", **changes)
    work(undisturbed, lambda asked: Outcome(values={"score": peak(asked.values)}))
    expected = trials_document(undisturbed, trials_of(undisturbed.open()))

    study = make_study(tmp_path / "killed", **changes)
    log, moments = study.folder / "worker.log", random.Random(2)
    log.touch()
    for _ in range(KILLS):
        said = log.read_text()
        worker = start(study, log)
        try:
            wait_until(lambda worker=worker, said=said: worker.poll() is not None or log.read_text() != said)
            # asking, working and telling take about as long: all are hit
            worker.wait(timeout=moments.uniform(0, 0.8))
        except subprocess.TimeoutExpired:
            pass  # it is at work, as it should be
        finally:
            worker.kill()
            worker.wait()
    assert start(study, log).wait(timeout=300) == 0

    trials = trials_of(study.open())
    document = trials_document(study, trials)
    died = [trial for trial in document["trials"] if trial["state"] == "fail"]
    assert died and {trial["reason"] for trial in died} == {DIED}
    assert len(document["trials"]) == len(died) + study.slots
    results = Counter(trial["slot"] for trial in document["trials"] if trial["result"])
    assert results == Counter(range(study.slots))
    assert not study.leases.tokens()

    def of_slots(one):
        keys = ("slot", "params", "values", "seed", "state")
        found = [{key: trial[key] for key in keys} for trial in one["trials"] if trial["result"]]
        return sorted(found, key=lambda trial: trial["slot"])

    assert of_slots(document) == of_slots(expected)
    assert choose(document)["params"] == choose(expected)["params"]
