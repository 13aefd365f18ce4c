"""Studies: asking, telling, retries, sweeps, seeds, samplers and resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies import PLAN, SEARCH, SPACE, make_study, peak

from moelora.errors import ConfigError, OutputError, RecordError
from moelora.search.ask import ask, open_slots, result, trials_of, tries
from moelora.search.outcome import Outcome
from moelora.search.study import open_study_file, study_document
from moelora.search.tell import DIED, sweep, tell
from moelora.search.worker import work


def score(asked) -> Outcome:
    return Outcome(values={"score": peak(asked.values)}, details={"seconds": 1.0})


def kill(study, lease) -> None:
    """Make a lease look as if its process had been killed."""
    owner = json.loads(lease.path.read_text())
    lease.path.write_text(json.dumps({**owner, "started": owner["started"] - 100}))


def ask_and_die(study, slot):
    lease = study.leases.claim(slot)
    asked = ask(study, slot, lease.token)
    kill(study, lease)
    return asked


def test_work_fills_every_slot_once(tmp_path):
    study = make_study(tmp_path)
    results = work(study, score)
    assert [trial.user_attrs["slot"] for trial in results] == list(range(6))
    assert len(trials_of(study.open())) == 6
    assert all(trial.values == [peak(trial.params)] for trial in results)
    assert results[0].user_attrs["details"] == {"seconds": 1.0}
    assert not study.leases.tokens()


def test_a_finished_study_is_not_worked_on_again(tmp_path):
    study = make_study(tmp_path)
    first = work(study, score)
    assert [trial.number for trial in work(open_study_file(tmp_path / "study.json"), score)] == [
        trial.number for trial in first
    ]
    assert len(trials_of(study.open())) == 6


def test_more_trials_go_on_with_the_same_study(tmp_path):
    study = make_study(tmp_path, trials=3)
    before = work(study, score)
    longer = make_study(tmp_path, trials=5)
    assert longer.name == study.name
    assert [trial.number for trial in work(longer, score)][:3] == [trial.number for trial in before]
    assert len(trials_of(longer.open())) == 5


def test_another_space_or_method_is_another_study(tmp_path):
    study = make_study(tmp_path)
    other = make_study(tmp_path, space={"rank": SPACE["rank"]})
    search = {"search": SEARCH, "allocation": {}, "run_seeds": []}
    names = {
        study_document(search, PLAN, sensitivities=[], sources=sources, fingerprint=code)["name"]
        for sources, code in (("", "a"), ("", "b"), ("x", "a"))
    }
    assert study.name != other.name and len(names) == 3
    assert not trials_of(other.open())


def test_seeds_come_from_the_study_and_the_slot_and_are_no_runs(tmp_path):
    study = make_study(tmp_path)
    seeds = [study.trial_seed(number) for number in range(50)]
    assert len(set(seeds)) == 50
    assert seeds == [make_study(tmp_path / "again").trial_seed(number) for number in range(50)]
    assert seeds != [make_study(tmp_path / "other", seed=4).trial_seed(number) for number in range(50)]
    study.document["run_seeds"].append(seeds[7])
    assert study.trial_seed(7) != seeds[7] and study.trial_seed(8) == seeds[8]
    assert [t.user_attrs["seed"] for t in work(study, score)] == [study.trial_seed(number) for number in range(6)]


@pytest.mark.slow
def test_gaussian_process_takes_several_objectives_and_conditions(tmp_path):
    pytest.importorskip("torch", reason="Optuna's Gaussian process needs torch")
    study = make_study(
        tmp_path, objectives=["score", "step_seconds"], trials=6, sampler={**SEARCH["sampler"], "name": "gp"}
    )

    def both(asked):
        return Outcome(values={"score": peak(asked.values), "step_seconds": 0.1 * asked.values["rank"]})

    results = work(study, both)
    assert [trial.state.name for trial in results] == ["COMPLETE"] * 6
    assert len({tuple(trial.params.items()) for trial in results}) == 6
    assert all(("percentile" in t.params) is (t.params["strategy"] == "smoe_percentile") for t in results)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_jobs_of_one_worker_repeat_and_do_not_suggest_the_same_twice(tmp_path, sampler):
    def suggested(folder):
        study = make_study(folder, sampler={**SEARCH["sampler"], "name": sampler}, trials=12)
        return [trial.params for trial in work(study, score)]

    one, again = suggested(tmp_path / "one"), suggested(tmp_path / "again")
    assert one == again
    assert len({values["rate"] for values in one[:4]}) == 4  # later ones may be crossed from these


def test_grid_gives_each_slot_its_own_point(tmp_path):
    space = {"rate": {**SPACE["rate"], "points": 2}, "rank": SPACE["rank"]}
    study = make_study(tmp_path, space=space, sampler={**SEARCH["sampler"], "name": "grid"}, trials=None)
    assert study.slots == 6
    found = [trial.params for trial in work(study, score)]
    assert found == study.grid
    assert {(values["rate"], values["rank"]) for values in found} == {(a, b) for a in (1e-4, 1e-2) for b in (2, 4, 8)}


def test_a_trial_whose_worker_died_is_failed_and_tried_again_with_its_values(tmp_path):
    study = make_study(tmp_path, trials=1)
    dead = ask_and_die(study, 0)
    (won,) = work(study, score)
    assert won.number == 1 and won.params == dict(dead.values) and won.state.name == "COMPLETE"
    assert won.user_attrs["seed"] == dead.seed
    first = trials_of(study.open())[0]
    assert first.state.name == "FAIL" and first.user_attrs["reason"] == DIED


def test_a_worker_that_died_while_it_asked_decides_nothing(tmp_path):
    study, undisturbed = make_study(tmp_path / "killed", trials=2), make_study(tmp_path / "whole", trials=2)
    lease = study.leases.claim(0)
    trial = study.open(slot=0).ask()
    trial.set_user_attr("lease", lease.token)
    trial.set_user_attr("slot", 0)
    trial.suggest_float("rate", 1e-4, 1e-2, log=True)  # of at least three values
    kill(study, lease)
    assert [one.params for one in work(study, score)] == [one.params for one in work(undisturbed, score)]
    assert len(trials_of(study.open())) == 3


def test_a_trial_that_kills_its_workers_ends_as_failed(tmp_path):
    study = make_study(tmp_path, trials=2, retries=1)
    for _ in range(2):
        ask_and_die(study, 0)
        assert sweep(study)
    assert open_slots(trials_of(study.open()), study) == [1]
    results = work(study, score)
    assert [trial.state.name for trial in results] == ["FAIL", "COMPLETE"]
    assert len(tries(trials_of(study.open()), 0)) == 2


def test_an_error_of_the_trial_is_its_result(tmp_path):
    study = make_study(tmp_path, trials=2)

    def fails(asked):
        if asked.slot == 0:
            raise ConfigError("no such rank")
        raise ZeroDivisionError("by zero")

    results = work(study, fails)
    assert [trial.user_attrs["reason"] for trial in results] == [
        "ConfigError: no such rank",
        "ZeroDivisionError: by zero",
    ]
    assert len(trials_of(study.open())) == 2


@pytest.mark.parametrize("error", [OutputError("disk full"), KeyboardInterrupt()])
def test_what_is_not_the_trials_fault_is_called_off_and_does_not_count(tmp_path, error):
    study = make_study(tmp_path, trials=1, retries=0)

    def stopped(asked):
        raise error

    for _ in range(3):
        with pytest.raises(type(error)):
            work(study, stopped)
    (won,) = work(study, score)
    trials = trials_of(study.open())
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert all(trial.params == won.params for trial in trials)


def test_a_worker_taken_for_dead_cannot_make_a_second_result(tmp_path):
    study = make_study(tmp_path, trials=1)
    lease = study.leases.claim(0)
    asked = ask(study, 0, lease.token)
    kill(study, lease)
    (won,) = work(study, score)
    assert not tell(study, asked.number, Outcome(values={"score": 99.0}))
    assert result(trials_of(study.open()), 0, 1).number == won.number == 1
    assert trials_of(study.open())[0].values is None


def test_a_sweep_leaves_living_trials_alone(tmp_path):
    study = make_study(tmp_path)
    with study.leases.claim(2) as lease:
        asked = ask(study, 2, lease.token)
        assert sweep(study) == []
        assert study.leases.claim(2) is None
        assert study.leases.tokens() == {lease.token: True}
    assert sweep(study) == [asked.number]  # its lease was given back, and nothing was told


def test_a_lease_of_another_machine_dies_of_age(tmp_path):
    study = make_study(tmp_path)
    lease = study.leases.claim(0)
    asked = ask(study, 0, lease.token)
    lease.path.write_text(json.dumps({"slot": 0, "place": "elsewhere", "pid": 1, "started": 0.0}))
    assert study.leases.tokens() == {lease.token: True}
    os.utime(lease.path, (time.time() - 61, time.time() - 61))
    assert sweep(study) == [asked.number]
    assert study.leases.tokens() == {}


def test_a_lease_is_renewed_while_its_worker_works(tmp_path):
    study = make_study(tmp_path, lease_seconds=0.2)
    with study.leases.claim(0) as lease:
        os.utime(lease.path, (1, 1))
        for _ in range(100):
            if lease.path.stat().st_mtime > 1:
                break
            time.sleep(0.05)
        assert study.leases.tokens() == {lease.token: True}


def test_a_trial_that_never_named_its_lease_is_failed_when_a_lease_would_be_dead(tmp_path):
    study = make_study(tmp_path, lease_seconds=0.05)
    number = study.open().ask().number
    time.sleep(0.1)
    assert sweep(study) == [number]
    patient = make_study(tmp_path / "patient")
    patient.open().ask()
    assert sweep(patient) == []


def test_pruned_trials_are_results(tmp_path):
    study = make_study(tmp_path, trials=1)

    def pruned(asked):
        asked.trial.report(0.25, 10)
        return Outcome(pruned=True, reason="pruned at step 10 of 20")

    (won,) = work(study, pruned)
    assert won.state.name == "PRUNED" and won.intermediate_values == {10: 0.25}


def test_values_must_be_those_of_the_objectives(tmp_path):
    study = make_study(tmp_path, objectives=["score", "trainable_parameters"])
    asked = ask_and_die(study, 0)
    with pytest.raises(ConfigError, match="trainable_parameters"):
        tell(study, asked.number, Outcome(values={"score": 1.0}))
    with pytest.raises(ConfigError, match="no trial 7"):
        tell(study, 7, Outcome(values={"score": 1.0, "trainable_parameters": 3.0}))


def test_a_score_that_is_no_number_is_a_failure_with_a_reason(tmp_path):
    study = make_study(tmp_path, trials=1, retries=0)
    (failed,) = work(study, lambda asked: Outcome(values={"score": float("nan")}, details={"loss": float("inf")}))
    assert failed.state.name == "FAIL" and failed.user_attrs["reason"] == "score is nan"
    assert failed.user_attrs["details"] == {"loss": None}


def test_a_worker_that_dies_while_it_tells_leaves_no_result(tmp_path):
    study = make_study(tmp_path, trials=1)
    asked = ask_and_die(study, 0)
    asked.trial.set_user_attr("final", True)
    asked.trial.set_user_attr("reason", "diverged")
    assert open_slots(trials_of(study.open()), study) == [0]
    assert sweep(study) == [asked.number]
    assert result(trials_of(study.open()), 0, 1).user_attrs["reason"] == "diverged"


def test_sqlite_is_for_one_worker(tmp_path):
    study = make_study(tmp_path, storage="sqlite:///study.db", trials=2)
    with study.leases.claim(0), pytest.raises(ConfigError, match="SQLite, which is refused for more than one worker"):
        work(study, score)
    assert len(work(study, score)) == 2


def test_a_study_that_is_not_there_is_named(tmp_path):
    study = make_study(tmp_path)
    document = {**study.document, "name": "other"}
    (tmp_path / "study.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="has no study 'other'"):
        open_study_file(tmp_path / "study.json").open()
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(RecordError, match="is no study"):
        open_study_file(tmp_path / "study.json")


@pytest.mark.parametrize("torn", [b'{"op_code":6,"trial_id', b"x" * 10_000])
def test_a_line_that_was_cut_short_spoils_no_other(tmp_path, torn):
    """A worker that is killed while it writes, or a disk that is full, leaves a line without its end."""
    study = make_study(tmp_path, trials=3)
    work(study, score, slots=[0])
    with open(tmp_path / "journal.log", "ab") as journal:
        journal.write(torn)
    results = work(open_study_file(tmp_path / "study.json"), score)
    assert [trial.values for trial in results] == [[peak(trial.params)] for trial in results]
    lines = (tmp_path / "journal.log").read_bytes().splitlines(keepends=True)
    assert all(json.loads(line) and line.endswith(b"\n") for line in lines)


@pytest.mark.parametrize("lock", ["journal.log.lock", "leases/NAME/claims.lock"])
def test_a_lock_that_a_killed_worker_left_is_overruled(tmp_path, monkeypatch, lock):
    """Whatever path the study was named by: the lock points to what it locks, and Optuna follows it."""
    monkeypatch.setattr("moelora.search.leases.GRACE_SECONDS", 1)
    name = make_study(tmp_path / "search", trials=1).name
    monkeypatch.chdir(tmp_path)
    dying = (
        "import os, sys; from pathlib import Path; from moelora.search.study import open_study_file\n"
        "study = open_study_file(Path('search/study.json'))\n"
        "lock = study.leases.lock() if 'claims' in sys.argv[1] else study.storage._backend._lock\n"
        "lock.acquire() if hasattr(lock, 'acquire') else lock.__enter__(); os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", dying, lock], env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == -signal.SIGKILL and Path("search", lock.replace("NAME", name)).is_symlink()
    assert len(work(open_study_file("search/study.json"), score)) == 1


def test_a_journal_of_nothing_but_a_torn_line_is_empty(tmp_path):
    (tmp_path / "journal.log").write_bytes(b'{"op_code"')
    assert len(work(make_study(tmp_path, trials=1), score)) == 1


def test_a_damaged_journal_is_named(tmp_path):
    make_study(tmp_path)
    with open(tmp_path / "journal.log", "a") as journal:
        journal.write('{"op_code": \n{"op_code": 1}\n')
    with pytest.raises(RecordError, match=r"journal .*journal\.log is damaged"):
        open_study_file(tmp_path / "study.json").open()
