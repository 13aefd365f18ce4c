"""Single-task and multi-task side by side, what mixtures were made of, and routing by task."""

import numpy as np
import pytest

from moelora.reporting import cells, multitask
from moelora.reporting.by_task import contradictions, overlaps, routing_by_task
from moelora.reporting.figures import overlap
from moelora.reporting.runs import Run, Suite


@pytest.fixture(scope="module")
def tiny(tiny_suite):
    frame, _costs, document, _root = tiny_suite
    suite = Suite.from_frame(frame, document)
    return suite, cells.panels(suite)


def rows_of(table):
    names = [label for label, _ in table.columns]
    return [dict(zip(names, row.entries, strict=True)) for row in table.rows]


def points(text):
    return float(text.replace("−", "-"))


def test_scores_stand_side_by_side_and_differ_by_the_difference(tiny):
    suite, panels = tiny
    effects = cells.interference(panels)
    rows = rows_of(multitask.interference_table(suite, effects))
    assert len(rows) == len(effects) > 0
    for row in rows:
        single, multi, change = (
            points(row[key].text) for key in ("Single-task", "Multi-task", "Multi-task minus single-task")
        )
        assert change == pytest.approx(multi - single, abs=0.11)  # each is rounded
        # Single-task runs have seed 0 alone: over items only, and said so.
        assert row["Seeds"].text == "1" and all("single" in row[k].marks for k in ("Single-task", "Multi-task"))
        assert "items only" in row["Multi-task minus single-task"].title


def test_only_shared_seeds_are_compared(tiny):
    one = next(
        e for e in cells.interference(tiny[1]) if (e.model, e.variant, e.task) == ("tiny-decoder", "lora", "order")
    )
    runs = {(r.task, r.seed): r for p in tiny[1] for r in p.runs if (r.model, r.variant) == ("tiny-decoder", "lora")}
    assert one.multi.mean == pytest.approx(runs["all", 0].scores["order"].value)  # seed 1 has no single-task run
    assert one.single.mean == pytest.approx(runs["order", 0].scores["order"].value)
    assert one.multi.n_seeds == one.single.n_seeds == one.difference.n_seeds == 1


def test_the_mixtures_table_says_how_often_each_task_was_seen(tiny):
    suite, panels = tiny
    rows = [r for r in rows_of(multitask.mixtures_table(suite, panels)) if r["Model"].text == "tiny-encoder"]
    assert [r["Examples"].text for r in rows] == ["100", "150", "200", "250"]
    assert sum(float(r["Share, %"].text) for r in rows) == pytest.approx(100, abs=0.2)
    assert {r["Sampling"].text for r in rows} == {"proportional"}


def test_sampling_in_words():
    assert multitask.sampling_words({"training": {}}) == multitask.sampling_words({}) == "proportional"
    assert multitask.sampling_words({"training": {"sampling": "equal"}}) == "equal"
    assert multitask.sampling_words({"training": {"sampling": {"temperature": 2.0}}}) == "temperature 2"


def test_overlap_of_known_loads():
    loads = [{"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.5, 0.5]}, {"a": [0.2, 0.8], "b": [0.2, 0.8], "c": [1.0, 0.0]}]
    found = overlaps(loads)
    assert found == {("a", "b"): pytest.approx(0.5), ("a", "c"): pytest.approx(0.35), ("b", "c"): pytest.approx(0.35)}


def test_contradicting_pairs_come_once_and_only_where_both_are_there():
    def run(*tasks):
        return Run({"plan": {"tasks": [{"name": name, "contradicts": other} for name, other in tasks]}})

    assert contradictions(run(("b", "a"), ("a", "b"), ("c", None))) == [("a", "b")]
    assert contradictions(run(("a", "b"), ("c", None))) == []


def test_routing_by_task_gathers_routers_and_runs(tiny):
    suite, panels = tiny
    found = {(f.panel.model, f.variant): f for f in routing_by_task(panels)}
    assert set(found) == {(m, v) for m in ("tiny-decoder", "tiny-encoder") for v in ("mixlora", "lora-smoe")}
    one = found["tiny-decoder", "mixlora"]
    runs = [r for r in suite.runs if (r.model, r.task, r.variant) == ("tiny-decoder", "all", "mixlora")]
    nmi = [row["nmi"] for run in runs for row in run.record["routing"]]
    assert (one.routers, one.runs, one.measured) == (4, 2, 8) and one.nmi == pytest.approx(np.mean(nmi))
    assert one.above == sum(value > 0.05 for value in nmi) and one.chance == pytest.approx(0.02)
    assert one.contradicting == [("left_answer", "right_answer")] and len(one.overlap) == 15
    assert one.overlap[one.most_apart] == min(one.overlap.values())
    assert found["tiny-encoder", "mixlora"].contradicting == []
    rows = {(r["Model"].text, r["Variant"].text): r for r in rows_of(multitask.routing_tasks_table(suite, panels))}
    row = rows["tiny-decoder", "MixLoRA"]
    shared = one.overlap["left_answer", "right_answer"]
    assert row["Contradicting, %"].text == f"{100 * shared:.1f}" and row["Above chance"].text == f"{one.above} of 8"
    assert rows["tiny-encoder", "MixLoRA"]["Contradicting, %"].text == "–"


def test_the_figure_has_a_map_for_each_routed_variant(tiny):
    suite, panels = tiny
    drawn = overlap.draw(suite, panels)
    assert [f.name for f in drawn] == [f"overlap--tiny-{half}--all--default" for half in ("decoder", "encoder")]
    assert drawn[0].svg.count("MixLoRA") >= 1 and "left answer" in drawn[0].svg


def test_the_page_shows_them(tiny_report):
    page = (tiny_report / "index.html").read_text(encoding="utf-8")
    for words in (
        "scores side by side",
        "What the mixtures were made of",
        "Routing by task",
        "Which tasks share experts?",
    ):
        assert words in page
    for name in ("interference", "mixtures", "routing-tasks"):
        assert all((tiny_report / "tables" / f"{name}.{ending}").is_file() for ending in ("csv", "md", "tex"))
