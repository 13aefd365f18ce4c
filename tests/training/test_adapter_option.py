"""``--adapter``: continue from, or score, an adapter that another run left."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from world import plan, task_document, write_plan

from moelora.cli import main
from moelora.errors import AdapterError
from moelora.files import sha256_file
from moelora.records import read_record
from moelora.training.identity import open_run
from moelora.training.run import carry_out


def trained(world, root, document=None, **training):
    """Train a run on "mood" and return it with its record."""
    document = document or plan("encoder", [task_document("mood")], **{"max_steps": 60, **training})
    run = open_run(write_plan(root, document), "test", world / "data", world / "encoder")
    return run, carry_out(run, evaluate=True)


def odd_plan(root, method="lora", settings=None, **training):
    """Write a plan for the task that has the opposite answers to the same texts."""
    return write_plan(root, plan("encoder", [task_document("odd")], method, settings, **training))


def command(world, verb, path, adapter, *more):
    arguments = [verb, "--plans", path, "--adapter", adapter, "--fingerprint", "test", "--data", world / "data",
                 "--base", world / "encoder", *more]  # fmt: skip
    return main([str(argument) for argument in arguments])


def only_folder(path, word):
    (folder,) = path.parent.parent.glob(f"seed0-{word}-*")
    return folder


def test_scoring_an_adapter_on_another_task(world, tmp_path):
    parent, parents = trained(world, tmp_path)
    assert parents["scores"]["tiny-mood"]["metrics"]["accuracy"] > 0.9
    path = odd_plan(tmp_path)
    assert command(world, "evaluate", path, parent.folder) == 0
    folder = only_folder(path, "from")
    record = read_record(folder / "record.json")
    assert record["scores"]["tiny-odd"]["metrics"]["accuracy"] < 0.1
    assert record["training"]["steps"] == 0 and not (folder / "adapter").exists()
    digest = sha256_file(parent.folder / "adapter" / "adapter_model.safetensors")
    assert record["parent"] == {
        "adapter_sha256": digest, "status": "finished", "continue": False, "suite": "test", "model": "test-encoder",
        "task": "tiny-mood", "variant": "lora", "method": "lora", "seed": 0,
    }  # fmt: skip
    assert record["plan"]["parent"] == record["parent"] and str(tmp_path) not in json.dumps(record)
    assert any("scored here without further training" in line for line in record["declarations"])
    assert not (path.parent / "record.json").exists()  # the plan's own run is another one
    stamp = (folder / "record.json").stat().st_mtime_ns
    assert command(world, "evaluate", path, parent.folder / "adapter") == 0
    assert (folder / "record.json").stat().st_mtime_ns == stamp


def test_training_an_adapter_further(world, tmp_path):
    parent, _ = trained(world, tmp_path)
    path = odd_plan(tmp_path, max_steps=1, learning_rate=1e-9)
    assert command(world, "train", path, parent.folder, "--evaluate") == 0
    folder = only_folder(path, "continued")
    record = read_record(folder / "record.json")
    # one step at no rate: still what the parent knew, which is wrong here
    assert record["scores"]["tiny-odd"]["metrics"]["accuracy"] < 0.1
    assert record["parent"]["continue"] is True and record["training"]["steps"] == 1
    before, after = (load_file(x / "adapter" / "adapter_model.safetensors") for x in (parent.folder, folder))
    assert all(torch.allclose(after[name], one, atol=1e-6) for name, one in before.items())
    longer = odd_plan(tmp_path / "longer", max_steps=150)
    assert command(world, "train", longer, parent.folder, "--evaluate") == 0
    record = read_record(only_folder(longer, "continued") / "record.json")
    assert record["scores"]["tiny-odd"]["metrics"]["accuracy"] > 0.9


def test_the_key_depends_on_the_content_of_the_adapter(world, tmp_path):
    one, _ = trained(world, tmp_path / "one", max_steps=2)
    other, _ = trained(world, tmp_path / "other", max_steps=3)
    path = odd_plan(tmp_path)
    keys = {
        open_run(path, "test", world / "data", world / "encoder", folder, further=further).key
        for folder in (None, one.folder, other.folder)
        for further in (True, False)
    }
    assert len(keys) == 5  # without an adapter it does not matter what would be done with it


def test_an_adapter_of_another_method_base_or_setting_is_refused(world, tmp_path):
    parent, _ = trained(world, tmp_path, max_steps=2)

    def attempt(path, base=world / "encoder"):
        run = open_run(path, "test", world / "data", base, parent.folder)
        with pytest.raises(AdapterError) as caught:
            carry_out(run, evaluate=True)
        return str(caught.value)

    with pytest.raises(AdapterError, match="another method: it is of method lora, this run is of method dora"):
        open_run(odd_plan(tmp_path, "dora"), "test", world / "data", world / "encoder", parent.folder)
    found = attempt(odd_plan(tmp_path, settings={"r": 4}))
    assert "another setting r: it is of setting r 8, this run is of setting r 4" in found
    other = tmp_path / "encoder"
    shutil.copytree(world / "encoder", other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    assert "belongs to another base: it is of base " in attempt(odd_plan(tmp_path), other)
    # without its identity, shapes are all that can be compared
    (parent.folder / "adapter" / "identity.json").unlink()
    assert "belongs to another r: it is of r 8, this run is of r 4" in attempt(odd_plan(tmp_path, settings={"r": 4}))
    document = plan("encoder", [task_document("grade", "regression")])
    assert "does not fit method 'lora' on this model" in attempt(write_plan(tmp_path, document))


def test_no_adapter_or_one_that_changes_underneath(world, tmp_path):
    path = odd_plan(tmp_path)
    with pytest.raises(AdapterError, match=r"holds no adapter_model\.safetensors"):
        open_run(path, "test", world / "data", world / "encoder", tmp_path)
    parent, _ = trained(world, tmp_path, max_steps=2)
    run = open_run(path, "test", world / "data", world / "encoder", parent.folder)
    file = parent.folder / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(AdapterError, match="was changed since the run that left it ended"):
        carry_out(run, evaluate=True)


def test_a_random_head_goes_with_its_adapter(world, tmp_path):
    """LoRA as coded never trains its head, so scoring elsewhere needs the very head that it was trained behind."""
    document = plan("encoder", [task_document("mood")], "lora_as_coded", {"r": 8, "dropout": 0.0}, max_steps=150)
    parent, record = trained(world, tmp_path, document)
    assert record["parameters"]["parts"]["head"] == 0
    assert record["scores"]["tiny-mood"]["metrics"]["accuracy"] > 0.9
    path = odd_plan(tmp_path, "lora_as_coded", {"r": 8, "dropout": 0.0})
    assert command(world, "evaluate", path, parent.folder) == 0
    assert read_record(only_folder(path, "from") / "record.json")["scores"]["tiny-odd"]["metrics"]["accuracy"] < 0.1
    (parent.folder / "adapter" / "head.safetensors").unlink()
    assert command(world, "evaluate", odd_plan(tmp_path / "again", "lora_as_coded", {"r": 8, "dropout": 0.0}),
                   parent.folder) == 2  # fmt: skip


def test_a_head_alone_can_be_scored_elsewhere(world, tmp_path):
    parent, _ = trained(world, tmp_path, plan("encoder", [task_document("mood")], "base", max_steps=2))
    path = odd_plan(tmp_path, "base")
    assert command(world, "evaluate", path, parent.folder) == 0
    assert read_record(only_folder(path, "from") / "record.json")["status"] == "finished"


def test_an_adapter_from_python_can_be_scored_by_a_plan(world, tmp_path):
    from moelora.dense import DenseMoELoRA, evaluate_model
    from moelora.tasks import load_task

    model = DenseMoELoRA(world / "encoder", seed=5)
    model.save_pretrained(tmp_path / "saved")
    document = plan("encoder", [task_document("odd")], "dense_moe_lora")
    document["model"]["source"] = {"hub": str(world / "encoder"), "revision": None}
    path = write_plan(tmp_path, document)
    assert command(world, "evaluate", path, tmp_path / "saved") == 0
    record = read_record(only_folder(path, "from") / "record.json")
    assert record["parent"]["task"] is None and record["parent"]["method"] == "dense_moe_lora"
    expected = evaluate_model(model, load_task(task_document("odd"), world / "data"), max_length=32)
    assert record["scores"]["tiny-odd"]["metrics"]["accuracy"] == expected["accuracy"]
