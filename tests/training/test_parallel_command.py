"""``moelora train`` started in two processes, beside the same plans in one."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from world import plan, task_document, write_plan

from moelora.training.identity import open_run
from moelora.training.run import carry_out

pytestmark = pytest.mark.slow


def documents() -> dict[str, dict]:
    """Return a decoder with experts and a balance loss, and an encoder with two heads; both save their state."""
    settings = {"dropout": 0.0}
    return {
        "decoder": plan(
            "decoder", [task_document("pick", "multiple_choice")], "mixlora", settings, micro_batch_size=4,
            checkpoint_every_steps=4,
        ),
        "encoder": plan(
            "encoder", [task_document("mood"), task_document("odd")], "lora", settings, checkpoint_every_steps=4
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def without_dropout(world, tmp_path_factory):
    """Return the world with an encoder that has no dropout of its own: two processes would draw other masks."""
    import shutil

    folder = tmp_path_factory.mktemp("still")
    shutil.copytree(world, folder, dirs_exist_ok=True)
    path = folder / "encoder" / "config.json"
    config = json.loads(path.read_text()) | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    path.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def alone(without_dropout, tmp_path_factory):
    """Return the runs and records of one process."""
    root, found = tmp_path_factory.mktemp("alone"), {}
    for name, document in documents().items():
        run = open_run(write_plan(root, document), "test", without_dropout / "data", without_dropout / name)
        found[name] = (run, carry_out(run, evaluate=True))
    return found


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"]


def start(world, root, name: str, document: dict, launcher: list[str]) -> subprocess.CompletedProcess:
    path = write_plan(root, document)
    if launcher is ACCELERATE:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            launcher = [*launcher, "--main_process_port", str(probe.getsockname()[1])]
    return subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "moelora", "train", "--plans", path, "--evaluate",
         "--fingerprint", "test", "--data", world / "data", "--base", world / name,
         "--manifest", root / "manifest.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "launcher"), [("decoder", TORCHRUN), ("encoder", ACCELERATE)], ids=["data parallel", "sharded"]
)
def test_two_processes_leave_the_run_of_one(without_dropout, alone, tmp_path, name, launcher):
    done = start(without_dropout, tmp_path, name, documents()[name], launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    run, expected = alone[name]
    (folder,) = (path.parent for path in tmp_path.rglob("record.json"))
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "finished" and record["training"]["processes"] == 2
    assert record["id"] == expected["id"], "the run is the same one whoever trains it"
    (said,) = (one for one in record["declarations"] if one.startswith("trained by 2 processes from step 1 on"))
    assert said.endswith("(FSDP)") == (launcher is ACCELERATE)
    for curve in ("loss_curve", "balance_curve"):
        ours, theirs = record["training"][curve], expected["training"][curve]
        assert [step for step, _ in ours] == [step for step, _ in theirs] and len(ours) == (
            3 if curve == "loss_curve" or name == "decoder" else 0
        )
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=1e-4)
    assert record["training"]["tokens"] == expected["training"]["tokens"]
    ours, theirs = (load_file(one / "adapter" / "adapter_model.safetensors") for one in (folder, run.folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-3) for key in ours)
    assert record["scores"].keys() == expected["scores"].keys()
    assert not (folder / ".state").exists() and not list(folder.glob(".*tmp*"))
    log = (folder / "log.txt").read_text()
    assert log.count("12 of 12") == 1, "only the main process logs"
    assert json.loads((tmp_path / "manifest.json").read_text())["runs"][0]["status"] == "finished"


def test_an_error_of_the_plan_ends_all_processes(without_dropout, tmp_path):
    tasks = documents()["encoder"]["tasks"]
    done = start(without_dropout, tmp_path, "encoder", plan("encoder", tasks, "adalora"), ACCELERATE)
    assert done.returncode != 0
    assert "moelora: error: method 'adalora' looks at whole parameters" in done.stderr, done.stderr[-3000:]
    assert not list(tmp_path.rglob("record.json"))
