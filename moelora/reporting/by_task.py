"""How the routers of a mixture of tasks treat each task: how well they tell them apart, and which share experts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moelora.reporting.cells import Panel
from moelora.reporting.runs import Run

Pair = tuple[str, str]


@dataclass(frozen=True)
class TaskRouting:
    """What the routers of one variant did with the tasks of one mixture, over its runs.

    Attributes:
        panel: Where.
        regime: Of the runs.
        variant: Whose routers.
        routers: Routers of a run.
        runs: Runs.
        nmi: Normalised mutual information of task and first choice, the mean over routers and runs.
        chance: The same under permuted tasks.
        above: Routers, run by run, beyond 95 % of the permutations.
        measured: Routers, run by run.
        overlap: Share of the load that two tasks give to the same experts, by pair of tasks in alphabetical order.
        contradicting: Pairs of tasks that their files say contradict each other.
    """

    panel: Panel
    regime: str
    variant: str
    routers: int
    runs: int
    nmi: float
    chance: float
    above: int
    measured: int
    overlap: Mapping[Pair, float]
    contradicting: Sequence[Pair]

    @property
    def mean_overlap(self) -> float:
        """The mean over pairs of tasks."""
        return float(np.mean([self.overlap[pair] for pair in sorted(self.overlap)]))

    @property
    def most_apart(self) -> Pair:
        """The pair of tasks with the least overlap."""
        return min(sorted(self.overlap), key=lambda pair: self.overlap[pair])


def routing_by_task(panels: Sequence[Panel]) -> Iterator[TaskRouting]:
    """Yield what the records say of each routed variant of each mixture, in the order of the tables."""
    for panel in (p for p in panels if p.mixture):
        for regime, _indexes in panel.regimes:
            for variant in panel.variants:
                runs = [r for r in panel.runs if (r.variant, r.regime) == (variant, regime) and r.finished and _rows(r)]
                if runs:
                    yield _gather(panel, regime, variant, runs)


def _gather(panel: Panel, regime: str, variant: str, runs: Sequence[Run]) -> TaskRouting:
    rows = [row for run in runs for row in _rows(run)]
    above = sum(row["nmi"] > row["nmi_permuted_p95"] for row in rows if row["nmi_permuted_p95"] is not None)
    return TaskRouting(
        panel=panel,
        regime=regime,
        variant=variant,
        routers=len({row["module"] for row in rows}),
        runs=len(runs),
        nmi=float(np.mean([row["nmi"] for row in rows])),
        chance=float(np.mean([row["nmi_permuted_mean"] or 0.0 for row in rows])),
        above=above,
        measured=len(rows),
        overlap=overlaps([row["load"] for row in rows]),
        contradicting=contradictions(runs[0]),
    )


def _rows(run: Run) -> list[Mapping]:
    return [row for row in run.record.get("routing") or [] if row.get("nmi") is not None and len(row["load"]) > 1]


def overlaps(loads: Sequence[Mapping[str, Sequence[float]]]) -> dict[Pair, float]:
    """Return the overlap of each pair of tasks: Σ over experts of the smaller load, the mean over routers.

    One minus the total variation distance of the two loads: 1 is the same routing, 0 no expert in common.

    Args:
        loads: For each router and run, task → share of its load by expert (E,).
    """
    found: dict[Pair, list[float]] = {}
    for load in loads:
        for first, second in itertools.combinations(sorted(load), 2):
            shared = float(np.minimum(load[first], load[second]).sum())
            found.setdefault((first, second), []).append(shared)
    return {pair: float(np.mean(values)) for pair, values in sorted(found.items())}


def contradictions(run: Run) -> list[Pair]:
    """Return the pairs of a run's tasks that contradict each other, as their files say."""
    documents = [task for task in run.record["plan"].get("tasks") or [] if isinstance(task, dict)]
    names = {task["name"] for task in documents}
    pairs = {
        tuple(sorted((task["name"], task["contradicts"])))
        for task in documents
        if task.get("contradicts") in names - {task["name"]}
    }
    return sorted(pairs)
