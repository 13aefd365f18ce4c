"""What the report says of routers and experts: from known records, and from runs that only seeds tell apart."""

import csv
import json
import shutil

import numpy as np
import pytest
import synthetic_records as made
from safetensors.numpy import save

from moelora.errors import RecordError
from moelora.files import atomic_write_json, read_json, sha256_file
from moelora.records import read_record
from moelora.reporting import cells, collect, command, publish, routing_tables
from moelora.reporting.agreement import MOST_OTHERS, agreements
from moelora.reporting.diagnostics import routers
from moelora.reporting.runs import Run, Suite

MODULE = "encoder.layer.0.output.dense"


def write_seeds(root, choices, items="the same"):
    """Write one variant's runs whose only router made the given choices, one run a seed; return the manifest."""
    entries = []
    for seed, chosen in enumerate(choices):
        entry = made.make_run(root, "s", "m", "mrpc", ["mrpc"], "mixlora", "default", seed, 0.8)
        folder = root / "s" / entry["folder"]
        record = read_json(folder / "record.json")
        (folder / "routing.safetensors").write_bytes(save({MODULE: np.asarray(chosen, dtype=np.uint8)}))
        record["routing"] = [row for row in record["routing"] if row["module"] == MODULE]
        record["diagnostics"]["choices"] |= {"sha256": sha256_file(folder / "routing.safetensors")}
        record["diagnostics"]["choices"]["items"] = items if isinstance(items, str) else items[seed]
        atomic_write_json(folder / "record.json", record)
        entries.append(entry | {"record_sha256": sha256_file(folder / "record.json")})
    (manifest,) = made.finish(root, "s", entries)
    return manifest


def pairs(frame):
    """Return (seed, other seed) → row, of all runs."""
    runs = Suite.from_frame(frame).runs
    return {(run.seed, row["seed"]): row for run in runs for row in run.agreement}


def test_experts_under_other_numbers_agree_fully(tmp_path):
    first = np.random.default_rng(0).integers(0, 4, 300)
    other = np.random.default_rng(1).integers(0, 4, 300)
    manifest = write_seeds(tmp_path, [first, np.array([3, 1, 0, 2])[first], other])
    found = pairs(collect.collect_records([manifest]))
    assert set(found) == {(1, 0), (2, 0), (2, 1)}
    assert (found[1, 0]["matched"], found[1, 0]["ami"]) == (1.0, pytest.approx(1.0))
    assert found[2, 0]["matched"] == found[2, 1]["matched"] == pytest.approx(found[2, 0]["chance"], abs=0.06)
    assert found[2, 0]["ami"] == pytest.approx(0, abs=0.02)
    assert {(row["module"], row["layer"], row["tokens"]) for row in found.values()} == {(MODULE, 0, 300)}


def test_a_run_is_compared_with_the_next_smaller_seeds_only(tmp_path):
    choices = [np.arange(20) % 3] * (MOST_OTHERS + 3)
    found = pairs(collect.collect_records([write_seeds(tmp_path, choices)]))
    last = len(choices) - 1
    assert {other for seed, other in found if seed == last} == set(range(last - MOST_OTHERS, last))
    assert len(found) == sum(min(seed, MOST_OTHERS) for seed in range(len(choices)))


def test_runs_that_saw_other_items_are_not_compared(tmp_path):
    choices = [np.zeros(10)] * 3
    frame = collect.collect_records([write_seeds(tmp_path, choices, items=["a", "b", "a"])])
    assert set(pairs(frame)) == {(2, 0)}


def test_changed_choices_are_refused_and_missing_ones_are_no_agreement(tmp_path):
    manifest = write_seeds(tmp_path, [np.zeros(10), np.ones(10)])
    path = next(tmp_path.rglob("seed1/routing.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordError, match=r"seed1/routing\.safetensors were truncated or changed"):
        collect.collect_records([manifest])
    path.unlink()
    assert pairs(collect.collect_records([manifest])) == {}


def test_agreement_is_published_with_the_record(tmp_path):
    first = np.random.default_rng(2).integers(0, 4, 200)
    frame = collect.collect_records([write_seeds(tmp_path, [first, (first + 1) % 4])])
    paths = publish.publish_records(frame, tmp_path / "published")
    assert all(read_record(path)["diagnostics"]["choices"] is None for path in paths)
    shutil.rmtree(tmp_path / "s")
    again = pairs(collect.collect_records(paths))
    assert set(again) == {(1, 0)}
    assert again[1, 0]["chance"] == pytest.approx(pairs(frame)[1, 0]["chance"], abs=1e-5)


def test_old_records_still_fit_the_schema_and_show_without_diagnostics(tmp_path):
    entry = made.make_run(tmp_path, "s", "m", "mrpc", ["mrpc"], "lora-smoe", "default", 0, 0.8)
    record = read_record(tmp_path / "s" / entry["folder"] / "record.json")
    assert "diagnostics" not in record and "entropy" not in record["routing"][0]
    frame = collect.collect_records(made.finish(tmp_path, "s", [entry]))
    command.write_report(frame, [], tmp_path / "report", {"name": "s"})
    assert "None." in (tmp_path / "report" / "tables" / "routing.md").read_text()
    assert 'id="routers"' not in (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "figures" / "load--m--default.svg").is_file()
    assert agreements([(tmp_path / "record.json", record)]) == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["diagnostics"].pop("similarity"),
        lambda record: record["diagnostics"]["choices"].update(sha256="abc"),
        lambda record: record["routing"][0].update(dead=-1),
        lambda record: record.update(agreement=[{"seed": 0}]),
    ],
)
def test_diagnostics_of_another_shape_are_refused(tmp_path, change):
    entry = made.make_run(tmp_path, "s", "m", "mrpc", ["mrpc"], "mixlora", "default", 0, 0.8)
    path = tmp_path / "s" / entry["folder"] / "record.json"
    record = read_record(path)
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="no record of schema 1"):
        read_record(path)


