"""Scores of different protocols never share a column, and no average is over two."""

import json

import synthetic_records as made

from moelora.files import atomic_write_json, sha256_file
from moelora.reporting import cells, collect, render, tables
from moelora.reporting.runs import Suite

METRICS = {
    "lm-eval": "acc",
    "label-logits": "acc_label_logits",
    "generate-regex": "acc_generate_regex",
}


def scored_under(root, suite, entry, protocol):
    """Give a made record's scores a protocol and its metric; return its entry for the manifest."""
    path = root / suite / entry["folder"] / "record.json"
    record = json.loads(path.read_text())
    for score in record["scores"].values():
        value, majority = score["metrics"]["accuracy"], score["majority"]["accuracy"]
        metric = METRICS[protocol]
        score |= {
            "metrics": {metric: value},
            "majority": {metric: majority},
            "main_metric": metric,
            "protocol": protocol,
        }
    for document in record["plan"]["tasks"]:
        document["protocol"] = protocol
    atomic_write_json(path, record)
    return entry | {"record_sha256": sha256_file(path)}


def mixed_panel(tmp_path, tasks, fate="finished"):
    """Return a panel whose records differ in nothing that a table shows but variant, seed and protocol."""
    entries = []
    for seed, protocol in enumerate(METRICS):
        for variant, accuracy in (("lora", 0.5 + 0.1 * seed), ("dora", 0.9)):
            for task in tasks:
                status = fate if (variant, task) == ("dora", tasks[0]) else "finished"
                entry = made.make_run(
                    tmp_path, "s", "m", task, [task], variant, "published", seed, accuracy, n_items=200,
                    synthetic=False, status=status, reason=None if status == "finished" else "loss is NaN",
                )  # fmt: skip
                entries.append(scored_under(tmp_path, "s", entry, protocol))
    frame = collect.collect_records(made.finish(tmp_path, "s", entries))
    (panel,) = cells.panels(Suite.from_frame(frame, {"name": "s", "variants": ["lora", "dora"]}))
    return panel, frame


def test_a_table_that_mixes_protocols_has_a_column_for_each(tmp_path):
    panel, frame = mixed_panel(tmp_path, ["mrpc"])
    assert [(c.task, c.protocol, c.metric) for c in panel.columns] == [
        ("mrpc", protocol, METRICS[protocol]) for protocol in sorted(METRICS)
    ]
    for index, column in enumerate(panel.columns):
        for variant in panel.variants:
            (run,) = panel.cells[variant, index].runs
            assert run.scores["mrpc"].protocol == column.protocol
    header = render.markdown([tables.headline(panel)]).splitlines()[2]
    for words in ("accuracy |", "accuracy, label logits", "accuracy, generated"):
        assert words in header
    rows = frame[frame["is_main"]]
    assert set(zip(rows["protocol"], rows["metric"], strict=True)) == set(METRICS.items())


def test_averages_are_over_one_protocol(tmp_path):
    panel, _ = mixed_panel(tmp_path, ["mrpc", "rte"])
    averages = [c for c in panel.columns if c.task == cells.AVERAGE]
    assert [c.protocol for c in averages] == sorted(METRICS)
    for index, column in enumerate(panel.columns):
        if column.task == cells.AVERAGE:
            runs = panel.cells["lora", index].runs
            assert {run.protocol(run.task) for run in runs} == {column.protocol} and len(runs) == 2
    header = render.markdown([tables.headline(panel)]).splitlines()[2]
    assert "over tasks, label-logits" in header
    metrics = tables.all_metrics(panel.suite, [panel])
    assert {row.entries[5].text for row in metrics.rows} == {
        "accuracy", "accuracy, label logits", "accuracy, generated",
    }  # fmt: skip


def test_a_run_without_a_score_is_missing_under_its_own_protocol(tmp_path):
    panel, _ = mixed_panel(tmp_path, ["mrpc"], fate="diverged")
    for index, column in enumerate(panel.columns):
        cell = panel.cells["dora", index]
        assert cell.scores is None and [run.protocol("mrpc") for run in cell.lost] == [column.protocol]


def test_one_protocol_needs_no_words_about_it(tmp_path):
    entries = [
        made.make_run(tmp_path, "s", "m", task, [task], "lora", "published", 0, 0.8, n_items=50, synthetic=False)
        for task in ("mrpc", "rte")
    ]
    frame = collect.collect_records(made.finish(tmp_path, "s", entries))
    (panel,) = cells.panels(Suite.from_frame(frame, {"name": "s", "variants": ["lora"]}))
    assert "Average<br>over tasks |" in render.markdown([tables.headline(panel)]).splitlines()[2]
