"""Paper against measured: what our records say of a claim, and whether they may say anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from moelora.claims.claim import Claim, Key
from moelora.claims.parameters import CountCheck
from moelora.config import ConfigDir
from moelora.tasks.protocols import LM_EVAL, POSED

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
NOT_COMPARABLE = "not comparable"
NOT_RUN = "not run"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE, NOT_RUN)


@dataclass(frozen=True)
class Measured:
    """What the records of one variant say on one task: one metric, mean over seeds with its interval.

    Attributes:
        key: What it may be compared with.
        suite: The suite it is from.
        variant: The variant.
        method: Its method.
        settings: Its settings, defaults filled in.
        training: Its training settings.
        tuned: Whether its learning rate was chosen by tuning.
        mean: Mean over seeds, as records have it.
        low: Lower end of the 95 % interval, or None where records do not tell.
        high: Upper end.
        n_seeds: Seeds behind it.
        records: Ids of the records.
    """

    key: Key
    suite: str
    variant: str
    method: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    tuned: bool
    mean: float
    low: float | None
    high: float | None
    n_seeds: int
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """A claim with what was measured and the verdict.

    Attributes:
        claim: The claim.
        ours: Measured at the published settings, or the nearest that is not comparable; None without.
        tuned: Measured after equal tuning under a comparable key; None without.
        difference: Ours at the published settings minus the claim, in its unit; None unless comparable.
        slack: How large a difference may be by chance and rounding, in its unit; None likewise.
        verdict: One of `VERDICTS`.
        reason: Why; for `not run` what is missing.
        command: What would run it; empty where nothing here would.
        counted: The closed formula's result, for counts of parameters.
    """

    claim: Claim
    ours: Measured | None
    tuned: Measured | None
    difference: float | None
    slack: float | None
    verdict: str
    reason: str
    command: str = ""
    counted: CountCheck | None = None


def judge(
    claims: Sequence[Claim],
    measured: Sequence[Measured],
    counts: Iterable[CountCheck] = (),
    config: ConfigDir | None = None,
) -> list[Judgement]:
    """Return a judgement of every claim, in their order.

    Args:
        claims: All claims.
        measured: What the records say.
        counts: What closed formulas say of printed counts of parameters.
        config: Configuration folder, to tell what is missing for a run.
    """
    by_claim = {c.claim.id: c for c in counts if c.unit != "percent"}
    found = []
    for claim in claims:
        if claim.id in by_claim:
            found.append(_of_count(claim, by_claim[claim.id]))
        else:
            found.append(_of_score(claim, measured, config))
    return found


def command_of(claim: Claim) -> str:
    """Return the command line that would run a claim; empty where no suite is named."""
    if claim.suite is None or claim.recipe is None:
        return ""
    return f"snakemake --cores all --configfile workflow/config/suites/{claim.suite}.yaml"


def missing_for(claim: Claim, config: ConfigDir | None) -> list[str]:
    """Return what a run of a claim lacks here, in words."""
    found = []
    if claim.recipe is None:
        found.append("no method here with the settings stated")
    if claim.key.metric is None:
        found.append(f"records have no {claim.metric}")
    if claim.key.task is None and claim.task != "avg":
        found.append("no task file for it")
    if claim.key.protocol not in ("glue", LM_EVAL, *POSED):
        found.append(f"the protocol is {claim.key.protocol}")
    if config is not None:
        for kind, name in (("model", claim.key.model), ("suite", claim.suite)):
            if name is not None and name not in config.names(kind):
                found.append(f"no {kind} file {name}")
    return found


def _of_count(claim: Claim, check: CountCheck) -> Judgement:
    verdict = REPRODUCED if check.agrees else NOT_REPRODUCED
    reason = "by the closed formula at the true shapes" + (f", {check.remark}" if check.remark else "")
    return Judgement(claim, None, None, check.shown - claim.value, claim.half_step, verdict, reason, counted=check)


def _of_score(claim: Claim, measured: Sequence[Measured], config: ConfigDir | None) -> Judgement:
    if claim.kind != "score" or claim.recipe is None or claim.key.metric is None:
        return Judgement(claim, None, None, None, None, NOT_RUN, _not_run(claim, config), command_of(claim))
    near = [
        m
        for m in measured
        if (m.method, m.key.task, m.key.metric) == (claim.recipe.method, claim.key.task, claim.key.metric)
    ]
    same = [m for m in near if not claim.key.differences(m.key)]
    tuned = next((m for m in same if m.tuned and not _conflicts(claim.recipe.settings, m.settings)), None)
    exact = [m for m in same if not m.tuned and not _deviations(claim, m)]
    if exact:
        ours = max(exact, key=lambda m: (m.n_seeds, m.suite, m.variant))
        return _compare(claim, ours, tuned)
    others = [m for m in near if not m.tuned] or ([] if tuned else near)
    if others:
        ours = min(others, key=lambda m: (len(_why_not(claim, m)), m.suite, m.variant))
        reason = "; ".join(_why_not(claim, ours))
        return Judgement(claim, ours, tuned, None, None, NOT_COMPARABLE, reason, command_of(claim))
    if tuned:
        reason = "only run with a learning rate chosen by tuning"
        return Judgement(claim, None, tuned, None, None, NOT_COMPARABLE, reason, command_of(claim))
    return Judgement(claim, None, None, None, None, NOT_RUN, _not_run(claim, config), command_of(claim))


def _compare(claim: Claim, ours: Measured, tuned: Measured | None) -> Judgement:
    difference = claim.scale * ours.mean - claim.value
    slack = _slack(claim, ours)
    verdict = REPRODUCED if abs(difference) <= slack else NOT_REPRODUCED
    reason = f"{difference:+.1f} where {slack:.1f} is within chance and rounding"
    if ours.n_seeds == 1:
        reason += "; one seed of ours, so another might say otherwise"
    return Judgement(claim, ours, tuned, difference, slack, verdict, reason, command_of(claim))


def _slack(claim: Claim, ours: Measured) -> float:
    """Return how far the two may lie apart at 95 %: our interval, the sampling of the claim's items, rounding.

    Items are taken to sample any score as they do a share of right answers.
    """
    share = min(max(claim.value / claim.scale, 0.0), 1.0)
    theirs = 0.0
    if claim.items:
        theirs = claim.scale * math.sqrt(share * (1 - share) / claim.items / (claim.seeds or 1))
    theirs *= float(stats.norm.ppf(0.975))
    mine = theirs if ours.low is None else claim.scale * (ours.high - ours.low) / 2
    return math.hypot(mine, theirs) + claim.half_step


def _why_not(claim: Claim, ours: Measured) -> list[str]:
    """Return in what our nearest run differs; a tuned learning rate is no deviation that the claim states."""
    return [*ours.key.differences(claim.key), *_deviations(claim, ours)]


def _deviations(claim: Claim, ours: Measured) -> list[str]:
    found = [
        *_conflicts(claim.recipe.settings, ours.settings),
        *_conflicts(claim.recipe.training, ours.training),
    ]
    return [*found, *(f"{name} was {value}" for name, value in claim.conditions.items())]


def _conflicts(stated: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {_text(ours.get(name))} is not {_text(value)}"
        for name, value in stated.items()
        if not _equal(ours.get(name), value)
    ]


def _text(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _equal(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return sorted(map(str, mine)) == sorted(map(str, theirs))
    if isinstance(mine, (int, float)) and isinstance(theirs, (int, float)):
        return math.isclose(mine, theirs, rel_tol=1e-9)
    return mine == theirs


def _not_run(claim: Claim, config: ConfigDir | None) -> str:
    if claim.kind == "log":
        return "an evaluation during training; records keep the last"
    if claim.kind in ("cost", "diagnostic"):
        return "measured on the authors' machine and model"
    if claim.kind == "spread":
        return "a spread, not a score"
    missing = missing_for(claim, config)
    if claim.task == "avg":
        missing.insert(0, "an average, judged by its parts")
    return "; ".join(missing) if missing else "everything is here, but no record of it"
