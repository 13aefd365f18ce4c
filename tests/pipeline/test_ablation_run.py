"""A few cells of the router ablation, from the suite's file to the report, on a model of a few thousand weights."""

import shutil
from pathlib import Path

import yaml
from world import model_document, task_document

from moelora.config import load_yaml
from moelora.files import read_json
from moelora.plans import expand, layout
from moelora.plans.controls import CONTROLS, control_name
from moelora.reporting import collect, command
from moelora.training.command import write_manifest
from moelora.training.identity import open_run
from moelora.training.run import carry_out

WORKFLOW = Path(__file__).parents[2] / "workflow"


def small_suite(root: Path) -> "tuple[dict, Path]":
    """Return the router ablation cut down to one sweep of MixLoRA on the small encoder, and its configuration."""
    shutil.copytree(WORKFLOW / "schemas", root / "schemas")
    shutil.copytree(WORKFLOW / "config", root / "config")
    for kind, document in (("models", model_document("encoder")), ("tasks", task_document("mood"))):
        (root / "config" / kind / f"{document['name']}.yaml").write_text(yaml.safe_dump(document))
    suite = load_yaml(root / "config" / "suites" / "ablate-router.yaml")
    suite["grid"] = [{"models": ["test-encoder"], "tasks": ["tiny-mood"]}]
    suite["variants"] = ["majority", "base", "lora", "mixlora"]
    levels = suite["sweeps"][1]["axes"]["experts_per_token"]
    suite["sweeps"] = [{"variant": "mixlora", "axes": {"k": {name: levels[name] for name in ("k1", "k2")}}}]
    suite["controls"] = {"mixlora-k2": suite["controls"]["mixlora-k2"]}
    suite["regimes"] = {"default": {"seeds": [0]}}
    suite["training"] |= {"epochs": None, "max_steps": 6, "batch_size": 8, "learning_rate": 1.0e-2}
    return suite, root / "config"


def test_cells_of_the_router_ablation_from_the_suite_to_the_report(world, tmp_path):
    expansion = expand(*small_suite(tmp_path / "workflow"))
    root = tmp_path / "results" / expansion.suite["name"]
    expansion.write(root)
    runs, records = [], {}
    for run in expansion.runs:
        runs.append(open_run(root / run.plan_path, "code", world / "data", world / "encoder"))
        records[run.variant.name] = carry_out(runs[-1], evaluate=True)
    assert {record["status"] for record in records.values()} == {"finished"}
    controls = {kind: control_name(kind, "mixlora-k2") for kind in CONTROLS}
    assert set(records) == {"majority", "base", "lora", "mixlora-k1", "mixlora-k2", *controls.values()}

    size = {name: record["parameters"] for name, record in records.items()}
    mixture = size["mixlora-k2"]
    for kind, count in (("equal_trainable", "trainable"), ("equal_active", "active")):
        match = records[controls[kind]]["match"]
        assert match["target"] == mixture[count] and match["reached"] == size[controls[kind]][count]
        per_rank = (match["reached"] - mixture["parts"]["head"]) / match["rank"]
        assert abs(match["reached"] - match["target"]) <= per_rank / 2, "no other rank is nearer"
    assert size[controls["frozen_router"]]["trainable"] == mixture["trainable"] - mixture["parts"]["router"]
    assert size[controls["one_expert"]]["active"] == size[controls["one_expert"]]["trainable"] < mixture["trainable"]
    assert all(value == 0 for _, value in records[controls["no_balance"]]["training"]["balance_curve"])
    assert any(value > 0 for _, value in records["mixlora-k2"]["training"]["balance_curve"])
    assert records[controls["frozen_router"]]["routing"], "a frozen router routes, and is watched like another"

    manifest = root / layout.manifest("all")
    write_manifest(manifest, runs)
    frame = collect.collect_records([manifest])
    assert frame["chance_low"].notna().any()
    command.write_report(frame, [], tmp_path / "report", read_json(root / layout.SUITE))
    table = (tmp_path / "report" / "tables" / "headline.md").read_text(encoding="utf-8")
    order = [line.split("|")[1].strip(" ‡") for line in table.splitlines() if line.startswith("|")][2:]
    rank = {kind: records[controls[kind]]["match"]["rank"] for kind in ("equal_trainable", "equal_active")}
    assert order == [
        "Majority class",
        "Base model, head only",
        "LoRA",
        "MixLoRA k1",
        "MixLoRA k2",
        f"↳ LoRA as large as MixLoRA k2 (r {rank['equal_trainable']})",
        f"↳ LoRA with the active parameters of MixLoRA k2 (r {rank['equal_active']})",
        "↳ MixLoRA k2 with one expert",
        "↳ MixLoRA k2 with a random frozen router",
        "↳ MixLoRA k2 without balance loss",
    ]
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert expansion.suite["question"]["asks"] in page
