"""Claims in words, with what can be computed about them from the document's own figures, formulas or our records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moelora.claims.claim import Claim, pick
from moelora.claims.parameters import trainable
from moelora.errors import ConfigError

FOLLOWS = "follows from its own figures"
DOES_NOT_FOLLOW = "does not follow from its own figures"
MOSTLY = "holds for most of its own figures"
NOT_SHOWN = "not shown by its own figures"

Resources = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Quantity → place (a model and what ran on it) → method → what was measured there."""


@dataclass(frozen=True)
class WordVerdict:
    """A claim in words with its verdict.

    Attributes:
        file: Claim file.
        document: Its title.
        id: Unique in the file.
        text: The claim, in our words.
        verdict: The verdict.
        finding: The figures behind it.
    """

    file: str
    document: str
    id: str
    text: str
    verdict: str
    finding: str


def judge_words(
    claims: list[Claim], documents: Mapping[str, Mapping[str, Any]], resources: Resources | None = None
) -> list[WordVerdict]:
    """Return a verdict of every claim in words, in the order of the files.

    Args:
        claims: All claims.
        documents: The claim files by name.
        resources: What our records say of parameters, memory and time.

    Raises:
        ConfigError: A check names no claim.
    """
    found = []
    for name, document in documents.items():
        for entry in document.get("words") or []:
            judge = _JUDGES[entry["check"]["kind"]]
            try:
                verdict, finding = judge(entry["check"], claims, name, resources or {})
            except (KeyError, TypeError, ZeroDivisionError) as error:  # figures that the check cannot be made of
                raise ConfigError(
                    f"claims/{name}.yaml: the check of 'words.{entry['id']}' cannot be made of these claims "
                    f"({type(error).__name__}: {error}); correct what it names"
                ) from error
            text = " ".join(entry["text"].split())
            found.append(WordVerdict(name, document["title"], entry["id"], text, verdict, finding))
    return found


def _difference(check: Mapping[str, Any], claims: list[Claim], file: str, _: Resources) -> tuple[str, str]:
    first, second = (pick(claims, check[k], file) for k in ("first", "second"))
    found = first.value - second.value
    verdict = FOLLOWS if abs(found - check["claimed"]) <= check["tolerance"] + 1e-9 else DOES_NOT_FOLLOW
    return verdict, f"{first.text} against {second.text}: {found:+.{first.digits}f} points"


def _ratio(check: Mapping[str, Any], claims: list[Claim], file: str, _: Resources) -> tuple[str, str]:
    first, second = (pick(claims, check[k], file) for k in ("first", "second"))
    found = first.value / second.value - 1
    verdict = FOLLOWS if abs(found - check["claimed"]) <= check["tolerance"] + 1e-9 else DOES_NOT_FOLLOW
    return verdict, f"{first.text} against {second.text}: {100 * found:+.1f} %, claimed {100 * check['claimed']:+.1f} %"


def _items(check: Mapping[str, Any], claims: list[Claim], file: str, _: Resources) -> tuple[str, str]:
    first, second = (pick(claims, check[k], file) for k in ("first", "second"))
    n, (p, q) = check["items"], (c.value / c.scale for c in (first, second))
    error = math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    verdict = FOLLOWS if p - q > 2 * error else NOT_SHOWN
    return verdict, (
        f"{first.text} against {second.text} is about {round((p - q) * n)} of {n} items; two standard errors of a "
        f"difference are {100 * 2 * error:.1f} points, and between seeds nothing is known"
    )


def _wins(check: Mapping[str, Any], claims: list[Claim], file: str, _: Resources) -> tuple[str, str]:
    scores = [
        c for c in claims if c.file == file and c.table == check["table"] and c.kind == "score" and c.task != "avg"
    ]
    second = {(c.setup, c.model, c.task): c for c in scores if c.method == check["second"]}
    pairs = [(c, second[c.setup, c.model, c.task]) for c in scores if c.method == check["first"]
             if (c.setup, c.model, c.task) in second]  # fmt: skip
    if not pairs:
        raise ConfigError(f"claims/{file}.yaml: no pair of {check['first']} and {check['second']} in {check['table']}")
    wins = sum(a.value > b.value for a, b in pairs)
    verdict = FOLLOWS if wins == len(pairs) else MOSTLY if 2 * wins > len(pairs) else DOES_NOT_FOLLOW
    return verdict, f"higher in {wins} of {len(pairs)} printed scores of {check['table']}, one run each"


def _intervals(check: Mapping[str, Any], claims: list[Claim], file: str, _: Resources) -> tuple[str, str]:
    ends: dict[tuple[str, str, str], float] = {}
    for c in claims:
        if c.file == file and c.table == check["table"] and c.metric.endswith(("_ci95_low", "_ci95_high")):
            ends[c.method, c.task, c.metric.rpartition("_")[2]] = c.value
    tasks = sorted({task for method, task, _end in ends if method == check["first"]})
    above = sum(ends[check["first"], t, "low"] > ends[check["second"], t, "high"] for t in tasks)
    verdict = FOLLOWS if above == len(tasks) else NOT_SHOWN
    return verdict, f"its printed interval lies above the other's on {above} of {len(tasks)} tasks of {check['table']}"


def _parameters(check: Mapping[str, Any], claims: list[Claim], file: str, _: Resources) -> tuple[str, str]:
    counts = []
    for k in ("first", "second"):
        about = {"file": file, "model": check["model"], "method": check[k]}
        counted = next((n for c in claims if c.matches(about) for n in [trainable(c)] if n is not None), None)
        if counted is None:
            raise ConfigError(f"claims/{file}.yaml: no settings or shapes to count {check[k]} on {check['model']}")
        counts.append(counted)
    found = counts[0] / counts[1] - 1
    verdict = "reproduced" if abs(found - check["claimed"]) <= check["tolerance"] else "not reproduced"
    return verdict, f"{counts[0]:,} against {counts[1]:,} by the closed formulas: {100 * found:+.1f} %"


def _measured(check: Mapping[str, Any], _c: list[Claim], _f: str, resources: Resources) -> tuple[str, str]:
    first, second = check["first"], check["second"]
    places = (resources.get(check["quantity"]) or {}).items()
    ratios = {place: at[first] / at[second] for place, at in places if at.get(first) is not None and at.get(second)}
    if not ratios:
        return "not run", (
            f"needs records of {first} and {second} on one model and task: "
            "snakemake --cores all --configfile workflow/config/suites/glue-minilm.yaml"
        )
    found = statistics.median(ratios.values()) - 1
    agrees = found <= check["claimed"] if check.get("below") else found - check["claimed"] <= check["tolerance"]
    quantity = check["quantity"].replace("_", " ").removesuffix(" bytes")
    return (
        "reproduced" if agrees else "not reproduced",
        f"{first} against {second}, {quantity}: {100 * found:+.1f} % on {', '.join(sorted(ratios))}",
    )


def _stated(check: Mapping[str, Any], _c: list[Claim], _f: str, _r: Resources) -> tuple[str, str]:
    return check["verdict"], " ".join(check["reason"].split())


_JUDGES = {
    "difference": _difference,
    "ratio": _ratio,
    "items": _items,
    "wins": _wins,
    "intervals": _intervals,
    "parameters": _parameters,
    "measured": _measured,
    "stated": _stated,
}