def test_routers_gather_runs_and_the_matrices_of_a_block():
    def row(module, share, dead):
        return {"module": module, "layer": 1, "experts": 4, "entropy_share": share, "dead": dead, "load_cv": 0.5}

    def alike(module, role, mean, most):
        return {"module": module, "role": role, "layer": 1, "experts": 4, "mean": mean, "max": most}

    record = {
        "routing": [row("l.1.mlp", {"a": 0.2, "b": 0.6}, 1)],
        "diagnostics": {"similarity": [alike("l.1.mlp", "gate", 0.1, 0.3), alike("l.1.mlp", "up", 0.3, 0.9)]},
    }
    untrained = {
        "routing": [row("l.1.mlp", {"a": 1.0, "b": 1.0}, 0)],
        "diagnostics": {"similarity": [alike("l.1.mlp", "gate", None, None), alike("l.1.mlp", "up", None, None)]},
    }
    agreed = [{"seed": 0, "module": "l.1.mlp", "layer": 1, "tokens": 9, "matched": 0.9, "chance": 0.4, "ami": None}]
    (router,) = routers([Run(record), Run(untrained, {}, agreed)])
    assert router.entropy == pytest.approx([0.4, 1.0])
    assert (router.dead, router.similarity, router.closest) == ([1, 0], [pytest.approx(0.2)], [0.9])
    assert (router.matched, router.chance, router.ami) == ([0.9], [0.4], [])


def test_the_table_says_what_the_records_say(glue_suite):
    frame, _costs, document, _root = glue_suite
    suite = Suite.from_frame(frame, document)
    table = routing_tables.routing_table(suite, cells.panels(suite))
    names = [label for label, _ in table.columns]
    rows = [dict(zip(names, [e.text for e in row.entries], strict=True)) for row in table.rows]
    assert {(r["Variant"], r["Settings"]) for r in rows} == {
        (variant, regime)
        for variant in ("MixLoRA", "Dense MoE LoRA")
        for regime in ("Published settings", "Tuned equally")
    }
    tuned = next(r for r in rows if (r["Variant"], r["Settings"]) == ("MixLoRA", "Tuned equally"))
    # Twelve routers, one of them with one dead expert, at three seeds that make three pairs.
    assert (tuned["Routers"], tuned["Runs"], tuned["Dead experts"], tuned["Seed pairs"]) == ("12", "3", "3 of 144", "3")
    runs = [r for r in suite.runs if (r.variant, r.regime) == ("mixlora", "tuned")]
    shares = [x for r in runs for row in r.record["routing"] for x in row["entropy_share"].values()]
    assert float(tuned["Entropy"]) == pytest.approx(np.mean(shares), abs=0.006)
    assert float(tuned["Seeds agree, %"]) > 1.5 * float(tuned["By chance, %"])
    assert next(r for r in rows if r["Settings"] == "Published settings")["Seeds agree, %"] == "–"


def test_the_report_shows_them(tiny_report):
    page = (tiny_report / "index.html").read_text(encoding="utf-8")
    assert 'id="routers"' in page and "Do the experts differ, and do seeds agree?" in page
    assert "once their experts are matched; by chance it would be" in page
    with (tiny_report / "tables" / "routers.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    dead = {row["Module"]: row["Dead, a run"] for row in found if row["Trained on"] == "all"}
    assert dead[MODULE] == "1.00" and dead["encoder.layer.1.output.dense"] == "0.00"
    assert "\\toprule" in (tiny_report / "tables" / "routing.tex").read_text(encoding="utf-8")
    assert (tiny_report / "figures" / "routers--tiny-encoder--all--default.svg").is_file()
    assert (tiny_report / "figures" / "experts--tiny-encoder--all--default.svg").is_file()
