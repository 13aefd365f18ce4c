"""What figures show and no table holds, as CSV with full digits: one row a point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from moelora.reporting.escape import CsvWriter
from moelora.reporting.runs import Run, Suite

_RUN = ("model", "task", "variant", "regime", "seed")


def loss_curve(run: Run) -> list[tuple[float, float]]:
    """Return (step, training loss) of a run; what is no number is left out."""
    curve = (run.record.get("training") or {}).get("loss_curve") or []
    return [(step, loss) for step, loss in curve if loss is not None and math.isfinite(loss)]


def curves_csv(suite: Suite) -> str:
    """Return every point of every loss curve."""
    rows = ([*_label(run), *point] for run in suite.runs for point in loss_curve(run))
    return _csv([*_RUN, "step", "training_loss"], rows)


def loads_csv(suite: Suite) -> str:
    """Return the load of every expert on every task, with its router's agreement with the tasks (NMI)."""
    rows = (
        [*_label(run), entry["module"], entry["layer"], task, expert, load, *(entry.get(name) for name in _AGREEMENT)]
        for run in suite.runs
        for entry in run.record.get("routing") or []
        for task, loads in sorted(entry["load"].items())
        for expert, load in enumerate(loads)
    )
    return _csv([*_RUN, "module", "layer", "scored_task", "expert", "load", *_AGREEMENT], rows)


_AGREEMENT = ("nmi", "nmi_permuted_mean", "nmi_permuted_p95")


def _label(run: Run) -> list[Any]:
    return [getattr(run, name) for name in _RUN]


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    writer = CsvWriter()
    writer.writerow(names)
    writer.writerows(rows)
    return writer.getvalue()
