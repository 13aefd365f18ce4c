"""A search over configurations as a table and in sentences, from the file that the finished study left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import read_json
from moelora.reporting import words
from moelora.reporting.cells import Panel
from moelora.reporting.runs import Suite
from moelora.reporting.summary import Finding
from moelora.reporting.table import Entry, Row, Table, number, plain
from moelora.search.choose import choose, front

OBJECTIVES = {
    "score": "Validation score × 100",
    "trainable_parameters": "Trainable parameters",
    "step_seconds": "Step in milliseconds",
}

STATES = {"complete": "finished", "pruned": "pruned", "fail": "failed", "running": "in work", "waiting": "waiting"}

NOTE = (
    "Every trial, failed ones included, with its score on a part cut from train, from one seed; these scores chose the "
    "winner and are no result. ★: the winner, which was trained again on fresh seeds. Bold: on the Pareto front of all "
    "objectives. –: the parameter does not count beside the others."
)


def read_search(path: str | Path) -> dict[str, Any]:
    """Return what a finished study left.

    Raises:
        RecordError: The file is missing, truncated or of another kind.
    """
    document = read_json(path, "study")
    if not isinstance(document, dict) or not {"study", "objectives", "trials"} <= document.keys():
        raise RecordError(f"{path} is no finished study: expected the keys study, objectives and trials; choose again")
    return document


def completed(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the trials that have values, by number."""
    return [trial for trial in document["trials"] if trial["state"] == "complete"]


def on_front(document: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the trials on the Pareto front; of a single objective, the best."""
    return front({trial["number"]: trial["values"] for trial in completed(document)}, document["directions"])


def search_table(document: Mapping[str, Any]) -> Table:
    """Return every trial as a row: what was asked of it, what it measured, and why it has no values."""
    names = sorted({name for trial in document["trials"] for name in trial["params"]})
    best, winner = set(on_front(document)), choose(document)["number"]
    body = []
    for trial in document["trials"]:
        marks = frozenset({"number", "best"} if trial["number"] in best else {"number"})
        if trial["state"] == "complete":
            values = [
                Entry(value_words(name, value), marks=marks)
                for name, value in zip(document["objectives"], trial["values"], strict=True)
            ]
        else:
            values = [Entry("–", marks=frozenset({"absent"}))] * len(document["objectives"])
        state = STATES.get(trial["state"], trial["state"])
        body.append(
            Row(
                [
                    Entry(f"{trial['number']}{' ★' if trial['number'] == winner else ''}"),
                    Entry(state, marks=frozenset({"lost"} if trial["state"] == "fail" else ())),
                    *values,
                    *(number(_parameter(trial["params"].get(name))) for name in names),
                    Entry(trial["reason"] or ""),
                ]
            )
        )
    columns = ["Trial", "State", *(OBJECTIVES[name] for name in document["objectives"])]
    columns += [*(name.replace("_", " ").capitalize() for name in names), "Reason"]
    table = plain("search", "Trials of the search", columns, body, NOTE)
    return Table(**{**vars(table), "synthetic": bool(document.get("synthetic"))})


def value_words(name: str, value: float) -> str:
    """Return the value of an objective as tables write it."""
    if name == "score":
        return words.points(value, 2)
    return words.count(int(value)) if name == "trainable_parameters" else f"{1000 * value:.1f}"


def search_finding(suite: Suite, panels: Sequence[Panel], document: Mapping[str, Any]) -> Finding:
    """Return what was searched, what won, and what became of the winner on fresh seeds."""
    winner = choose(document)
    states = Counter(trial["state"] for trial in document["trials"])
    others = [f"{states[state]} {STATES[state]}" for state in ("pruned", "fail") if states[state]]
    score = winner["values"][document["objectives"].index("score")]
    sentences = [
        f"{words.plural(len(document['trials']), 'trial')} of {_label(suite, document['variant'])} on "
        f"{document['task']} with {suite.model_title(document['model'])} ({document['sampler']} sampler): "
        f"{states['complete']} finished{''.join(f', {other}' for other in others)}; each was scored on a part cut from "
        "train.",
        f"Trial {winner['number']} won with {words.points(score, 2)} there: "
        f"{', '.join(f'{name} {_parameter(value)}' for name, value in sorted(winner['params'].items()))}.",
        *_rerun(panels, document),
        f"The other variants had no search, so their rows do not say that {_label(suite, document['searched'])} is the "
        "better method.",
    ]
    return Finding("The search", tuple(sentences))


def _label(suite: Suite, variant: str) -> str:
    # a filter on tasks may have left the variant without runs
    return suite.label(variant) if variant in {run.variant for run in suite.runs} else variant


def _rerun(panels: Sequence[Panel], document: Mapping[str, Any]) -> list[str]:
    """Return how the winner and the variant as it was did on the official split, on the suite's seeds."""
    sentences = []
    for panel in panels:
        for regime, _ in panel.regimes:
            index = panel.summary_column(regime)
            found = [panel.cells.get((document[key], index)) for key in ("searched", "variant")]
            if all(cell is not None and cell.estimate for cell in found):
                won, plain_ = (cell.estimate for cell in found)
                sentences.append(
                    f"Trained again on {words.plural(won.n_seeds, 'seed')} that no trial had, and scored on the "
                    f"official split, it reaches {words.points(won.mean, 2)} [{words.points(won.low, 2)}, "
                    f"{words.points(won.high, 2)}]; with its settings as they were the variant reaches "
                    f"{words.points(plain_.mean, 2)} [{words.points(plain_.low, 2)}, {words.points(plain_.high, 2)}]."
                )
    return sentences


def _parameter(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
