"""Checks of published numbers that need no run: a document against itself and against a constant answer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moelora import stats
from moelora.claims.claim import Claim, pick
from moelora.claims.parameters import check_counts

_AVERAGES = frozenset({"avg"})


@dataclass(frozen=True)
class Remark:
    """What a check says of a claim.

    Attributes:
        claim: Its id.
        kind: `constant`, `chance`, `average`, `two values`, `difference`, `sum`, `impossible`, `parameters` or `noise`.
        text: One sentence.
    """

    claim: str
    kind: str
    text: str


KINDS = {
    "constant": "Equal to a constant answer",
    "chance": "Within chance of a constant answer",
    "average": "Averages that do not follow from their row",
    "two values": "One run, two values",
    "difference": "Printed differences that do not follow",
    "sum": "Sums that do not add up",
    "impossible": "Shares that no number of items gives",
    "parameters": "Parameters that the closed formula does not give",
    "noise": "Gains over LoRA within two standard errors",
}
"""Kinds of remarks as headings, worst first."""


def check_claims(claims: list[Claim], documents: Mapping[str, Mapping[str, Any]]) -> list[Remark]:
    """Return everything that can be said of the claims without a run, in the order of the claims and of `KINDS`.

    Args:
        claims: All claims.
        documents: The claim files by name, for what they say of pairs and sums.
    """
    found = [
        *_constants(claims),
        *_averages(claims),
        *_same_runs(claims, documents),
        *_printed_differences(claims, documents),
        *_sums(claims, documents),
        *_impossible(claims),
        *_parameters(claims),
        *_noise(claims),
    ]
    order, kinds = {c.id: i for i, c in enumerate(claims)}, list(KINDS)
    return sorted(found, key=lambda r: (order[r.claim], kinds.index(r.kind)))


@dataclass(frozen=True)
class Gain:
    """A printed score beside LoRA's in the same block of the same table.

    Attributes:
        claim: The score.
        baseline: LoRA's.
        difference: Points.
        error: Standard error of the difference of two independent shares of right answers, in points: an upper bound,
            since both answered the same items.
    """

    claim: Claim
    baseline: Claim
    difference: float
    error: float

    @property
    def items(self) -> int:
        """The difference in items of the test set."""
        return round(self.difference / self.claim.scale * self.claim.items)


def gains_over_lora(claims: Iterable[Claim]) -> list[Gain]:
    """Return the printed score of every method beside LoRA's, where one run and a number of items stand behind both."""
    blocks: dict[tuple[str, ...], list[Claim]] = {}
    for c in claims:
        if c.kind == "score" and c.seeds == 1 and c.items and c.key.metric in ("accuracy", "macro_f1"):
            blocks.setdefault((c.file, c.document, c.table, c.setup, c.model, c.task, c.metric), []).append(c)
    found = []
    for block in blocks.values():
        baselines = [c for c in block if _is_lora(c)]
        for c in block:
            if len(baselines) == 1 and c is not baselines[0] and c.recipe is not None:
                p, q = c.value / c.scale, baselines[0].value / c.scale
                error = c.scale * math.sqrt((p * (1 - p) + q * (1 - q)) / c.items)
                found.append(Gain(c, baselines[0], c.value - baselines[0].value, error))
    return found


def _is_lora(claim: Claim) -> bool:
    return claim.recipe is not None and claim.recipe.method in ("lora", "lora_as_coded")


def _constants(claims: Iterable[Claim]) -> Iterator[Remark]:
    for c in claims:
        if c.kind != "score" or c.key.metric != "accuracy" or not c.items:
            continue
        if c.constant is not None:
            rate, words = c.constant / c.items, f"the commonest answer ({c.constant:,} of {c.items:,})"
        elif c.guess is not None:
            rate, words = c.guess, f"a guess at {c.guess:.0%}"
        else:
            continue
        if c.constant is not None and abs(c.value - c.scale * rate) <= c.half_step:
            yield Remark(c.id, "constant", f"{c.text} is the share of {words}: consistent with a constant answer.")
        elif stats.within_chance(c.value / c.scale, rate, c.items):
            yield Remark(c.id, "chance", f"{c.text} can't be told from {words} on {c.items:,} items.")


