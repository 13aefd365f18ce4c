"""The public code's way of measuring, and what its float16 does."""

import copy
import math

import pytest
import torch
from world import plan, task_document

from moelora.allocation.as_coded import DECAY, LEARNING_RATE, float16_square_sum, measure_as_coded, usable_steps
from moelora.allocation.sensitivity import example_mean_losses, measure_coded
from moelora.errors import AllocationError
from moelora.models import load_base_model
from moelora.tasks import load_task
from moelora.training.encode import collate, encode


@pytest.mark.parametrize(
    ("architecture", "name", "kind"), [("encoder", "mood", "classification"), ("decoder", "pick", "multiple_choice")]
)
def test_layers_take_turns_from_the_last_and_are_updated(world, architecture, name, kind):
    document = plan(architecture, [task_document(name, kind)])
    task = load_task(document["tasks"][0], world / "data")
    base = load_base_model(document["model"], [task], 0, world / architecture)
    examples = encode(task, task.train[:7], base.tokenizer, 32)
    slow = copy.deepcopy(base.model).half().eval()
    scores, used = measure_coded(base.model, base.shapes.linears, examples, kind, 0, "cpu")
    assert used == 6  # two layers: as many steps for each

    # The same by hand: one layer at a time, everything of the layer updated once by AdamW from fresh moments.
    expected = dict.fromkeys(scores, 0.0)
    block = document["model"]["block"]
    for step, example in enumerate(examples[:6]):
        prefix = block.format(layer=1 - step % 2)
        slow.requires_grad_(False)
        mine = {n: p for n, p in slow.named_parameters() if f"{prefix}." in n}
        assert any("orm" in n for n in mine)  # norms are updated though not scored
        for parameter in mine.values():
            parameter.requires_grad_(True)
        slow.zero_grad()
        example_mean_losses(slow, collate([example], 0, kind), kind).backward()
        rate = LEARNING_RATE * DECAY**step
        for path, parameter in mine.items():
            gradient = parameter.grad
            if path.removesuffix(".weight") in expected:
                expected[path.removesuffix(".weight")] += float((gradient * gradient).sum())
            value = parameter.detach().float() * (1 - rate * 0.01)
            parameter.data = (value - rate * gradient.float() / (gradient.float().abs() + 1e-8)).half()
    assert scores == pytest.approx(expected, rel=1e-6)
    assert any(score > 0 for score in scores.values())
    after = dict(base.model.named_parameters())
    for path, parameter in slow.named_parameters():
        assert after[path].dtype == torch.float16
        torch.testing.assert_close(after[path], parameter, rtol=2e-3, atol=1e-7)


def test_small_gradients_vanish_and_large_sums_are_infinite():
    assert float16_square_sum(torch.full((64, 64), 1e-4)) == 0.0
    assert float16_square_sum(torch.full((64, 64), 300.0)) == math.inf
    assert float16_square_sum(torch.full((100, 100), 8.0)) == math.inf  # 640,000, each square being a number
    assert float16_square_sum(torch.full((10, 10), 0.5)) == 25.0


def test_steps_are_the_same_for_every_layer():
    assert usable_steps(288, 36) == 288
    assert usable_steps(64, 6) == 60
    with pytest.raises(AllocationError, match="6 layers need as many examples, found 5"):
        usable_steps(5, 6)


def test_not_a_number_is_refused():
    from moelora.methods import Linear

    class Wrong(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"query": torch.nn.Linear(2, 2)})])

    linear = Linear("layers.0.query", "query", "attention", 0, 2, 2)
    with pytest.raises(AllocationError, match=r"no number for \['layers.0.query'\]"):
        measure_as_coded(Wrong(), [linear], [lambda model: model.layers[0]["query"].weight.sum() * float("nan")])
    named = Linear("blocks.first", "query", "attention", 0, 2, 2)
    with pytest.raises(AllocationError, match="no part of its name"):
        measure_as_coded(Wrong(), [named], [lambda model: model.layers[0]["query"].weight.sum()])
