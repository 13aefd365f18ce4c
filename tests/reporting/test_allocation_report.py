"""What the report says of allocations: tables, maps, score against budget, agreement of samples."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from moelora.allocation.stability import agreement_rows
from moelora.cli import main
from moelora.errors import RecordError
from moelora.reporting import allocation_tables, cells, command, figures
from moelora.reporting.figures import placements
from moelora.reporting.placed import placed
from moelora.reporting.runs import Run, Score, Suite

KINDS = {"query": ("attention", "attention.self.query"), "up": ("feed_forward", "intermediate.dense")}
MODULES = {f"encoder.layer.{layer}.{path}": (layer, kind) for layer in range(3) for kind, (_, path) in KINDS.items()}
MODEL = {
    "name": "m", "title": "A model", "modules": {part: {kind: path} for kind, (part, path) in KINDS.items()},
}  # fmt: skip
SENSITIVITY = {"mood": {m: 1.0 + i for i, m in enumerate(MODULES)}, "odd": {m: 60.0 - i for i, m in enumerate(MODULES)}}


def allocation(strategy: str, each: int, **settings) -> dict:
    experts = {module: each + (place % 2) for place, module in enumerate(MODULES)}
    return {
        "schema": 2, "strategy": strategy, "experts": experts, "budget": sum(experts.values()),
        "parameters": 100 * sum(experts.values()),
        "settings": {"budget": {"uniform": each}, "score": "sum", **settings},
        "types": {m: kind for m, (_, kind) in MODULES.items()},
        "layers": {m: layer for m, (layer, _) in MODULES.items()},
        "shapes": {m: [4, 8] for m in MODULES}, "sensitivity": SENSITIVITY,
    }  # fmt: skip


def run(variant: str, size: int, value: float, seed: int = 0, task: str = "mood", **extra) -> Run:
    record = {
        "id": f"{variant}{seed}{task}", "status": "finished", "reason": None, "suite": "s", "model": "m", "task": task,
        "variant": variant, "method": "lora" if variant.startswith("lora-match") else "lora_smoe",
        "regime": "published", "seed": seed,
        "plan": {"model": MODEL, "tasks": [{"name": task, "title": task.capitalize()}]},
        "parameters": {"trainable": size, "active": size, "total": size, "parts": {}}, "training": {"seconds": 1.0},
        "plan_hash": "0", "fingerprint": "0", "match": None, "allocation": None, "environment": {}, **extra,
    }  # fmt: skip
    interval = (value - 0.05, value + 0.05)
    score = Score(task, {"accuracy": value}, "accuracy", 100, 0.5, {"accuracy": 0.5}, False, interval, True, None)
    return Run(record, {task: score})


@pytest.fixture
def suite() -> Suite:
    runs = []
    for place, strategy in enumerate(("greedy", "random")):
        for each, budget in ((1, "low"), (2, "high")):
            for seed in range(2):
                found = allocation(strategy, each)
                name = f"lora_smoe-{strategy}-{budget}"
                runs.append(run(name, 1000 * each + place, 0.6 + 0.1 * each, seed, allocation=found))
    runs.append(run("lora_smoe-vote", 1500, 0.7, allocation=allocation("smoe_percentile", 1, budget=None)))
    match = {"variant": "lora_smoe-greedy-low", "rank": 4, "target": 1000, "reached": 990}
    runs.append(run("lora-match-lora_smoe-greedy-low", 990, 0.65, match=match))
    names = ["lora_smoe-greedy-low", "lora_smoe-greedy-high", "lora_smoe-random-low", "lora_smoe-random-high"]
    expanded = [
        {"name": name, "placement": dict(zip(("strategy", "budget"), name.split("-")[1:], strict=True))}
        for name in names
    ]
    expanded.append({"name": "lora_smoe-vote", "placement": {"strategy": "vote", "budget": None}})
    return Suite(runs, {"variants": ["lora_smoe"], "expanded": {"variants": expanded}, "grid": [{"models": ["m"]}]})


def rows_of(table) -> list[list[str]]:
    return [[entry.text for entry in row.entries] for row in table.rows]


def test_variants_stand_in_the_order_of_their_placements(suite):
    assert suite.variants(suite.runs) == [
        "lora_smoe-greedy-low", "lora-match-lora_smoe-greedy-low", "lora_smoe-greedy-high", "lora_smoe-random-low",
        "lora_smoe-random-high", "lora_smoe-vote",
    ]  # fmt: skip


def test_every_allocation_is_one_row(suite):
    rows = rows_of(allocation_tables.allocations_table(suite, placed(suite)))
    assert len(rows) == 5
    assert rows[0] == [
        "LoRA-SMoE greedy-low", "m", "all tasks", "greedy", "sum", "1 uniform", "9", "6 of 6", "2", "900",
    ]  # fmt: skip
    assert rows[-1][3:6] == ["smoe_percentile", "sum", "–"]


def test_modules_and_sensitivities_have_their_place_and_shape(suite):
    found = placed(suite)
    modules = rows_of(allocation_tables.experts_table(suite, found))
    assert len(modules) == 5 * 6
    first = modules[0]
    assert first[3:8] == ["encoder.layer.0.attention.self.query", "0", "query", "4 × 8", "1"]
    share = (1 / 21 + 60 / (6 * 60 - 15)) / 2
    assert float(first[8]) == pytest.approx(100 * share, abs=5e-4)
    rows = rows_of(allocation_tables.sensitivity_table(suite, found))
    assert len(rows) == 2 * 6  # once a task, however many allocations used it
    assert rows[0] == [
        "m",
        "Mood",
        "sum",
        "encoder.layer.0.attention.self.query",
        "0",
        "query",
        "4 × 8",
        "1.000000e+00",
    ]


def test_scores_that_overflowed_have_no_share(suite):
    overflowed = {**SENSITIVITY, "odd": {**SENSITIVITY["odd"], next(iter(MODULES)): None}}
    one = run("lora_smoe", 1, 0.5, allocation={**allocation("smoe_budget", 1), "sensitivity": overflowed})
    suite = Suite([one], {})
    (found,) = placed(suite)
    assert found.shares() == pytest.approx({m: s / 21 for m, s in SENSITIVITY["mood"].items()})
    assert "overflow" in [row[-1] for row in rows_of(allocation_tables.sensitivity_table(suite, [found]))]


def test_allocations_from_a_tasks_own_sensitivities_are_told_apart():
    own = [
        run("lora_smoe", 1, 0.5, task=task, allocation=allocation("greedy", each, tasks="own"))
        for each, task in ((1, "mood"), (2, "odd"))
    ]
    suite = Suite(own, {})
    assert [one.task for one in placed(suite)] == ["mood", "odd"]
    drawn = figures.draw_all(suite, cells.panels(suite), [], [])
    assert {f.name for f in drawn if f.family == "allocation"} == {
        "allocation--m--lora_smoe--mood", "allocation--m--lora_smoe--odd",
    }  # fmt: skip


def test_lines_join_the_budgets_of_a_strategy(suite):
    (panel,) = cells.panels(suite)
    assert placements.budget_lines(suite, panel, "published") == {
        "greedy": [(1000, "lora_smoe-greedy-low"), (2000, "lora_smoe-greedy-high")],
        "random": [(1001, "lora_smoe-random-low"), (2001, "lora_smoe-random-high")],
        "vote": [(1500, "lora_smoe-vote")],
        "LoRA of equal parameters": [(990, "lora-match-lora_smoe-greedy-low")],
    }


def test_strategies_are_drawn_side_by_side(suite):
    drawn = {f.name: f for f in figures.draw_all(suite, cells.panels(suite), [], [])}
    scores = drawn["placements--m--published"]
    text = "".join(ElementTree.fromstring(scores.svg).itertext())
    assert all(name in text for name in ("greedy", "random", "vote", "LoRA of equal parameters"))
    assert {name for name in drawn if name.startswith("maps--")} == {
        "maps--m--low",
        "maps--m--high",
        "maps--m--own-total",
    }
    text = "".join(ElementTree.fromstring(drawn["maps--m--low"].svg).itertext())
    assert "greedy: 9" in text and "random: 9" in text and "sensitivity, % of the sum" in text


def test_a_suite_without_placements_has_no_such_figure(tiny_suite):
    frame, costs, document, _root = tiny_suite
    tiny = Suite.from_frame(frame, document)
    drawn = figures.draw_all(tiny, cells.panels(tiny), [], costs)
    assert not [f for f in drawn if f.family in ("placements", "stability")]
    assert [f for f in drawn if f.family == "allocation"]


def stability(model: str, task: str) -> dict:
    pools = {module: kind for module, (_, kind) in MODULES.items()}
    samples = {
        seed: {size: {m: (i + seed * size) % 7 + 1.0 for i, m in enumerate(MODULES)} for size in (8, 16)}
        for seed in range(3)
    }
    return {
        "schema": 1, "model": model, "task": task, "score": "sum", "votes": {"percentile": 40, "pool": "per_type"},
        "seeds": [0, 1, 2], "available": 64, "rows": agreement_rows(samples, pools, 40),
    }  # fmt: skip


def test_agreement_of_samples_is_a_table_and_a_figure(suite):
    documents = [stability("m", "mood"), stability("m", "odd")]
    table = allocation_tables.stability_table(suite, documents)
    rows = rows_of(table)
    # two tasks: sizes 8 and 16 against the same size (three pairs), size 8 against the largest (six)
    assert [(row[1], row[3], row[5]) for row in rows] == [
        (task, size, pairs) for task in ("Mood", "odd") for size, pairs in (("8", "3"), ("16", "3"), ("8", "6"))
    ]
    wanted = [r["spearman"] for r in documents[0]["rows"] if (r["against"], r["examples"]) == ("same_size", 8)]
    assert float(rows[0][6].replace("−", "-")) == pytest.approx(sum(wanted) / 3, abs=5e-4)
    assert "40th percentile, pool per_type" in table.note
    (figure,) = (f for f in figures.draw_all(suite, [], [], [], documents) if f.family == "stability")
    ElementTree.fromstring(figure.svg)
    assert allocation_tables.stability_table(suite, []).rows == []


def test_the_command_takes_agreement_and_puts_it_on_the_page(tiny_suite, tmp_path):
    frame, _costs, document, _root = tiny_suite
    path = tmp_path / "stability.json"
    path.write_text(json.dumps(stability("tiny-encoder", "sentiment")))
    frame.to_parquet(tmp_path / "records.parquet")
    (tmp_path / "suite.json").write_text(json.dumps(document))
    arguments = ["report", "--records", str(tmp_path / "records.parquet"), "--suite", str(tmp_path / "suite.json"),
                 "--stability", str(path), "--title", "t", "--out", str(tmp_path / "report")]  # fmt: skip
    assert main(arguments) == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "Agreement of small samples" in page and 'id="allocations"' in page
    assert (tmp_path / "report" / "figures" / "stability--tiny-encoder.svg").is_file()
    header = (tmp_path / "report" / "tables" / "sensitivity.csv").read_text().splitlines()[0]
    assert header == "Model,Task,Score,Module,Layer,Type,Shape,Sensitivity"
    path.write_text(json.dumps({"model": "m"}))
    with pytest.raises(RecordError, match="is no comparison of samples"):
        command.read_stability(path)
