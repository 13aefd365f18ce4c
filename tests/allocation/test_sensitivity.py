import json

import pytest
import torch
from world import plan, task_document, write_plan

from moelora.allocation.sensitivity import example_mean_losses, measure
from moelora.allocation.votes import smoe_percentile
from moelora.cli import main
from moelora.errors import AllocationError
from moelora.models import load_base_model
from moelora.tasks import load_task
from moelora.training.encode import collate, encode


def prepared(world, architecture, name, kind):
    document = plan(architecture, [task_document(name, kind)])
    task = load_task(document["tasks"][0], world / "data")
    base = load_base_model(document["model"], [task], 0, world / architecture)
    encoded = encode(task, task.train[:12], base.tokenizer, 32)
    return task, base, encoded


CASES = [
    ("encoder", "mood", "classification"),
    ("encoder", "grade", "regression"),
    ("decoder", "pick", "multiple_choice"),
]


@pytest.mark.parametrize(("architecture", "name", "kind"), CASES)
def test_scores_equal_one_autograd_pass_per_example(world, architecture, name, kind):
    _, base, encoded = prepared(world, architecture, name, kind)
    model = base.model.double().eval()
    names = [linear.name for linear in base.shapes.linears]
    expected = dict.fromkeys(names, 0.0)
    for example in encoded:
        model.requires_grad_(False)
        weights = {module: model.get_submodule(module).weight.requires_grad_(True) for module in names}
        loss = example_mean_losses(model, collate([example], 0, kind), kind)
        for module, gradient in zip(names, torch.autograd.grad(loss, list(weights.values())), strict=True):
            expected[module] += gradient.square().sum().item()
    for batch_size in (1, 4, 12):  # padded differently, summed in other groups
        measured = measure(model, names, encoded, kind, 0, "cpu", batch_size)
        for module in names:
            assert measured[module] == pytest.approx(expected[module], rel=1e-10)


def test_percentile_vote_reproduces_the_public_example():
    # 144 modules in one pool, 8 tasks: 86 lie strictly above the 40th percentile for each, 688 votes in all
    generator = torch.Generator().manual_seed(0)
    pools = {f"m{index}": "attention" for index in range(144)}
    scores = {
        f"t{task}": dict(zip(pools, torch.rand(144, generator=generator).tolist(), strict=True)) for task in range(8)
    }
    counts = smoe_percentile(scores, pools, 40)
    assert sum(counts.values()) == 688 == 8 * 86
    assert max(counts.values()) <= 8


def test_pools_are_cut_apart():
    scores = {"t": {"a1": 1.0, "a2": 2.0, "b1": 100.0, "b2": 200.0}}
    apart = smoe_percentile(scores, {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}, 50)
    together = smoe_percentile(scores, dict.fromkeys(scores["t"], "all"), 50)
    assert apart == {"a1": 0, "a2": 1, "b1": 0, "b2": 1}
    assert together == {"a1": 0, "a2": 0, "b1": 1, "b2": 1}
    with pytest.raises(AllocationError, match="percentile"):
        smoe_percentile(scores, dict.fromkeys(scores["t"], "all"), 140)


def test_from_plan_to_allocation(world, tmp_path, capsys):
    tasks = [task_document("mood"), task_document("odd")]
    path = write_plan(tmp_path, plan("encoder", tasks, "lora_smoe"))
    files = [str(tmp_path / f"{task['name']}.json") for task in tasks]
    arguments = ["sensitivity", "--plan", str(path), "--task", *(task["name"] for task in tasks), "--examples", "16",
                 "--data", str(world / "data"), "--base", str(world / "encoder"), "--out"]  # fmt: skip
    assert main([*arguments, files[0]]) == 2
    assert "found 2 tasks, 1 plans and 1 files to write" in capsys.readouterr().err
    assert main([*arguments, *files]) == 0
    allocation = tmp_path / "allocation.json"
    assert main(["allocate", "--strategy", "smoe_percentile", "--sensitivity", *files, "--out", str(allocation)]) == 0
    document = json.loads(allocation.read_text())
    assert document["budget"] == sum(document["experts"].values()) > 0
    assert set(document["experts"].values()) <= {0, 1, 2}
    assert main(["allocate", "--strategy", "smoe_percent", "--sensitivity", *files, "--out", str(allocation)]) == 2
    assert "unknown strategy 'smoe_percent'; did you mean 'smoe_percentile'?" in capsys.readouterr().err
