"""The comparison behind the kills finds what it is there to find."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from same_results import contradictions, differences, left_over

RUN = "tiny-encoder/tiny-mood/lora/seed0"


def write(path: Path, document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_manifest(root: Path, job: str = "job") -> None:
    record = (root / RUN / "record.json").read_bytes()
    write(root / f"jobs/{job}.json", {"runs": [{"folder": RUN, "record_sha256": hashlib.sha256(record).hexdigest()}]})


def write_results(root: Path, seconds: float) -> Path:
    """Write results whose times, machine and resumes follow from ``seconds``."""
    training = {"seconds": seconds, "cpu_seconds": seconds, "resumed": int(seconds), "loss_curve": [[1, 0.5]]}
    costs = {"peak_memory_bytes": int(seconds), "adapter_bytes": 7}
    record = {"scores": {"accuracy": 0.75}, "training": training, "costs": costs, "environment": {"started": seconds}}
    write(root / RUN / "record.json", record)
    (root / RUN / "adapter").mkdir()
    (root / RUN / "adapter/adapter_model.safetensors").write_bytes(bytes(range(64)))
    write(root / RUN / "log.txt", seconds)
    write(root / "logs/train/job.log", seconds)
    write(root / "tiny-encoder/costs.json", seconds)
    write(root / f"{RUN}/.record.json.{int(seconds)}.tmp", seconds)
    write_manifest(root)
    return root


@pytest.fixture
def folders(tmp_path):
    return write_results(tmp_path / "found", 1.0), write_results(tmp_path / "expected", 2.0)


def test_times_memory_and_machine_may_differ(folders):
    assert differences(*folders) == []
    assert left_over(folders[0]) == [".record.json.#.tmp"]


@pytest.mark.parametrize("name", [f"{RUN}/record.json", f"{RUN}/adapter/adapter_model.safetensors", "jobs/job.json"])
def test_what_is_missing_or_too_much_is_named(folders, name):
    found, expected = folders
    (found / name).unlink()
    assert f"missing: {name}" in differences(found, expected)
    assert f"not expected: {name}" in differences(expected, found)


def test_one_bit_of_an_adapter_is_seen(folders):
    path = folders[0] / RUN / "adapter/adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert differences(*folders) == [f"differs: {RUN}/adapter/adapter_model.safetensors"]


@pytest.mark.parametrize(
    "change", [{"scores": {"accuracy": 0.7500001}}, {"training": {"loss_curve": [[1, 0.25]]}}, {"costs": {}}]
)
def test_another_value_in_a_record_is_seen(folders, change):
    path = folders[0] / RUN / "record.json"
    write(path, json.loads(path.read_text()) | change)
    write_manifest(folders[0])
    assert differences(*folders) == [f"differs: {RUN}/record.json"]


def test_a_record_that_is_not_its_jobs_and_a_run_of_two_jobs_are_seen(folders):
    found, _ = folders
    assert contradictions(found) == []
    write(found / RUN / "record.json", {"scores": {}})
    assert contradictions(found) == [f"no longer what its job left: {RUN}/record.json"]
    write_manifest(found)
    write_manifest(found, "again")
    assert contradictions(found) == [f"in 2 jobs: {RUN}"]


def test_rows_of_the_table_are_counted(folders):
    import pyarrow
    import pyarrow.parquet

    found, expected = folders
    row = {"id": "a", "scored_task": "tiny-mood", "metric": "accuracy", "record": '{"training": {"seconds": 1.0}}'}
    slower = {**row, "record": '{"training": {"seconds": 2.0}}'}

    def write_table(folder, rows):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "records.parquet")

    write_table(found, [row])
    write_table(expected, [slower])
    assert differences(found, expected) == []
    write_table(found, [row, row])
    assert "2 rows for: a tiny-mood accuracy" in differences(found, expected)
    write_table(found, [{**row, "id": "b"}, row])
    assert "1 records, but 2 in records.parquet" in contradictions(found)
    shutil.rmtree(found / RUN)
    assert f"no longer what its job left: {RUN}/record.json" in contradictions(found)
