"""Printed counts of parameters against the closed formulas of the method pages, at the true shapes."""

from __future__ import annotations

from dataclasses import dataclass

from moelora.claims.claim import Claim
from moelora.claims.shapes import shapes
from moelora.errors import ConfigError
from moelora.methods import AttachContext, Counts, get_method


@dataclass(frozen=True)
class CountCheck:
    """A printed count or share beside what the closed formula gives.

    Attributes:
        claim: A claim that prints it.
        printed: The count or share as printed.
        unit: `parameters`, `million` or `percent`.
        counted: Trainable parameters by the formula.
        shown: The formula's result in the printed unit.
        agrees: Whether it rounds to what is printed.
        remark: What explains a difference, where that is known.
    """

    claim: Claim
    printed: str
    unit: str
    counted: int
    shown: float
    agrees: bool
    remark: str = ""


def trainable(claim: Claim, *, magnitudes: bool = True) -> int | None:
    """Return what the claim's method trains by its closed formula, its head left out; None where it can't be told.

    Args:
        claim: A claim whose method, settings and model's shapes are known.
        magnitudes: Whether the magnitudes of DoRA are counted.
    """
    counts = _counts(claim)
    if counts is None:
        return None
    adapter = counts.trainable - counts.head
    if not magnitudes and claim.recipe.method in _WITHOUT_MAGNITUDES:
        plain = _counts(claim, _WITHOUT_MAGNITUDES[claim.recipe.method])
        return plain.trainable - plain.head
    return adapter


def check_counts(claims: list[Claim]) -> list[CountCheck]:
    """Return every printed count and share that a closed formula speaks of; one a printed row."""
    found, seen = [], set()
    for claim in claims:
        if claim.kind == "count" and claim.metric.startswith("trainable_parameters"):
            check = _check_count(claim)
        elif claim.trainable_percent and (row := _row(claim)) not in seen:
            seen.add(row)
            check = _check_percent(claim)
        else:
            check = None
        if check is not None:
            found.append(check)
    return found


_WITHOUT_MAGNITUDES = {"dora": "lora", "mixdora": "mixlora"}


def _row(claim: Claim) -> tuple[str, ...]:
    return (claim.file, claim.document, claim.table, claim.setup, claim.model, claim.method)


def _counts(claim: Claim, method_name: str | None = None) -> Counts | None:
    if claim.recipe is None or claim.shapes is None:
        return None
    method = get_method(method_name or claim.recipe.method)
    if method.abilities.needs_allocation:
        return None
    outputs = 2 if claim.shapes.startswith("roberta") else 0
    form = shapes(claim.shapes, outputs)
    try:
        return method.parameters(form, method.make_settings(claim.recipe.settings), AttachContext(form))
    except ConfigError as error:
        raise ConfigError(f"claims/{claim.file}.yaml: {claim.method}: {error}") from error


def _check_count(claim: Claim) -> CountCheck | None:
    counted = trainable(claim)
    if counted is None:
        return None
    remark = ""
    if claim.metric == "trainable_parameters_millions":
        shown = counted / 1e6
        agrees = abs(shown - claim.value) <= claim.half_step
        return CountCheck(claim, claim.text, "million", counted, shown, agrees, remark)
    head = _counts(claim).head
    if head and counted != claim.value and counted + head == claim.value:
        counted, remark = counted + head, f"with the head's {head:,}"
    return CountCheck(claim, claim.text, "parameters", counted, float(counted), counted == claim.value, remark)


def _check_percent(claim: Claim) -> CountCheck | None:
    counted = trainable(claim)
    if counted is None:
        return None
    digits = len(claim.trainable_percent.partition(".")[2])
    printed, half = float(claim.trainable_percent), 0.5 * 10.0**-digits
    # Without a nominal size shares are of what is trained with adapters in place, or of the base alone.
    total = shapes(claim.shapes).total_parameters
    bases = [(claim.nominal, "of the nominal size")]
    if claim.nominal is None:
        bases = [(total + counted, ""), (total, "of the base alone")]
    shares = [(100 * counted / base, words) for base, words in bases]
    shown, remark = next(((s, w) for s, w in shares if abs(s - printed) <= half + 1e-9), (shares[0][0], ""))
    agrees = abs(shown - printed) <= half + 1e-9
    if not agrees and (plain := trainable(claim, magnitudes=False)) != counted:
        base = claim.nominal or total + plain
        if abs(100 * plain / base - printed) <= half + 1e-9:
            remark = f"agrees without the magnitudes ({100 * plain / base:.{digits + 1}f} %)"
    return CountCheck(claim, claim.trainable_percent, "percent", counted, shown, agrees, remark)