def _averages(claims: Iterable[Claim]) -> Iterator[Remark]:
    rows: dict[tuple[str, ...], list[Claim]] = {}
    for c in claims:
        if c.kind == "score":
            rows.setdefault((c.file, c.document, c.table, c.setup, c.model, c.method), []).append(c)
    for row in rows.values():
        parts = [c for c in row if c.task not in _AVERAGES and c.scale == 100.0]
        for average in (c for c in row if c.task in _AVERAGES):
            if len(parts) < 2:
                continue
            mean = math.fsum(c.value for c in parts) / len(parts)
            # Each part was rounded, and so was the average that was taken before.
            slack = average.half_step + math.fsum(c.half_step for c in parts) / len(parts) + 1e-9
            if abs(mean - average.value) > slack:
                yield Remark(
                    average.id,
                    "average",
                    f"Printed {average.text}; the {len(parts)} printed scores average {mean:.{average.digits + 1}f}.",
                )


def _same_runs(claims: list[Claim], documents: Mapping[str, Mapping[str, Any]]) -> Iterator[Remark]:
    for name, document in documents.items():
        for pair in document.get("same_run") or []:
            first, second = (pick(claims, pair[k], name) for k in ("first", "second"))
            factor = pair.get("factor", 1)
            other = factor * second.value
            if abs(first.value - other) <= first.half_step + factor * second.half_step + 1e-9:
                continue
            step = 10.0**-first.digits
            cut = math.floor(other / step + 1e-9) * step
            how = (
                "cut instead of rounded"
                if abs(cut - first.value) < step / 10
                else f"a difference of {first.value - other:+.{first.digits}f}"
            )
            where = second.table if second.setup == first.setup else f"{second.table}, {second.setup}"
            yield Remark(
                first.id, "two values", f"{first.text} here, {second.text} in {where} for the same run: {how}."
            )


def _printed_differences(claims: list[Claim], documents: Mapping[str, Mapping[str, Any]]) -> Iterator[Remark]:
    for name, document in documents.items():
        for entry in document.get("printed_differences") or []:
            first, second = (pick(claims, entry[k], name) for k in ("first", "second"))
            found = first.value - second.value
            if abs(found - entry["printed"]) > first.half_step + 2 * second.half_step + 1e-9:
                yield Remark(
                    first.id,
                    "difference",
                    f"The printed difference to {second.setup or second.method} is {entry['printed']:+g}; "
                    f"the printed scores give {found:+.{first.digits}f}.",
                )


def _sums(claims: list[Claim], documents: Mapping[str, Mapping[str, Any]]) -> Iterator[Remark]:
    for name, document in documents.items():
        for entry in document.get("sums") or []:
            total = pick(claims, entry["total"], name)
            found = math.fsum(pick(claims, part, name).value for part in entry["parts"])
            if found != total.value:
                yield Remark(total.id, "sum", f"Printed {total.text}; its parts add up to {found:g}.")


def _impossible(claims: Iterable[Claim]) -> Iterator[Remark]:
    for c in claims:
        if c.kind not in ("score", "log") or c.key.metric != "accuracy" or not c.items:
            continue
        if c.kind == "score" and c.seeds != 1:  # a mean of several runs is no share of the items
            continue
        step = c.scale / c.items
        # Rounded, cut or rounded up, the share lies less than a printed step away.
        below = math.floor(c.value / step) * step
        above = below + step
        if min(c.value - below, above - c.value) < 2 * c.half_step - 1e-9:
            continue
        yield Remark(
            c.id,
            "impossible",
            f"No number of {c.items:,} items is {c.text}: the nearest are {below:.{c.digits + 1}f} and "
            f"{above:.{c.digits + 1}f}. Other items were scored, or several runs averaged.",
        )


def _parameters(claims: list[Claim]) -> Iterator[Remark]:
    for check in check_counts(claims):
        if not check.agrees:
            digits = 2 if check.unit == "percent" else 0
            unit = {"percent": " %", "million": " million", "parameters": ""}[check.unit]
            remark = f"; {check.remark}" if check.remark else ""
            yield Remark(
                check.claim.id,
                "parameters",
                f"Printed {check.printed}{unit}; the closed formula gives {check.shown:,.{digits}f}{unit}{remark}.",
            )


def _noise(claims: Sequence[Claim]) -> Iterator[Remark]:
    for gain in gains_over_lora(claims):
        if 0 < gain.difference <= 2 * gain.error:
            c = gain.claim
            yield Remark(
                c.id,
                "noise",
                f"{gain.difference:+.{c.digits}f} over {gain.baseline.method} is about {_items(gain.items)} of "
                f"{c.items:,}, with one run each; two standard errors are {2 * gain.error:.1f} points.",
            )


def _items(number: int) -> str:
    """Return `1 item` or `2 items`."""
    return f"{number} item" if number == 1 else f"{number} items"
