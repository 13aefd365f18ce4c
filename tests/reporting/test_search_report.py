"""The report of a search, from a study that was searched here."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="the search needs optuna: pip install moelora[search]")
sys.path.insert(0, str(Path(__file__).parents[1] / "search"))

from studies import make_study, peak

from moelora.errors import RecordError
from moelora.reporting import figures, render, search
from moelora.search.ask import trials_of
from moelora.search.choose import trials_document
from moelora.search.outcome import Outcome
from moelora.search.worker import work

OBJECTIVES = ["score", "trainable_parameters", "step_seconds"]


def carry_out(asked) -> Outcome:
    if asked.slot == 2:
        return Outcome(reason="diverged: the loss is nan within steps 1–10")
    size = 1000 * asked.values["rank"]
    return Outcome(values={"score": peak(asked.values), "trainable_parameters": size, "step_seconds": 1e-5 * size})


def searched(folder, objectives) -> dict:
    def some(asked):
        outcome = carry_out(asked)
        values = outcome.values and {name: outcome.values[name] for name in objectives}
        return Outcome(values=values, reason=outcome.reason)

    study = make_study(folder, trials=12, objectives=objectives)
    work(study, some)
    return json.loads(json.dumps(trials_document(study, trials_of(study.open()))))


@pytest.fixture(scope="module")
def document(tmp_path_factory) -> dict:
    return searched(tmp_path_factory.mktemp("study"), OBJECTIVES)


def test_the_table_has_every_trial_and_the_reasons_of_those_without_values(document):
    table = search.search_table(document)
    text = render.markdown([table])
    assert len(table.rows) == 12 and table.synthetic
    assert "diverged: the loss is nan" in text and text.count("★") == 2  # its row, and the note
    best = {row.entries[0].text.split()[0] for row in table.rows if "best" in row.entries[2].marks}
    assert best == set(map(str, search.on_front(document)))
    ranks = {trial["number"]: trial["params"]["rank"] for trial in document["trials"] if trial["state"] == "complete"}
    assert {ranks[int(number)] for number in best} <= {2, 4}  # rank 8 is larger, slower and scores less than rank 4


def test_figures_of_several_objectives(document):
    drawn = figures.draw_search(document)
    assert [figure.name for figure in drawn] == [
        "search--history", "search--pareto--trainable-parameters", "search--pareto--step-seconds",
        "search--importances", "search--parallel", "search--slice",
    ]  # fmt: skip
    assert all(figure.svg.rstrip().endswith("</svg>") and figure.family == "search" for figure in drawn)
    assert "validation score" in drawn[1].svg and "strategy" in drawn[3].svg
    assert [figure.svg for figure in figures.draw_search(document)] == [figure.svg for figure in drawn]


def test_a_trial_that_learned_nothing_does_not_press_the_others_together(document):
    from moelora.reporting.figures.search import lowest_shown

    def scored(*scores):
        return {"objectives": ["score"], "trials": [{"state": "complete", "values": [score]} for score in scores]}

    floor, below = lowest_shown(scored(0.1, 0.7, 0.72, 0.74, 0.75, 0.76, 0.8))
    assert below == 1 and 0.69 < floor < 0.7
    assert lowest_shown(scored(0.7, 0.72, 0.74, 0.75)) == (None, 0)
    assert lowest_shown(scored(0.7, 0.7, 0.7, 0.7, 0.7)) == (None, 0)
    assert lowest_shown(scored(0.1, 0.9)) == (None, 0)


def test_a_single_objective_has_no_front(tmp_path):
    document = searched(tmp_path, ["score"])
    assert [figure.name for figure in figures.draw_search(document)] == [
        "search--history", "search--importances", "search--parallel", "search--slice",
    ]  # fmt: skip
    assert len(search.on_front(document)) == 1


def test_the_report_has_a_section_on_the_search(document, tiny_suite, tmp_path):
    from moelora.reporting import command

    frame, costs, suite, _ = tiny_suite
    about = {**document, "variant": "lora", "searched": "lora_smoe", "model": "tiny-encoder"}
    command.write_report(frame, costs, tmp_path, suite, searched=about)
    page = (tmp_path / "index.html").read_text()
    assert '<section id="search">' in page and 'href="#search"' in page and "search--history" in page
    assert "no search, so their rows do not say" in page
    assert (tmp_path / "tables" / "search.csv").read_text().count("\n") == 13
    assert (tmp_path / "figures" / "search--pareto--step-seconds.svg").is_file()
    command.write_report(frame, costs, tmp_path, suite)
    assert '<section id="search">' not in (tmp_path / "index.html").read_text()


def test_a_file_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "trials.json").write_text('{"records": []}')
    with pytest.raises(RecordError, match=r"trials\.json is no finished study"):
        search.read_search(tmp_path / "trials.json")
