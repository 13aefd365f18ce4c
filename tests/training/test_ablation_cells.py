"""Every variant of every ablation suite can be attached, counts what its page says, and takes a step."""

import json
from pathlib import Path

import pytest
import torch
from world import plan, task_document

from moelora.files import canonical_json
from moelora.methods import get_method
from moelora.models import load_base_model
from moelora.plans import expand
from moelora.tasks import load_task
from moelora.training.attach import attach
from moelora.training.device import make_accelerator
from moelora.training.encode import encode_training
from moelora.training.loop import one_step
from moelora.training.run import balance_of
from moelora.training.state import trainable_tensors

CONFIG = Path(__file__).parents[2] / "workflow" / "config"


def cells() -> "list[tuple[str, str, str]]":
    """Return (suite/variant, architecture, variant as JSON) of all trained variants, each method and settings once."""
    found = {}
    for path in sorted((CONFIG / "suites").glob("ablate-*.yaml")):
        for run in expand(path, CONFIG).runs:
            variant, architecture = run.variant, run.plan["model"]["architecture"]
            said = canonical_json({"method": variant.method, "settings": variant.settings})
            if variant.abilities.adapter and not variant.match:  # the rank of a matched LoRA is not known yet
                found.setdefault((architecture, said), f"{path.stem}/{variant.name}")
    return [(name, architecture, said) for (architecture, said), name in found.items()]


CELLS = cells()


@pytest.mark.parametrize("architecture", ["encoder", "decoder"])
def test_variants_of_the_ablations_train(world, architecture):
    encoder = architecture == "encoder"
    document = task_document("mood") if encoder else task_document("pick", "multiple_choice")
    task = load_task(document, world / "data")
    mine = [(name, json.loads(said)) for name, kind, said in CELLS if kind == architecture]
    assert len(mine) > 30
    for name, said in mine:
        one = plan(architecture, [document], said["method"]) | {"settings": said["settings"]}
        if get_method(said["method"]).abilities.needs_allocation:
            shapes = load_base_model(one["model"], [task], 0, world / architecture).shapes
            one["allocation"] = {linear.name: index % 4 for index, linear in enumerate(shapes.linears)}
        attached = attach(one, [task], world / architecture, "cpu")
        parameters = attached.parameters()  # raises where the page's formula and the count differ
        assert 0 < parameters["active"] <= parameters["trainable"] + parameters["parts"].get("frozen", 0), name
        batch = encode_training(task, 8, attached.base.tokenizer, one["training"])
        accelerator = make_accelerator({"training": one["training"]})
        loss, balance = one_step(
            attached.model.train(), batch, task.kind, 8, 0, accelerator, balance_of(attached.method),
            attached.method.make_hooks(attached.settings),
        )  # fmt: skip
        assert torch.isfinite(loss) and torch.isfinite(balance), name
        # B is zero at first, so its gradient is what a step begins with
        seconds = [p for n, p in trainable_tensors(attached.model).items() if "_B" in n]
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in seconds), name
        off = said["settings"].get("balance_loss") == "none" or not said["settings"].get("balance_coefficient", 1)
        routed = any("moelora_router" in n for n, _ in attached.model.named_parameters())
        if attached.method.abilities.balance_loss:
            assert (balance > 0) == (routed and not off), name
