import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from world import plan, task_document, write_plan

from moelora.errors import AdapterError
from moelora.files import sha256_file
from moelora.records import read_record
from moelora.training.identity import open_run
from moelora.training.run import carry_out, train_run

VOLATILE = ("environment", "costs")


def stable(record):
    """Return a record without what may differ between equal runs."""
    kept = {key: value for key, value in record.items() if key not in VOLATILE}
    kept["training"] = {
        key: value for key, value in record["training"].items() if key not in ("seconds", "cpu_seconds", "resumed")
    }
    return kept


def run_once(world, root, document, **options):
    path = write_plan(root, document, **options)
    run = open_run(path, "test", world / "data", world / document["model"]["architecture"])
    return run, carry_out(run, evaluate=True)


def test_an_encoder_run_learns_and_leaves_a_record(world, tmp_path):
    document = plan("encoder", [task_document("mood")], max_steps=60)
    run, record = run_once(world, tmp_path, document)
    assert record["status"] == "finished"
    entry = record["scores"]["tiny-mood"]
    assert entry["metrics"]["accuracy"] > entry["majority"]["accuracy"]
    assert entry["n_items"] == 24 and entry["synthetic"]
    assert record["training"]["loss_curve"][-1][1] < record["training"]["loss_curve"][0][1]
    assert record["attached"] == [{"type": "FusedLinear", "count": 12, "dtype": "float32"}]
    assert (run.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert read_record(run.folder / "record.json")["id"] == run.hash


def test_a_decoder_run_is_scored_by_lm_eval(world, tmp_path):
    document = plan("decoder", [task_document("pick", "multiple_choice")], max_steps=60)
    _, record = run_once(world, tmp_path, document)
    entry = record["scores"]["tiny-pick"]
    assert entry["protocol"] == "lm-eval"
    assert entry["metrics"]["acc"] > entry["chance"]


def test_baselines_leave_records_too(world, tmp_path):
    tasks = [task_document("mood")]
    _, majority = run_once(world, tmp_path, plan("encoder", tasks, "majority"))
    entry = majority["scores"]["tiny-mood"]
    assert entry["metrics"]["accuracy"] == entry["majority"]["accuracy"] and entry["within_chance"]
    assert majority["parameters"]["trainable"] == 0
    _, base = run_once(world, tmp_path, plan("encoder", tasks, "base"))
    assert base["parameters"]["trainable"] == base["parameters"]["parts"]["head"] == 16 * 2 + 2
    _, decoder = run_once(world, tmp_path, plan("decoder", [task_document("pick", "multiple_choice")], "base"))
    assert decoder["training"]["steps"] == 0 and decoder["status"] == "finished"
    _, full = run_once(world, tmp_path, plan("encoder", tasks, "full"))
    assert full["parameters"]["trainable"] == full["parameters"]["total"]


def test_multi_task_has_a_head_per_task(world, tmp_path):
    tasks = [task_document("mood"), task_document("odd"), task_document("grade", "regression")]
    _, record = run_once(world, tmp_path, plan("encoder", tasks, max_steps=90))
    assert set(record["scores"]) == {"tiny-mood", "tiny-odd", "tiny-grade"}
    assert record["parameters"]["parts"]["head"] == 2 * (16 * 2 + 2) + 16 + 1
    # the two tasks have opposite answers to the same sentences: one shared head could not serve both
    assert min(record["scores"][name]["metrics"]["accuracy"] for name in ("tiny-mood", "tiny-odd")) > 0.6


def test_equal_runs_write_equal_bytes(world, tmp_path):
    document = plan("encoder", [task_document("mood")])
    first, one = run_once(world, tmp_path / "a", document)
    second, two = run_once(world, tmp_path / "b", document)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert sha256_file(first.folder / "adapter" / name) == sha256_file(second.folder / "adapter" / name)
    assert stable(one) == stable(two)


def test_seeds_differ(world, tmp_path):
    document = plan("encoder", [task_document("mood")])
    first, _ = run_once(world, tmp_path, document, seed=0)
    second, _ = run_once(world, tmp_path, document, seed=1)
    name = "adapter/adapter_model.safetensors"
    assert sha256_file(first.folder / name) != sha256_file(second.folder / name)


def test_scoring_from_disk_equals_scoring_after_training(world, tmp_path):
    document = plan("encoder", [task_document("mood")])
    run, record = run_once(world, tmp_path, document)
    (run.folder / "record.json").unlink()
    again = carry_out(run, evaluate=True)
    assert again["scores"] == record["scores"]


def test_a_changed_adapter_is_trained_again(world, tmp_path):
    run, record = run_once(world, tmp_path, plan("encoder", [task_document("mood")]))
    path = run.folder / "adapter" / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (run.folder / "record.json").unlink()
    assert stable(carry_out(run, evaluate=True)) == stable(record)
    assert path.read_bytes() == whole


def test_another_base_model_is_another_run(world, tmp_path):
    import shutil

    run, record = run_once(world, tmp_path, plan("encoder", [task_document("mood")]))
    again = open_run(run.folder / "plan.json", "test", world / "data", world / "encoder")
    assert again.done("record.json") == record
    other = tmp_path / "encoder"
    shutil.copytree(world / "encoder", other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    changed = open_run(run.folder / "plan.json", "test", world / "data", other)
    assert changed.done("record.json") is None and changed.done("train.json") is None


def test_a_truncated_adapter_is_named(world, tmp_path):
    from moelora.training.attach import load_adapter

    run, _ = run_once(world, tmp_path, plan("encoder", [task_document("mood")]))
    attached, _ = train_run(run)
    path = run.folder / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors cannot be read"):
        load_adapter(attached, run.folder / "adapter")


def test_a_diverging_run_is_a_row_with_a_reason(world, tmp_path):
    document = plan("encoder", [task_document("mood")], learning_rate=1e30, max_grad_norm=None, max_steps=40)
    _, record = run_once(world, tmp_path, document)
    assert record["status"] == "diverged" and "loss is" in record["reason"] and record["scores"] == {}


def test_an_unexpected_error_is_a_row_with_a_reason(world, tmp_path, monkeypatch):
    import moelora.training.loop

    def broken(*arguments, **options):
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(moelora.training.loop, "train_loop", broken)
    _, record = run_once(world, tmp_path, plan("encoder", [task_document("mood")]))
    assert record["status"] == "failed" and record["reason"] == "RuntimeError: the sky fell"


def test_out_of_memory_halves_the_micro_batch(world, tmp_path, monkeypatch):
    import moelora.training.loop as loop

    real = loop.summed_loss

    def small_card(model, tensors, kind):
        if len(tensors["labels"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended by a test)")
        return real(model, tensors, kind)

    document = plan("encoder", [task_document("mood")])
    monkeypatch.setattr(loop, "summed_loss", small_card)
    _, halved = run_once(world, tmp_path / "small", document)
    assert halved["training"]["micro_batch_size"] == 4 and halved["training"]["accumulation_steps"] == 2
    assert any("out of memory at step 1" in line for line in halved["declarations"])
    monkeypatch.setattr(loop, "summed_loss", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    _, never = run_once(world, tmp_path / "none", document)
    assert never["status"] == "out_of_memory"


@pytest.mark.parametrize("method", ["lora", "adalora", "dense_moe_lora", "mixlora", "mixlora_switch"])
def test_killed_and_resumed_equals_undisturbed(world, tmp_path, method):
    document = plan("encoder", [task_document("mood")], method, max_steps=60, checkpoint_every_steps=5)
    document["settings"]["dropout"] = 0.1  # random numbers must resume too
    undisturbed, record = run_once(world, tmp_path / "whole", document)
    path = write_plan(tmp_path / "killed", document)
    command = [sys.executable, "-m", "moelora", "train", "--plans", path, "--evaluate", "--fingerprint", "test",
               "--data", world / "data", "--base", world / "encoder"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    state = path.parent / ".state"
    deadline = time.monotonic() + 120
    while not list(state.glob("*.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (path.parent / "record.json").exists():  # killed before the end, as intended
        run = open_run(path, "test", world / "data", world / "encoder")
        resumed = carry_out(run, evaluate=True)
        assert resumed["training"]["resumed"] == 1
    resumed = read_record(path.parent / "record.json")
    name = "adapter/adapter_model.safetensors"
    assert sha256_file(path.parent / name) == sha256_file(undisturbed.folder / name)
    assert stable(resumed) == stable(record)


def test_manifest_names_every_record(world, tmp_path):
    from moelora.cli import main

    document = plan("encoder", [task_document("mood")])
    paths = [write_plan(tmp_path, document, seed=seed) for seed in (0, 1)]
    manifest = tmp_path / "results" / "test" / "jobs" / "job.json"
    arguments = ["train", "--plans", *map(str, paths), "--manifest", str(manifest), "--evaluate",
                 "--fingerprint", "test",
                 "--data", str(world / "data"), "--base", str(world / "encoder")]  # fmt: skip
    assert main(arguments) == 0
    entries = json.loads(manifest.read_text())["runs"]
    assert [entry["status"] for entry in entries] == ["finished", "finished"]
    for entry, path in zip(entries, paths, strict=True):
        assert entry["record_sha256"] == sha256_file(path.parent / "record.json")
        lines = (path.parent / "log.txt").read_text()
        assert "12 of 12" in lines and f"seed {json.loads(path.read_text())['seed']}: tiny-mood" in lines


def test_an_output_folder_that_cannot_be_written_is_named(world, tmp_path, capsys):
    from moelora.cli import main

    path = write_plan(tmp_path, plan("encoder", [task_document("mood")]))
    (path.parent / "resolved.json").mkdir()  # something in the way; permissions do not stop the superuser
    arguments = ["train", "--plans", str(path), "--evaluate", "--fingerprint", "test"]
    arguments += ["--data", str(world / "data"), "--base", str(world / "encoder")]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "cannot write" in message and "resolved.json" in message and "check that the folder exists" in message


def test_adalora_prunes_to_its_budget_and_keeps_an_adapter_that_loads(world, tmp_path):
    document = plan("encoder", [task_document("mood")], "adalora", max_steps=20)
    document["settings"] |= {"init_r": 4, "target_r": 2, "interval": 1}
    run, record = run_once(world, tmp_path, document)
    stated = next(text for text in record["declarations"] if text.startswith("AdaLoRA kept"))
    kept, whole = (int(word) for word in stated.split() if word.isdigit())
    assert whole == 2 * kept
    tensors = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    left = sum(int((t != 0).sum()) for name, t in tensors.items() if "lora_E" in name)
    assert left == kept
    (run.folder / "scores.json").unlink()
    (run.folder / "record.json").unlink()
    _, again = run_once(world, tmp_path, document)  # from the saved adapter
    assert again["scores"] == record["scores"]
