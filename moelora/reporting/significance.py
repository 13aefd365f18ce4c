"""Which methods can be told from plain LoRA, and which mixtures from their controls, seeds being random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moelora import stats
from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Cell, Panel
from moelora.reporting.table import Entry, Row, Table, number, plain

BASELINE = "lora"
REGION = 0.01
"""Half the region of practical equivalence: one point."""

LEVEL = 0.05


@dataclass(frozen=True)
class Contrast:
    """One variant against another on a panel's summary column.

    Attributes:
        panel: The panel.
        regime: The regime.
        task: The summary column's task, or `average`.
        variant: The variant.
        against: What it is compared with.
        test: The test; its p is NaN with one shared seed.
        adjusted: p after Holm's correction over the contrasts of the panel and regime.
        effect: Standardised difference, or None below three seeds.
        verdict: Probabilities of a practical lead, or None with one seed.
        finds: Smallest true difference found in four of five tries at the first step of the correction; None with one.
    """

    panel: Panel
    regime: str
    task: str
    variant: str
    against: str
    test: stats.Comparison
    adjusted: float
    effect: stats.Effect | None
    verdict: stats.Verdict | None
    finds: float | None

    @property
    def says(self) -> str:
        """What the test says, in two words or three."""
        if self.test.n_seeds < 2:
            return "one seed, no test"
        if self.adjusted >= LEVEL:
            return "not distinguishable"
        return "higher" if self.test.difference > 0 else "lower"


def contrasts(found: Sequence[Panel]) -> list[Contrast]:
    """Return every contender against plain LoRA, and every mixture against each of its controls, panel by panel."""
    result = []
    for panel in found:
        for regime, _indexes in panel.regimes:
            index = panel.summary_column(regime)
            pairs = [(v, b) for v, b in _pairs(panel) if _shared(panel.cells[v, index], panel.cells[b, index])]
            tests = {
                pair: stats.crossed_test(panel.cells[pair[0], index].scores, panel.cells[pair[1], index].scores)
                for pair in pairs
            }
            adjusted = stats.holm({pair: test.p for pair, test in tests.items()})
            family = sum(test.n_seeds > 1 for test in tests.values())
            for (variant, against), test in tests.items():
                cells = panel.cells[variant, index], panel.cells[against, index]
                several = test.n_seeds > 1
                draws = stats.difference_draws(test.difference, test.error, test.degrees) if several else None
                result.append(
                    Contrast(
                        panel=panel,
                        regime=regime,
                        task=panel.columns[index].task,
                        variant=variant,
                        against=against,
                        test=test,
                        adjusted=adjusted[variant, against],
                        effect=stats.standardised_effect(_differences(*cells)),
                        verdict=stats.practical_verdict([draws], REGION) if several else None,
                        finds=stats.detectable_difference(test.error, test.degrees, LEVEL, comparisons=family)
                        if several
                        else None,
                    )
                )
    return result


def significance_table(found: Sequence[Contrast]) -> Table:
    """Return contrasts as a table, in their order."""
    columns = ["Variant", "Against", "Trained on", "Settings", "On", "Seeds", "Difference", "p", "p (Holm)", "Effect"]
    note = (
        f"{stats.few_seeds_note(min((c.test.n_seeds for c in found if c.test.n_seeds > 1), default=1))} Difference in "
        "points with its 95 % interval over seeds and items; p from the t distribution, the other variants speaking of "
        "the scatter between seeds; effect in units of that scatter. Ahead: probability of a lead of more than "
        f"{words.points(REGION)} point. Could find: the smallest true difference found in four of five tries."
    )
    rows = [_row(c) for c in found]
    return plain(
        "significance",
        "Told from plain LoRA, and mixtures from their controls",
        [*columns, "Ahead", "Could find", "Verdict"],
        rows,
        note,
    )


def ranks_table(found: Sequence[Panel]) -> Table:
    """Return average ranks of the contenders over the tasks of each panel and regime with several."""
    body, notes = [], []
    for panel in found:
        for regime, indexes in panel.regimes:
            tasks = [i for i in indexes if panel.columns[i].task != AVERAGE]
            scores = {
                v: {panel.columns[i].task: panel.cells[v, i].estimate.mean for i in tasks}
                for v in panel.contenders
                if all(panel.cells[v, i].estimate for i in tasks)
            }
            if len(tasks) < 2 or len(scores) < 2:
                continue
            ranks = stats.average_ranks(scores)
            notes.append(ranks.warning)
            for variant, rank in sorted(ranks.average.items(), key=lambda item: (item[1], item[0])):
                texts = (panel.suite.label(variant), panel.title, words.regime_label(regime))
                p = "–" if ranks.p != ranks.p else f"{ranks.p:.3f}"
                body.append(Row([*map(Entry, texts), number(f"{rank:.2f}"), number(str(ranks.n_tasks)), number(p)]))
    columns = ["Variant", "Trained on", "Settings", "Average rank", "Tasks", "p, all alike (Friedman)"]
    return plain("ranks", "Average ranks over tasks", columns, body, " ".join(dict.fromkeys(n for n in notes if n)))


def _pairs(panel: Panel) -> Iterator[tuple[str, str]]:
    if BASELINE in panel.variants:
        yield from ((v, BASELINE) for v in panel.contenders if v != BASELINE)
    for variant in panel.variants:
        _, mixture = panel.suite.control(variant) or (None, None)
        if mixture in panel.variants:
            yield mixture, variant


def _shared(first: Cell, second: Cell) -> bool:
    return bool(first.scores and second.scores and set(first.scores.values) & set(second.scores.values))


def _differences(first: Cell, second: Cell) -> list[float]:
    shared = sorted(set(first.scores.values) & set(second.scores.values))
    return [first.scores.values[s] - second.scores.values[s] for s in shared]


def _row(c: Contrast) -> Row:
    suite, test = c.panel.suite, c.test
    several = test.n_seeds > 1
    marks = {"number"} | (set() if several else {"single"}) | ({"best"} if c.says == "higher" else set())
    interval = f"[{words.signed(test.low)}, {words.signed(test.high)}]" if several else ""
    effect = "–" if c.effect is None else f"{c.effect.size:+.1f}".replace("-", "−")
    return Row(
        [
            Entry(suite.label(c.variant)),
            Entry(suite.label(c.against)),
            Entry(c.panel.title),
            Entry(words.regime_label(c.regime)),
            Entry("average over tasks" if c.task == AVERAGE else suite.task_title(c.task)),
            number(str(test.n_seeds)),
            Entry(words.signed(test.difference), interval, frozenset(marks)),
            number(_p(test.p)),
            number(_p(c.adjusted)),
            number(effect),
            number("–" if c.verdict is None else f"{c.verdict.better:.2f}"),
            number("–" if c.finds is None else words.points(c.finds)),
            Entry(c.says),
        ]
    )


def _p(value: float) -> str:
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"
