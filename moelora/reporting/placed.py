"""The allocations in a suite's records, each once: where experts went, and the sensitivity beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moelora.reporting.runs import Suite

BLIND = frozenset({"uniform", "mola", "random"})
"""Strategies that look at no sensitivity."""


@dataclass(frozen=True)
class Placed:
    """One allocation.

    Attributes:
        model: The model's name.
        variant: The variant's.
        task: The task or mixture whose own sensitivities it was made from; None for those of all tasks.
        document: The allocation as the record has it.
        model_document: The model file, or None.
    """

    model: str
    variant: str
    task: str | None
    document: Mapping[str, Any]
    model_document: Mapping[str, Any] | None

    @property
    def strategy(self) -> str:
        """Return how experts were placed."""
        return str(self.document.get("strategy"))

    @property
    def experts(self) -> Mapping[str, int]:
        """Return experts by module."""
        return self.document["experts"]

    def setting(self, key: str, default: Any = None) -> Any:
        """Return a setting of the allocation; records from before there were settings have none."""
        return (self.document.get("settings") or {}).get(key, default)

    def shares(self) -> dict[str, float]:
        """Return each module's part of the sensitivity, the mean over tasks: each task counts alike.

        A task with scores that overflowed has no sum, and is left out.
        """
        by_task = [s for _, s in sorted((self.document.get("sensitivity") or {}).items()) if None not in s.values()]
        modules = sorted({module for scores in by_task for module in scores})
        totals = [math.fsum(scores.values()) or 1.0 for scores in by_task]
        return {
            m: math.fsum(s.get(m, 0.0) / total for s, total in zip(by_task, totals, strict=True)) / len(by_task)
            for m in modules
        }


def placed(suite: Suite) -> list[Placed]:
    """Return a suite's allocations by model and variant, in the order of the suite."""
    found: dict[tuple[str, str, str | None], Placed] = {}
    for run in suite.runs:
        allocation = run.record.get("allocation")
        if not allocation or suite.control(run.variant):
            continue
        own = (allocation.get("settings") or {}).get("tasks") == "own"
        key = (run.model, run.variant, run.task if own else None)
        document = run.record["plan"].get("model")
        found.setdefault(key, Placed(*key, allocation, document if isinstance(document, dict) else None))
    variants = {name: place for place, name in enumerate(suite.variants(suite.runs))}
    return sorted(found.values(), key=lambda p: (suite.models.index(p.model), variants[p.variant], p.task or ""))
