"""Files of a finished run, truncated or with one bit turned round, and what the next start makes of them."""

import json
import shutil

import pytest
from world import plan, task_document, write_plan

from moelora.errors import AdapterError, RecordError
from moelora.models import load_base_model
from moelora.reporting.collect import collect_records
from moelora.sums import write_sums
from moelora.tasks import load_task
from moelora.training.identity import open_run
from moelora.training.parent import read_identity
from moelora.training.run import carry_out

VOLATILE = ("environment", "costs", "content_sha256")


def stable(record):
    kept = {key: value for key, value in record.items() if key not in VOLATILE}
    kept["training"] = {k: v for k, v in record["training"].items() if k not in ("seconds", "cpu_seconds", "resumed")}
    return kept


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, place: float = 0.5):
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def change_a_digit(path):
    """Turn round one bit of a number: the file stays JSON of the same form."""
    text = path.read_text(encoding="utf-8")
    place = text.index("0.", text.index('"loss_curve"')) + 2
    path.write_text(text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :], encoding="utf-8")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """Return the folder of a finished run with routers, its record, and how to open it."""
    root = tmp_path_factory.mktemp("finished")
    document = plan("encoder", [task_document("mood"), task_document("odd")], "mixlora", max_steps=4)
    document["diagnostics"] = {"routing": True}
    path = write_plan(root, document)
    run = open_run(path, "test", world / "data", world / "encoder")
    return root, path.relative_to(root), carry_out(run, evaluate=True)


@pytest.fixture
def run(finished, world, tmp_path):
    """A copy of the finished run that a test may damage."""
    root, path, _ = finished
    shutil.copytree(root, tmp_path / "copy")
    return open_run(tmp_path / "copy" / path, "test", world / "data", world / "encoder")


def lines(messages, word):
    return [line for line in messages if word in line]


@pytest.mark.parametrize("damage", [truncate, change_a_digit])
def test_a_damaged_train_json_is_noticed_and_made_again(finished, run, heard, damage):
    damage(run.folder / "train.json")
    (run.folder / "record.json").unlink()
    assert stable(carry_out(run, evaluate=True)) == stable(finished[2])
    assert len(lines(heard, "train.json")) == 1


@pytest.mark.parametrize("damage", [truncate, change_a_digit])
def test_a_damaged_record_is_refused_by_collect_and_made_again(finished, run, heard, damage):
    record = run.folder / "record.json"
    whole = record.read_bytes()
    assert len(collect_records([record]))
    damage(record)
    with pytest.raises(RecordError, match=r"record\.json (is truncated|was changed since it was written)"):
        collect_records([record])
    assert stable(carry_out(run, evaluate=True)) == stable(finished[2])
    assert len(lines(heard, "record.json")) == 1
    assert stable(json.loads(record.read_bytes())) == stable(json.loads(whole))


@pytest.mark.parametrize("name", ["items.parquet", "routing.safetensors"])
@pytest.mark.parametrize("damage", [truncate, flip])
def test_damage_beside_a_record_is_noticed_and_made_again(finished, run, name, damage):
    whole = (run.folder / name).read_bytes()
    damage(run.folder / name)
    if name == "items.parquet":
        with pytest.raises(RecordError, match=r"items .*items\.parquet are truncated or were changed after their run"):
            collect_records([run.folder / "record.json"])
    assert stable(carry_out(run, evaluate=True)) == stable(finished[2])
    assert (run.folder / name).read_bytes() == whole


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "identity.json"])
def test_a_damaged_adapter_is_trained_again(finished, run, heard, name):
    path = run.folder / "adapter" / name
    whole = path.read_bytes()
    flip(path, 0.9)
    (run.folder / "record.json").unlink()
    assert stable(carry_out(run, evaluate=True)) == stable(finished[2])
    assert path.read_bytes() == whole
    assert len(lines(heard, "training again")) == 1


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "identity.json"])
def test_a_damaged_adapter_is_no_start_for_another_run(run, world, tmp_path, name):
    adapter = run.folder / "adapter"
    assert read_identity(adapter)["files"].keys() == {"adapter_model.safetensors"}
    flip(adapter / name, 0.9)
    with pytest.raises(AdapterError, match=rf"adapter .* cannot be used: .*{name}"):
        open_run(run.folder / "plan.json", "test", world / "data", world / "encoder", adapter)


def test_what_somebody_deleted_to_save_room_is_not_missed(finished, run):
    for name in ("items.parquet", "routing.safetensors"):
        (run.folder / name).unlink()
    shutil.rmtree(run.folder / "adapter")
    assert carry_out(run, evaluate=True) == finished[2]
    assert not (run.folder / "adapter").exists()


def test_halves_that_killed_processes_left_are_cleared(finished, run):
    left = [run.folder / name for name in (".train.json.17-0a.tmp", ".items.parquet.tmp", ".record.json.1-ff.tmp")]
    left += [
        run.folder / ".state" / ".key.pt.9-aa.tmp",
        run.folder / ".adapter.tmp" / "x",
        run.folder / ".adapter.old" / "x",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    others = run.folder / ".plan.json.5-00.tmp"  # the pipeline may be writing it
    others.write_text("half")
    assert carry_out(run, evaluate=True) == finished[2]
    assert not any(path.exists() for path in left) and others.exists()


def test_data_that_changed_since_they_were_built_train_nothing(world, tmp_path):
    data = shutil.copytree(world / "data", tmp_path / "data")
    write_sums(data)
    for name, kind in (("mood", "classification"), ("pick", "multiple_choice")):
        load_task(task_document(name, kind), world / "data")
    flip(data / "encoder" / "mood" / "train.jsonl")
    flip(data / "decoder" / "pick" / "test.jsonl")
    for name, kind in (("mood", "classification"), ("pick", "multiple_choice")):
        with pytest.raises(
            RecordError, match=r"jsonl is truncated or was changed .* delete the folder .* build it again"
        ):
            load_task(task_document(name, kind), data)


def test_a_base_model_that_changed_since_it_was_built_is_not_loaded(world, tmp_path):
    base = shutil.copytree(world / "encoder", tmp_path / "encoder")
    document = plan("encoder", [task_document("mood")])
    path = write_plan(tmp_path, document)
    before = open_run(path, "test", world / "data", base).key
    write_sums(base)
    run = open_run(path, "test", world / "data", base)
    assert run.key == before  # the sums are no part of what the model is
    flip(base / "model.safetensors", 0.99)
    with pytest.raises(RecordError, match=r"model\.safetensors is truncated or was changed"):
        load_base_model(document["model"], [load_task(task_document("mood"), world / "data")], 0, base)
    with pytest.raises(RecordError, match=r"model\.safetensors is truncated or was changed"):
        carry_out(open_run(path, "test", world / "data", base), evaluate=True)
    assert not (path.parent / "record.json").exists()
