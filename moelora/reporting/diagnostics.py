"""What the routers and experts of a variant did, over its runs: the numbers behind tables and figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moelora.reporting.cells import Panel
from moelora.reporting.runs import Run


@dataclass
class Router:
    """One router of a variant over its runs (seeds and tasks): lists of one value a run, or a pair of seeds.

    Attributes:
        module: Its name in the base model.
        layer: Its layer.
        experts: E.
        entropy: Mean entropy of its probabilities over ln E, the mean over tasks.
        dead: Dead experts.
        load_cv: Coefficient of variation of the load.
        similarity: Mean cosine of the experts' increments; over the roles where the router serves several matrices.
        closest: The largest cosine of two experts.
        matched: Agreement of two seeds after the best matching of experts, a pair.
        chance: What the loads of the same pair give by chance.
        ami: Adjusted mutual information of two seeds, a pair.
    """

    module: str
    layer: int
    experts: int
    entropy: list[float] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    load_cv: list[float] = field(default_factory=list)
    similarity: list[float] = field(default_factory=list)
    closest: list[float] = field(default_factory=list)
    matched: list[float] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    ami: list[float] = field(default_factory=list)


def diagnosed(runs: Iterable[Run]) -> list[Run]:
    """Return the finished runs whose record has diagnostics."""
    return [r for r in runs if r.finished and r.record.get("diagnostics") and r.record.get("routing")]


def dead_words(runs: Iterable[Run]) -> str:
    """Return below which share of the balanced load these runs call an expert dead, as `1 %`."""
    shares = sorted({r.record["diagnostics"]["dead_share"] for r in runs})
    return " or ".join(f"{100 * share:g} %" for share in shares)


def blocks(panels: Sequence[Panel]) -> Iterator[tuple[Panel, str, str, list[Run]]]:
    """Yield (panel, regime, variant, diagnosed runs) in the order of the tables."""
    for panel in panels:
        for regime, _indexes in panel.regimes:
            for variant in panel.variants:
                runs = diagnosed(r for r in panel.runs if (r.variant, r.regime) == (variant, regime))
                if runs:
                    yield panel, regime, variant, runs


def routers(runs: Sequence[Run]) -> list[Router]:
    """Return the routers of some runs of one variant, by layer and module."""
    found: dict[str, Router] = {}
    for run in runs:
        similarity = _by_router(run)
        for row in run.record["routing"]:
            if "entropy_share" not in row:
                continue
            router = found.setdefault(row["module"], Router(row["module"], row["layer"], row["experts"]))
            router.entropy.append(float(np.mean([x for _, x in sorted(row["entropy_share"].items())])))
            router.dead.append(row["dead"])
            router.load_cv.append(row["load_cv"])
            means = [entry["mean"] for entry in similarity.get(row["module"], []) if entry["mean"] is not None]
            if means:
                router.similarity.append(float(np.mean(means)))
                router.closest.append(max(e["max"] for e in similarity[row["module"]] if e["max"] is not None))
        for row in run.agreement:
            if row["module"] in found:
                router = found[row["module"]]
                router.matched.append(row["matched"])
                router.chance.append(row["chance"])
                if row["ami"] is not None:
                    router.ami.append(row["ami"])
    return sorted(found.values(), key=lambda r: (r.layer, r.module))


def _by_router(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return module of a router → similarity of the experts it weighs, one entry a matrix."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in run.record["diagnostics"]["similarity"]:
        found[entry["module"]].append(entry)
    return found
