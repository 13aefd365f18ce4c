"""The winner, the Pareto front, and how far a study is."""

import pytest
from studies import make_study, peak

from moelora.errors import RecordError
from moelora.search.ask import trials_of
from moelora.search.choose import choose, front, trials_document, winner_document
from moelora.search.outcome import Outcome
from moelora.search.show import progress_line, trials_text
from moelora.search.worker import work


def test_the_front_leaves_out_what_another_beats():
    points = {0: (0.9, 100), 1: (0.8, 50), 2: (0.7, 60), 3: (0.9, 100), 4: (0.95, 400), 5: (0.9, 120)}
    assert front(points, ["maximize", "minimize"]) == [0, 1, 3, 4]
    assert front({0: (3.0,), 1: (2.0,), 2: (3.0,)}, ["maximize"]) == [0, 2]
    assert front({0: (3.0,), 1: (2.0,)}, ["minimize"]) == [1]


def trial(number, state="complete", values=(0.5,), **more) -> dict:
    return {
        "number": number, "slot": number, "result": True, "state": state, "params": {"rank": 2},
        "values": list(values) if state == "complete" else None, "reason": None, "seconds": 10.0, **more,
    }  # fmt: skip


def study_of(*trials, objectives=("score",), directions=("maximize",), slots=None) -> dict:
    return {
        "study": "s", "searched": "lora-searched", "objectives": list(objectives), "directions": list(directions),
        "slots": slots or len(trials), "trials": list(trials),
    }  # fmt: skip


def test_the_best_score_wins_and_a_tie_goes_to_the_cheaper_then_the_earlier():
    assert choose(study_of(trial(0, values=[0.7]), trial(1, values=[0.9]), trial(2, values=[0.9])))["number"] == 1
    costly = [trial(0, values=[900, 0.9]), trial(1, values=[100, 0.9]), trial(2, values=[10, 0.2])]
    chosen = choose(
        study_of(*costly, objectives=["trainable_parameters", "score"], directions=["minimize", "maximize"])
    )
    assert chosen["number"] == 1


def test_pruned_and_failed_trials_cannot_win():
    found = study_of(trial(0, "pruned"), trial(1, values=[0.1]), trial(2, "fail"))
    assert choose(found)["number"] == 1
    with pytest.raises(RecordError, match=r"none of the 2 trials .* reasons: diverged"):
        choose(study_of(trial(0, "fail", reason="diverged"), trial(1, "fail", reason="diverged")))


def test_an_unfinished_study_has_no_winner():
    with pytest.raises(RecordError, match="1 of 3 results"):
        choose(study_of(trial(0), slots=3))


def test_the_winner_says_what_its_runs_take_over(tmp_path):
    study = make_study(tmp_path)
    work(study, lambda asked: Outcome(values={"score": peak(asked.values)}))
    document = trials_document(study, trials_of(study.open()))
    winner = choose(document)
    assert winner["values"][0] == max(peak(trial["params"]) for trial in document["trials"])
    said = winner_document(study, document, winner)
    assert said["settings"] == {"r": winner["params"]["rank"], "alpha": 2 * winner["params"]["rank"]}
    assert said["training"] == {"learning_rate": winner["params"]["rate"]}
    assert said["trial"] == winner["number"] and said["trials"] == 6 and said["study"] == study.name


def test_progress_says_best_failures_and_time_left():
    found = study_of(trial(0, values=[0.25]), trial(1, values=[0.75]), trial(2, "fail", reason="x"), slots=9)
    line = progress_line(found, busy=2)
    assert line == "search lora-searched: 3 of 9 trials, best score 0.7500 (trial 1), 1 failed, about 30 s left"
    assert progress_line(study_of(slots=2)) == "search lora-searched: 0 of 2 trials"
    lines = trials_text(found).splitlines()
    assert lines[0].split() == ["trial", "slot", "state", "score", "rank", "reason"]
    assert lines[3].split() == ["2", "2", "fail", "-", "2", "x"]
