"""Tables of what learning several tasks at once did: scores side by side, what a mixture was made of, and routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moelora import stats
from moelora.reporting import words
from moelora.reporting.by_task import TaskRouting, routing_by_task
from moelora.reporting.cells import Interference, Panel
from moelora.reporting.runs import Suite
from moelora.reporting.table import Entry, Row, Table, number, plain


def interference_table(suite: Suite, found: Sequence[Interference]) -> Table:
    """Return single-task and multi-task scores side by side, and their difference with its interval."""
    body = []
    for item in found:
        d = item.difference
        marks = {"number"} | ({"clear"} if d.distinguishable else set()) | ({"single"} if d.n_seeds == 1 else set())
        change = Entry(
            words.signed(d.mean), f"[{words.signed(d.low)}, {words.signed(d.high)}]", frozenset(marks), _basis(d)
        )
        entries = [
            Entry(suite.label(item.variant)),
            Entry(item.model),
            Entry(item.mixture),
            Entry(words.regime_label(item.regime)),
            Entry(suite.task_title(item.task)),
            _score(item.single, d),
            _score(item.multi, d),
            change,
            number(str(d.n_seeds)),
        ]
        body.append(Row(entries))
    note = (
        "Scores × 100 over the seeds that both ways of training share, with 95 % intervals over seeds and items. Bold: "
        "the interval of the difference leaves out zero; it is not corrected for the number of comparisons. Italic "
        "with †: one shared seed, so the intervals are over items only and speak of two trained models. 0 seeds: none "
        "is shared, and the two are compared unpaired."
    )
    columns = ["Variant", "Model", "Mixture", "Settings", "Task", "Single-task", "Multi-task"]
    columns += ["Multi-task minus single-task", "Seeds"]
    return replace(plain("interference", "Interference between tasks", columns, body, note), synthetic=suite.synthetic)


def _basis(d: stats.Difference) -> str:
    if d.n_seeds == 1:
        return "One shared seed: the interval is over items only."
    return f"{words.plural(d.n_seeds, 'shared seed')}: the interval is over seeds and items."


def _score(e: stats.Estimate, d: stats.Difference) -> Entry:
    marks = frozenset({"number"} | ({"single"} if d.n_seeds == 1 else set()))
    return Entry(words.points(e.mean), f"[{words.points(e.low)}, {words.points(e.high)}]", marks)


def mixtures_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return how often each task of each mixture was seen in training."""
    body = []
    for panel in (p for p in panels if p.mixture):
        for regime, _indexes in panel.regimes:
            counts = [
                run.record["training"]["examples_by_task"]
                for run in panel.runs
                if run.regime == regime and run.finished and (run.record.get("training") or {}).get("examples_by_task")
            ]
            if not counts:
                continue
            total = sum(counts[0].values())
            ways = sorted({sampling_words(r.record["plan"]) for r in panel.runs if r.regime == regime})
            for task in suite.tasks(counts[0]):
                seen = sorted({c.get(task, 0) for c in counts})
                entries = [
                    Entry(panel.mixture),
                    Entry(panel.model),
                    Entry(words.regime_label(regime)),
                    Entry(words.listing(ways)),
                    Entry(suite.task_title(task)),
                    number(f"{seen[0]:,}" if len(seen) == 1 else f"{seen[0]:,} to {seen[-1]:,}"),
                    number(f"{100 * counts[0].get(task, 0) / total:.1f}"),
                ]
                body.append(Row(entries))
    note = (
        "Training examples of each task over the whole run, repetitions counted; the same for every variant. However "
        "tasks are sampled, an epoch has as many examples as they have together."
    )
    columns = ["Mixture", "Model", "Settings", "Sampling", "Task", "Examples", "Share, %"]
    return plain("mixtures", "What the mixtures were made of", columns, body, note)


def sampling_words(plan: Mapping[str, Any]) -> str:
    """Return how a run's tasks were sampled, in words."""
    sampling = (plan.get("training") or {}).get("sampling") or "proportional"
    return sampling if isinstance(sampling, str) else f"temperature {sampling['temperature']:g}"


def routing_tasks_table(suite: Suite, panels: Sequence[Panel]) -> Table:
    """Return how far the routers of each variant tell the tasks of a mixture apart: means over routers and runs."""
    body = []
    for found in routing_by_task(panels):
        entries = [
            Entry(suite.label(found.variant)),
            Entry(found.panel.model),
            Entry(str(found.panel.mixture)),
            Entry(words.regime_label(found.regime)),
            number(str(found.routers)),
            number(str(found.runs)),
            number(f"{found.nmi:.3f}"),
            number(f"{found.chance:.3f}"),
            number(f"{found.above} of {found.measured}"),
            number(f"{100 * found.mean_overlap:.1f}"),
            _pair(suite, found, found.most_apart),
            _contradicting(suite, found),
        ]
        body.append(Row(entries))
    note = (
        "NMI: normalised mutual information of a token's task and its first-chosen expert, 0 to 1; by chance: its mean "
        "when the tasks of whole items are permuted; above chance: routers, run by run, beyond the 95 % of the "
        "permutations. Overlap: the share of their load that two tasks give to the same experts, the mean over pairs "
        "of tasks; 100 is no difference. Contradicting: pairs that answer the same question differently, which a "
        "router that knows the tasks keeps apart."
    )
    columns = ["Variant", "Model", "Mixture", "Settings", "Routers", "Runs", "NMI", "By chance", "Above chance"]
    columns += ["Overlap, %", "Most apart", "Contradicting, %"]
    return replace(plain("routing-tasks", "Routing by task", columns, body, note), synthetic=suite.synthetic)


def _pair(suite: Suite, found: TaskRouting, pair: tuple[str, str]) -> Entry:
    first, second = (suite.task_title(task) for task in suite.tasks(pair))
    return Entry(f"{first} and {second}", f"{100 * found.overlap[pair]:.1f} %")


def _contradicting(suite: Suite, found: TaskRouting) -> Entry:
    if not found.contradicting:
        return Entry("–", marks=frozenset({"absent"}), title="No two tasks of this mixture contradict each other.")
    shares = [found.overlap[pair] for pair in found.contradicting]
    named = "; ".join(" and ".join(suite.task_title(t) for t in suite.tasks(pair)) for pair in found.contradicting)
    return Entry(f"{100 * sum(shares) / len(shares):.1f}", marks=frozenset({"number"}), title=named)
