import json

import pytest
import synthetic_records as made

from moelora import cli
from moelora.errors import RecordError
from moelora.reporting import collect, export

# What the tables of PEFT's method comparison read from a result file.
RUN_INFO = {"created_at", "total_time", "experiment_name", "peft_branch", "train_config", "peft_config", "error_msg"}
TRAIN_INFO = {
    "accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th", "train_time",
    "file_size", "num_trainable_params", "num_total_params", "status", "metrics",
}  # fmt: skip
META_INFO = {"model_info", "dataset_info", "package_info", "system_info", "pytorch_info"}


@pytest.fixture(scope="module")
def exported(glue_suite, tmp_path_factory):
    to = tmp_path_factory.mktemp("peft")
    return *export.export_records(glue_suite[0], to), to


def read(paths, text):
    return json.loads(next(p for p in paths if text in p.name).read_text(encoding="utf-8"))


def test_files_lie_where_the_tables_look(exported):
    written, left_out, to = exported
    assert all(p.parent == to / "mrpc" / "results" for p in written)
    assert left_out == {"a baseline without an adapter": 6}
    assert any(p.name == "mixlora--minilm--mrpc--mixlora--tuned--seed0.json" for p in written)


def test_every_key_that_is_read_is_there(exported):
    for path in exported[0]:
        document = json.loads(path.read_text(encoding="utf-8"))
        assert set(document) == {"run_info", "train_info", "meta_info", "moelora"}
        assert set(document["run_info"]) == RUN_INFO
        assert set(document["train_info"]) == TRAIN_INFO
        assert set(document["meta_info"]) == META_INFO
        assert document["run_info"]["experiment_name"].replace("/", "--") == path.stem
        packages = document["meta_info"]["package_info"]
        assert {f"{n}-version" for n in ("peft", "transformers", "datasets", "torch", "bitsandbytes")} <= set(packages)
        assert document["run_info"]["train_config"]["model_id"]
        assert all(isinstance(document["train_info"][k], int) for k in TRAIN_INFO if k.startswith("accelerator"))


def test_scores_and_methods_are_told_as_peft_tells_them(exported, glue_suite):
    document = read(exported[0], "dora--minilm--mrpc--dora--tuned--seed0")
    assert document["run_info"]["peft_config"] == {"peft_type": "LORA", "use_dora": True, "r": 8}
    last = document["train_info"]["metrics"][-1]
    assert set(last) == {"step", "test accuracy", "train loss", "train samples", "train total tokens"}
    frame = glue_suite[0]
    row = frame.query("variant == 'dora' and regime == 'tuned' and seed == 0 and metric == 'accuracy'")
    assert last["test accuracy"] == row["value"].item()
    assert read(exported[0], "mixlora--minilm")["run_info"]["peft_config"]["peft_type"] == "MIXLORA"


def test_failed_runs_are_failed_there_too(exported):
    document = read(exported[0], "dora--tuned--seed2")
    assert document["train_info"]["status"] == "failed"
    assert document["train_info"]["metrics"] == []
    assert document["run_info"]["error_msg"] == "failed: the job was killed"


def test_what_records_do_not_have_is_said(exported):
    document = read(exported[0], "mixlora--minilm")
    assert any("not recorded" in note for note in document["moelora"]["notes"])
    assert document["moelora"]["score"]["main_metric"] == "accuracy"


def test_full_fine_tuning_has_no_config_and_tasks_without_accuracy_stay_behind(tmp_path):
    entry = made.make_run(tmp_path, "s", "m", "t", ["t"], "full", "default", 0, 0.8)
    (manifest,) = made.finish(tmp_path, "s", [entry])
    frame = collect.collect_records([manifest])
    record = json.loads(frame["record"][0])
    assert export.result_of(record, "t")["run_info"]["peft_config"] is None
    record["scores"]["t"]["metrics"] = {"matthews": 0.3}
    assert export.why_not(record, "t") == "its task has no accuracy"
    record["scores"]["t"] |= {"metrics": {"acc_label_logits": 0.3}, "protocol": "label-logits"}
    assert export.why_not(record, "t").startswith("scored under label-logits")
    with pytest.raises(RecordError, match="no record"):
        export.export_records(frame.iloc[:0], tmp_path)


def test_the_verb_says_what_it_wrote_and_left_out(glue_suite, tmp_path, capsys):
    collect.write_records(glue_suite[0], tmp_path / "records.parquet")
    assert cli.main(["export", "--records", str(tmp_path / "records.parquet"), "--to", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("wrote ")
    assert "left out 6: a baseline without an adapter" in captured.err
