"""The plain-language summary, computed from the same cells as the tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moelora.plans.controls import SUFFIXES
from moelora.reporting import words
from moelora.reporting.cells import AVERAGE, Interference, Panel, difference
from moelora.reporting.diagnostics import blocks, routers
from moelora.reporting.forgetting import Change, summaries
from moelora.reporting.runs import Suite


@dataclass(frozen=True)
class Finding:
    """One paragraph of the summary.

    Attributes:
        topic: Two or three words that name the question.
        sentences: The answer.
    """

    topic: str
    sentences: tuple[str, ...]


def summarise(
    suite: Suite,
    panels: Sequence[Panel],
    effects: Sequence[Interference],
    costs: Sequence[Mapping[str, Any]],
) -> list[Finding]:
    """Return what the records say, in sentences: what ran, what won, the controls, the costs, the limits."""
    found = [Finding("What was run", _ran(suite))]
    best = [s for panel in panels for regime, _ in panel.regimes for s in _winner(panel, regime)]
    if best:
        found.append(Finding("The best, and what can't be told from it", tuple(best)))
    for topic, kinds in (
        ("Against LoRA with equal parameters", ("equal_trainable",)),
        ("Against their other controls", ("equal_active", *SUFFIXES)),
    ):
        lines = tuple(s for panel in panels for s in _controlled(panel, kinds))
        if lines:
            found.append(Finding(topic, lines))
    lines = _interference(suite, effects)
    if lines:
        found.append(Finding("Interference between tasks", lines))
    lines = tuple(_forgetting(suite, summaries(panels)))
    if lines:
        found.append(Finding("What was forgotten", lines))
    lines = _routing(suite, panels)
    if lines:
        found.append(Finding("Routers and experts", lines))
    lines = tuple(s for document in costs for s in _costs(suite, document))
    if lines:
        found.append(Finding("What it costs", lines))
    found.append(Finding("How far this goes", _limits(suite, panels)))
    return found


def _ran(suite: Suite) -> tuple[str, ...]:
    variants, tasks = {r.variant for r in suite.runs}, {t for r in suite.runs for t in r.tasks}
    seeds = {r.seed for r in suite.runs}
    states = Counter(r.status for r in suite.runs)
    others = [f"{n} {words.status_label(s)}" for s, n in sorted(states.items()) if s != "finished"]
    sentences = [
        f"{words.plural(len(suite.runs), 'run')} of {words.plural(len(variants), 'variant')} on "
        f"{words.plural(len(tasks), 'task')} with {words.listing([suite.model_title(m) for m in suite.models])}, "
        f"up to {words.plural(len(seeds), 'seed')}: "
        f"{states['finished']} finished{''.join(f', {o}' for o in others)}."
    ]
    if suite.synthetic:
        sentences.append("The tasks are synthetic: they show mechanism and do not rank methods.")
    return tuple(sentences)


def _winner(panel: Panel, regime: str) -> list[str]:
    index = panel.summary_column(regime)
    label, column = panel.suite.label, panel.columns[index]
    cells = {v: panel.cells[v, index] for v in panel.contenders if panel.cells[v, index].estimate}
    place = [panel.title, *([words.regime_label(regime).lower()] if len(panel.regimes) > 1 else [])]
    if column.task != AVERAGE:
        place.append(panel.suite.task_title(column.task))
    where = ", ".join(place)
    if not cells:
        return []
    missing = {v: panel.cells[v, index] for v in panel.contenders if panel.cells[v, index].reason}
    gone = words.listing([f"{label(v)} ({c.reason})" for v, c in missing.items()])
    after = f" Without a score: {gone}." if gone else ""
    if all(c.within_chance for c in cells.values()):
        return [f"{where}: no variant can be told from a constant answer.{after}"]
    top = max(cells, key=lambda v: (cells[v].estimate.mean, v))
    e = cells[top].estimate
    start = f"{where}: {label(top)}, {words.points(e.mean)} [{words.points(e.low)}, {words.points(e.high)}]"
    same = [v for v in cells if v != top and cells[v].best]
    if cells[top].within_chance:
        return [f"{start}, which is within chance.{after}"]
    if cells[top].below_chance:
        return [f"{start}, which is below what a constant answer scores.{after}"]
    if len(cells) == 1:
        return [f"{start}; nothing to compare it with.{after}"]
    if len(same) == len(cells) - 1:
        others = "its only rival can't" if len(same) == 1 else f"none of the other {len(same)} can"
        return [f"{start}; {others} be told from it.{after}"]
    if same:
        return [f"{start}; it can't be told from {words.listing([label(v) for v in same])}.{after}"]
    return [f"{start}; the others are distinguishably lower.{after}"]


def _controlled(panel: Panel, kinds: Sequence[str]) -> list[str]:
    """Return a sentence for each mixture and control of these kinds."""
    lines = []
    for regime, _indexes in panel.regimes:
        index, chance = panel.summary_column(regime), []
        regime_words = words.regime_label(regime).lower() if len(panel.regimes) > 1 else ""
        where = ", ".join(x for x in (panel.model, panel.mixture or "", regime_words) if x)
        for variant in panel.variants:
            kind, mixture = panel.suite.control(variant) or (None, None)
            if kind not in kinds or (mixture, index) not in panel.cells:
                continue
            mine, control = panel.cells[mixture, index], panel.cells[variant, index]
            if not (mine.scores and control.scores):
                continue
            if mine.within_chance and control.within_chance:
                chance.append(_against(panel.suite, mixture, variant, kind))
                continue
            d = difference(mine, control)
            verdict = "higher" if d.low > 0 else "lower" if d.high < 0 else "not distinguishable"
            lines.append(
                f"{_against(panel.suite, mixture, variant, kind)} ({where}): {words.signed(d.mean)} points "
                f"[{words.signed(d.low)}, {words.signed(d.high)}], {verdict}."
            )
        if chance:
            lines.append(f"{words.listing(chance)} ({where}): within chance, as is the control.")
    return lines


def _against(suite: Suite, mixture: str, variant: str, kind: str) -> str:
    """Return the mixture's name, and that of its control where the topic does not say it."""
    return suite.label(mixture) + ("" if kind == "equal_trainable" else f" against {suite.label(variant)}")


