import json
import shutil

import pandas as pd
import pytest
import synthetic_records

from moelora.errors import RecordError
from moelora.records import read_record
from moelora.reporting import collect
from moelora.reporting.agreement import agreements, watched_part


@pytest.fixture
def small(tmp_path):
    entry = synthetic_records.make_run(tmp_path, "s", "m", "t", ["t"], "lora", "default", 0, 0.8)
    other = synthetic_records.make_run(
        tmp_path, "s", "m", "t", ["t"], "mixlora", "default", 0, 0.8, status="diverged", reason="loss is NaN at step 40"
    )
    (manifest,) = synthetic_records.finish(tmp_path, "s", [entry, other])
    return manifest, tmp_path / "s" / entry["folder"] / "record.json"


def test_one_row_a_scored_task_and_metric_and_one_for_a_run_without_scores(small):
    frame = collect.collect_records([small[0]])
    assert frame[["variant", "status", "scored_task", "metric"]].fillna("").values.tolist() == [
        ["lora", "finished", "t", "accuracy"],
        ["lora", "finished", "t", "macro_f1"],
        ["mixlora", "diverged", "", ""],
    ]
    assert frame["reason"].tolist()[2] == "loss is NaN at step 40"
    assert json.loads(frame["record"][0])["variant"] == "lora"
    assert len(frame["item_correct"][0]) == 120


def test_written_rows_come_back(small, tmp_path):
    frame = collect.collect_records([small[0]])
    collect.write_records(frame, tmp_path / "records.parquet")
    again = collect.read_records(tmp_path / "records.parquet")
    assert again["record"].tolist() == frame["record"].tolist()
    assert again["value"].tolist()[:2] == frame["value"].tolist()[:2]
    assert again["item_correct"][0].tolist() == frame["item_correct"][0].tolist()


def test_the_order_of_manifests_does_not_matter(tiny_suite, tmp_path):
    manifests = sorted((tiny_suite[3] / "tiny" / "jobs").iterdir())
    for name, order in (("a", manifests), ("b", manifests[::-1])):
        collect.write_records(collect.collect_records(order), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_truncated_record_is_named(small):
    manifest, record = small
    record.write_bytes(record.read_bytes()[:200])
    with pytest.raises(RecordError, match="truncated or was changed") as error:
        collect.collect_records([manifest])
    assert str(record) in str(error.value)
    assert "run the job again" in str(error.value)


def test_a_missing_record_is_named(small):
    manifest, record = small
    record.unlink()
    with pytest.raises(RecordError, match="does not exist") as error:
        collect.collect_records([manifest])
    assert str(record) in str(error.value)


def test_a_record_that_does_not_fit_the_schema_is_named(small):
    _, record = small
    document = json.loads(record.read_text())
    document["seed"] = "zero"
    record.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="seed") as error:
        collect.collect_records([record])
    assert str(record) in str(error.value)


def test_truncated_items_are_named(small):
    manifest, record = small
    items = record.with_name("items.parquet")
    items.write_bytes(items.read_bytes()[:100])
    with pytest.raises(RecordError, match=r"items\.parquet"):
        collect.collect_records([manifest])


def test_two_different_records_of_one_run_are_refused(small, tmp_path):
    manifest, record = small
    copy = tmp_path / "copy.json"
    shutil.copy(record, copy)
    assert len(collect.collect_records([manifest, copy])) == 3  # the same record twice is one record
    document = json.loads(copy.read_text())
    copy.write_text(json.dumps({**document, "reason": "edited"}))
    with pytest.raises(RecordError, match="two different records"):
        collect.collect_records([manifest, copy])


def test_a_record_that_is_named_beside_its_manifest_is_one_record(small):
    manifest, record = small
    assert len(collect.collect_records([manifest, record])) == 3


def test_compared_records_need_no_more_than_what_is_kept_of_them(tiny_suite):
    files = sorted((tiny_suite[3] / "tiny").rglob("record.json"))
    records = [(file, read_record(file)) for file in files]
    kept = [(file, watched_part(record)) for file, record in records]
    found = agreements(kept)
    assert found and found == agreements(records)


def test_a_truncated_table_is_named(small, tmp_path):
    path = tmp_path / "records.parquet"
    collect.write_records(collect.collect_records([small[0]]), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RecordError, match=r"records\.parquet is truncated"):
        collect.read_records(path)
    with pytest.raises(RecordError, match="does not exist"):
        collect.read_records(tmp_path / "nothing.parquet")


def test_a_table_of_another_version_is_refused(tmp_path):
    path = tmp_path / "records.parquet"
    pd.DataFrame({"id": ["x"]}).to_parquet(path)
    with pytest.raises(RecordError, match="lacks the columns"):
        collect.read_records(path)


def test_records_without_any_items_are_written(small, tmp_path):
    record = json.loads(small[1].read_text())
    published = tmp_path / "published.json"
    published.write_text(json.dumps({**record, "items": None}))
    frame = collect.collect_records([published])
    collect.write_records(frame, tmp_path / "records.parquet")
    assert collect.read_records(tmp_path / "records.parquet")["item_correct"].isna().all()
