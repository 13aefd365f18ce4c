"""What the trivial baselines score on each task, how far luck carries them, and who can't be told from them."""

from __future__ import annotations

from collections.abc import Iterable

from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Panel
from moelora.reporting.runs import Suite
from moelora.reporting.table import Entry, Row, Table, number, plain
from moelora.reporting.tables import score_entry

BASELINES = {"majority": "Majority class", "base": "Base model", "head_only": "Head only"}
"""Methods that no method should fail to beat, and their columns."""

NOTE = (
    "Constant answer: the commonest label of the training split (of multiple choice the better of that and guessing). "
    "Interval of chance: where 95 % of test sets would put answers that know nothing of an item; binomial for shares "
    "of right answers, and through them for F1; for correlations ± 1.96 / √(items − 1). – where none is known: there a "
    "score is within chance if its own interval reaches down to the constant answer."
)


def chance_table(suite: Suite, found: Iterable[Panel]) -> Table:
    """Return each task's baselines, its interval of chance, and the variants whose mean lies within it."""
    body = []
    for panel in found:
        for index, column in enumerate(panel.columns):
            if column.task == AVERAGE or column.n_items is None:
                continue
            cells = {variant: panel.cells[variant, index] for variant in panel.variants}
            within = [
                panel.label(variant)
                for variant, cell in cells.items()
                if cell.within_chance and suite.method(variant) != "majority"
            ]
            baselines = []
            for method in BASELINES:
                named = [v for v in panel.variants if suite.method(v) == method]
                baselines.append(score_entry(cells[named[0]], column.bounds) if named else Entry("–"))
            low_high = "–" if column.bounds is None else " to ".join(words.points(x) for x in column.bounds)
            trained = sum(c.estimate is not None for v, c in cells.items() if suite.method(v) != "majority")
            body.append(
                Row(
                    [
                        Entry(suite.task_title(column.task)),
                        Entry(panel.title),
                        Entry(words.regime_label(column.regime)),
                        Entry(words.metric_label(column.metric)),
                        number(f"{column.n_items:,}"),
                        number("–" if column.chance is None else words.points(column.chance)),
                        number(low_high),
                        *baselines,
                        Entry(f"{len(within)} of {trained}", words.listing(within)),
                    ]
                )
            )
    columns = ["Task", "Trained on", "Settings", "Metric", "Items", "Constant answer", "Interval of chance"]
    title = "Chance and the trivial baselines"
    return plain("chance", title, [*columns, *BASELINES.values(), "Within chance"], body, NOTE)