def _interference(suite: Suite, effects: Sequence[Interference]) -> tuple[str, ...]:
    if not effects:
        return ()
    worse = [e for e in effects if e.difference.high < 0]
    better = [e for e in effects if e.difference.low > 0]
    sentences = [
        f"Learning the tasks together changed {len(worse) + len(better)} of "
        f"{words.plural(len(effects), 'comparison')} distinguishably: {len(worse)} lower, {len(better)} higher."
    ]
    if worse:
        e = min(worse, key=lambda e: (e.difference.mean, e.variant))
        sentences.append(
            f"The largest loss is {suite.label(e.variant)} on {suite.task_title(e.task)}: "
            f"{words.signed(e.difference.mean)} points."
        )
    return tuple(sentences)


def _forgetting(suite: Suite, found: Sequence[Change]) -> list[str]:
    """Return a sentence per model and kind of measure: how many lost something, and who the most."""
    sentences = []
    for model, is_text in dict.fromkeys((c.model, c.is_text) for c in found):
        mine = [c for c in found if (c.model, c.is_text) == (model, is_text)]
        lost = [c for c in mine if c.estimate.low > 0]
        what = "the loss on held-out text" if is_text else "frozen probes of other tasks"
        start = f"{suite.model_title(model)}, {what}: {len(lost)} of {words.plural(len(mine), 'comparison')} lost"
        if not lost:
            sentences.append(f"{start} distinguishably.")
            continue
        worst = max(lost, key=lambda c: (c.estimate.mean, c.variant))
        amount = f"{worst.estimate.mean:.2f} nats a token" if is_text else f"{words.points(worst.estimate.mean)} points"
        way = worst.trained_on or "one task each"
        sentences.append(f"{start} distinguishably, most of all {suite.label(worst.variant)} ({way}): {amount}.")
    return sentences


def _routing(suite: Suite, panels: Sequence[Panel]) -> tuple[str, ...]:
    """Return a sentence per panel on dead experts, and one on seeds where several were compared."""
    dead: dict[str, dict[str, int]] = {}
    matched, chance = [], []
    for panel, _, variant, runs in blocks(panels):
        for router in routers(runs):
            lost = dead.setdefault(panel.title, {})
            lost[variant] = lost.get(variant, 0) + sum(router.dead)
            matched += router.matched
            chance += router.chance
    sentences = []
    for title, lost in dead.items():
        some = [f"{suite.label(v)} ({n})" for v, n in lost.items() if n]
        said = f"dead experts in {words.listing(some)}" if some else "every expert of every router is used"
        sentences.append(f"{title}: {said}.")
    if matched:
        sentences.append(
            f"Two seeds send {words.points(sum(matched) / len(matched), 0)} % of the tokens alike once their experts "
            f"are matched; by chance it would be {words.points(sum(chance) / len(chance), 0)} %."
        )
    return tuple(sentences)


def _costs(suite: Suite, document: Mapping[str, Any]) -> list[str]:
    known = {r.variant for r in suite.runs}
    done = {
        v: c
        for v, c in document["variants"].items()
        if c.get("status", "finished") == "finished" and v in known and suite.method(v) not in words.REFERENCES
    }
    ratios = sorted(
        ((c["ratio"], suite.label(v)) for v, c in done.items() if v != document.get("reference")), reverse=True
    )
    if not ratios:
        return []
    (slowest, name), (fastest, other) = ratios[0], ratios[-1]
    reference = document.get("reference")
    against = suite.label(reference) if reference in known else str(reference)
    where = suite.model_title(document["model"])
    if len(ratios) == 1:
        return [f"{where}: a step of {name} takes {slowest:.2f} times that of {against}."]
    return [
        f"{where}: a step takes between {fastest:.2f} ({other}) and {slowest:.2f} times ({name}) that of {against}."
    ]


def _limits(suite: Suite, panels: Sequence[Panel]) -> tuple[str, ...]:
    cells = [
        panel.cells[v, i]
        for panel in panels
        for v in panel.contenders
        for i, c in enumerate(panel.columns)
        if c.task != AVERAGE and panel.cells[v, i].estimate
    ]
    single = sum(c.estimate.n_seeds == 1 for c in cells)
    sentences = []
    if single:
        many = "All" if single == len(cells) else f"{single} of {len(cells)}"
        sentences.append(
            f"{many} scores come from one seed: their intervals are over items only and say nothing of another seed."
        )
    if cells and single < len(cells):
        width = sorted((c.estimate.high - c.estimate.low) / 2 for c in cells if c.estimate.n_seeds > 1)
        sentences.append(
            f"With several seeds half an interval is {words.points(width[len(width) // 2])} points wide in the middle "
            "of the table; much smaller differences could not have been found."
        )
    sentences.append(
        "Bold and the sentences above are not corrected for the number of comparisons; the table of tests is."
    )
    if any(r.status != "finished" for r in suite.runs):
        sentences.append("Runs without a score are listed with their reasons.")
    return tuple(sentences)
