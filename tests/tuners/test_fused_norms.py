"""The norms that a fused DoRA layer keeps follow its frozen weight."""

import copy

import pytest
import torch
from fused_cases import layers, make_stack, of_peft, outcome, same
from torch import nn

from moelora.ops import DoraNorm
from moelora.tuners import fuse


def test_the_frozen_weight_of_dora_is_measured_once(calls, monkeypatch):
    counted = []
    norm = torch.linalg.vector_norm
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda *a, **k: counted.append(1) or norm(*a, **k))
    model = make_stack("dora")
    fuse(model)
    x = torch.randn(3, 10, dtype=torch.float64)
    for _ in range(3):
        outcome(model, x)
    assert len(counted) == 2 and calls["ours"] == 6


CHANGES = {
    "load": lambda m: m.load_state_dict({k: v * 1.5 for k, v in m.state_dict().items()}),
    "load below": lambda m: [
        one.base_layer.load_state_dict({k: v * 1.5 for k, v in one.base_layer.state_dict().items()})
        for one in layers(m)
    ],
    "merge and unmerge": lambda m: (m.merge_adapter(), scale_data(m), m.unmerge_adapter()),
    "other weight": lambda m: [
        setattr(one.base_layer, "weight", nn.Parameter(one.base_layer.weight * 1.5, False)) for one in layers(m)
    ],
    "other data": lambda m: [setattr(one.weight, "data", one.weight.data * 1.5) for one in layers(m)],
    "in place": lambda m: [one.weight.detach().mul_(1.5) for one in layers(m)],
    "announced": lambda m: (scale_data(m), [one.frozen_norm.invalidate() for one in layers(m)]),
    "trained meanwhile": lambda m: train_base(m),
    "dtype": lambda m: m.float().double(),
}


def scale_data(model):
    """Scale columns: a DoRA does not see its whole merged weight scaled."""
    for one in layers(model):
        one.weight.data.mul_(torch.linspace(0.5, 2, one.in_features))


def train_base(model):
    weights = [one.weight.requires_grad_() for one in layers(model)]
    optimizer = torch.optim.AdamW(weights, lr=0.1, fused=True)
    model(torch.randn(3, 10, dtype=torch.float64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    for one in weights:
        one.requires_grad_(False)


@pytest.mark.parametrize("change", list(CHANGES))
def test_kept_norms_follow_the_frozen_weight(variant, change):
    model = make_stack(variant)
    x = torch.randn(3, 10, dtype=torch.float64)
    fuse(model)
    before = outcome(model, x)
    CHANGES[change](model)
    after = outcome(model, x)
    same(after, of_peft(model, x))
    assert change == "dtype" or not torch.allclose(before[0], after[0], rtol=1e-3)


def test_norms_are_not_pickled():
    norm = DoraNorm()
    norm.squares(torch.ones(2, 3))
    assert copy.deepcopy(norm)._squares is None
