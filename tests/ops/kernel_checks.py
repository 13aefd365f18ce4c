"""What the Triton kernels must do, wherever they run; `test_triton_kernels.py` starts it in a process of its own.

With TRITON_INTERPRET=1 in the environment they run on a CPU, else on a GPU. Without triton there is nothing to import.
"""

import os
from pathlib import Path

import pytest
import torch
from operator_cases import assert_close, choose, gradients
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from moelora.ops import Assignment, Frozen, LowRank, Settings, mix_experts, mixlora_gated, mixlora_two_matrix
from moelora.ops.triton import SWITCH, launch

DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
SCALING = 1.3
# Float32: both sides add up at most some hundred terms of one size, in different orders. A rounding is 6e-8 of a term,
# so the sums differ by about ten of them; this leaves a margin of ten more, relative to the largest entry.
FLOAT32 = 1e-5


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Let small shapes have several tiles each way, and count the launches."""
    monkeypatch.setenv(SWITCH, "1")
    launched = []
    original = launch._launch
    monkeypatch.setattr(launch, "_launch", lambda kernel, *a, **k: launched.append(kernel) or original(kernel, *a, **k))
    if DEVICE == "cpu":
        monkeypatch.setattr(launch, "TILES", dict.fromkeys(launch.TILES, launch.Tile(16, 16, 4)))
        monkeypatch.setattr(launch, "PROGRAMS", 1)  # the interpreter runs one after the other
    return launched


class Block:
    """A block as functions of the same leaves: by the kernels, and by the torch operators in any dtype."""

    def __init__(
        self, tokens=21, width=9, inner=20, rank=3, experts=4, slots=2, gated=True, bias=True, unused=False,
        activation=functional.silu, dropout=0.0,
    ):  # fmt: skip
        torch.manual_seed(0)
        shapes = [(inner, width)] * (2 if gated else 1) + [(width, inner)]
        self.frozen = [
            Frozen(self.made(*s) / s[1] ** 0.5, self.made(s[0]) if bias else None) for s in shapes
        ]  # fmt: skip
        self.chosen = choose(tokens, experts, slots, unused).to(DEVICE)
        self.experts, self.settings = experts, Settings(activation, SCALING, dropout)
        self.leaves = [self.made(tokens, width), self.made(tokens, slots)]
        for outputs, inputs in shapes:
            self.leaves += [self.made(experts * rank, inputs) / inputs**0.5, self.made(outputs, experts * rank)]
        self.leaves = [one.requires_grad_() for one in self.leaves]
        self.operator = mixlora_gated if gated else mixlora_two_matrix

    @staticmethod
    def made(*shape: int) -> Tensor:
        return torch.randn(*shape).to(DEVICE)

    def __call__(self, x: Tensor, weights: Tensor, *factors: Tensor, base: torch.dtype | None = None) -> Tensor:
        layers = [Frozen(*(None if one is None else one.to(base or x.dtype) for one in two[:2])) for two in self.frozen]
        pairs = tuple(LowRank(*factors[n : n + 2]) for n in range(0, len(factors), 2))
        assignment = Assignment(self.chosen, weights * (self.chosen >= 0), self.experts)
        return self.operator(x, *layers, pairs, assignment, self.settings)

    def by_torch(self, monkeypatch, leaves=None, **settings) -> list[Tensor]:
        with monkeypatch.context() as patched:
            patched.setenv(SWITCH, "0")
            return self.outcome(leaves, **settings)

    def outcome(self, leaves=None, **settings) -> list[Tensor]:
        leaves = self.leaves if leaves is None else leaves
        cotangent = torch.randn(leaves[0].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(
            DEVICE
        )
        output = self(*leaves, **settings)
        return [output.detach(), *torch.autograd.grad(output, leaves, cotangent.to(output.dtype))]


BLOCKS = {
    "gated": {"inner": 35},
    "two-matrix, unused slots": {"gated": False, "activation": functional.gelu, "unused": True},
    "gated, unused slots, no bias": {"unused": True, "bias": False, "tokens": 33},
    "experts without tokens": {"experts": 8, "slots": 1, "tokens": 3},
    "every expert": {"experts": 3, "slots": 3, "activation": torch.nn.GELU(approximate="tanh"), "tokens": 17},
    "one expert, one token": {"experts": 1, "slots": 1, "tokens": 1, "activation": functional.relu},
    "rank above 16": {"rank": 20, "inner": 16, "tokens": 16, "experts": 2},
    "rank 16, exact tiles": {"rank": 16, "inner": 32, "tokens": 32},
    "rank 1": {"rank": 1, "gated": False, "tokens": 9},
}


@pytest.mark.parametrize("settings", BLOCKS.values(), ids=BLOCKS)
def test_output_and_every_gradient_in_float32(settings, small_tiles, monkeypatch):
    block = Block(**settings)
    ours = block.outcome()
    assert len(small_tiles) == 3
    theirs = block.by_torch(monkeypatch)
    assert len(small_tiles) == 3
    assert_close(ours, theirs, FLOAT32)


def test_tokens_without_any_expert(monkeypatch):
    block = Block(bias=False)
    block.chosen[::3] = -1
    assert_close(block.outcome(), block.by_torch(monkeypatch), FLOAT32)
    assert not block.outcome()[0][::3].any()
    block.chosen[:] = -1
    assert not any(one.any() for one in block.outcome())


def test_any_order_of_tokens_is_right(monkeypatch):
    from moelora.ops.triton import function

    block = Block(unused=True)
    expected = block.outcome()
    original = function.group_tokens
    torch.manual_seed(1)
    order = torch.randperm(21).to(DEVICE)
    monkeypatch.setattr(function, "group_tokens", lambda *a: original(*a)._replace(order=order))
    assert_close(block.outcome(), expected, FLOAT32)


def test_several_parts_of_an_experts_tokens_add_up(monkeypatch):
    block = Block(tokens=40, inner=16, experts=2, slots=1)
    expected = block.by_torch(monkeypatch)
    for programs in (1, 4, 10**6):
        monkeypatch.setattr(launch, "PROGRAMS", programs)
        assert_close(block.outcome(), expected, FLOAT32)


def test_rows_that_are_not_contiguous_and_leading_axes(monkeypatch):
    block = Block(tokens=6)
    output, expected = gradients(block, block.leaves)
    x, *others = block.leaves
    strided = x.detach().T.contiguous().T.requires_grad_()
    ours, found = gradients(block, [strided, *others])
    assert_close([ours, *found], [output, *expected], FLOAT32)
    ours, found = gradients(lambda x, *others: block(x.view(2, 3, -1), *others).flatten(0, 1), block.leaves)
    assert_close([ours, *found], [output, *expected], FLOAT32)
    ours, found = gradients(lambda *leaves: block(*leaves).T.contiguous().T, block.leaves)
    assert_close([ours, *found], [output, *expected], FLOAT32)


@pytest.mark.parametrize("form", ["adapters in half precision", "adapters in float32", "autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_no_more_than_the_torch_operators(dtype, form, monkeypatch, small_tiles):
    """Distances to float64: the kernels' at most 1.5 times the torch operators', and one rounding of the result."""
    block = Block(tokens=33, unused=True)
    block.frozen = [Frozen(*(one.to(dtype) for one in two[:2])) for two in block.frozen]
    if form == "autocast":
        leaves, context = [one.detach().requires_grad_() for one in block.leaves], torch.autocast(DEVICE, dtype)
    else:
        kept = torch.float32 if form == "adapters in float32" else dtype
        cast = [dtype, torch.float32, *[kept] * (len(block.leaves) - 2)]
        leaves = [one.detach().to(to).requires_grad_() for one, to in zip(block.leaves, cast, strict=True)]
        context = torch.autocast(DEVICE, enabled=False)
    with context:
        ours, theirs = block.outcome(leaves, base=dtype), block.by_torch(monkeypatch, leaves, base=dtype)
    exact = block.by_torch(monkeypatch, [one.detach().double().requires_grad_() for one in leaves])
    assert len(small_tiles) == 3
    for one, other, true in zip(ours, theirs, exact, strict=True):
        assert one.dtype == other.dtype
        rounding = torch.finfo(one.dtype).eps
        assert (one.double() - true).norm() <= 1.5 * (other.double() - true).norm() + rounding * true.norm()


def test_called_layers_and_what_the_inner_half_of_bert_uses(monkeypatch, small_tiles):
    block = Block(tokens=7, unused=True)
    dense = block.frozen
    block.frozen = [Frozen(None, one.bias, one) for one in dense]
    block.__class__ = type("Called", (Block,), {"__call__": called})
    ours = block.outcome()
    assert len(small_tiles) == 3
    theirs = block.by_torch(monkeypatch)
    assert len(small_tiles) == 3
    assert_close(ours, theirs, FLOAT32)


def called(self, x, weights, *factors):
    pairs = tuple(LowRank(*factors[n : n + 2]) for n in range(0, len(factors), 2))
    return self.operator(x, *self.frozen, pairs, Assignment(self.chosen, weights, self.experts), self.settings)


def test_dropout_draws_a_mask_for_the_input_and_one_for_each_hidden_row(monkeypatch):
    """With R = F and the last factor an identity, the products are the dropped hidden rows: they show the mask."""
    inner, experts, probability = 8, 2, 0.4
    block = Block(tokens=19, inner=inner, rank=inner, experts=experts, dropout=probability, bias=False)
    identity = torch.eye(inner, device=DEVICE).repeat(experts, 1).requires_grad_()
    x, weights, *factors = block.leaves
    pairs = tuple(LowRank(*factors[n : n + 2]) for n in (0, 2))
    firsts = [(x @ layer.weight.T) for layer in block.frozen[:2]]
    leaves = [x, weights, *factors[:4], identity]

    def ours():
        torch.manual_seed(3)
        return mix_experts(firsts, x, pairs, identity, Assignment(block.chosen, weights, experts), block.settings)

    mixed, products = ours()
    torch.manual_seed(3)
    dropped = functional.dropout(x, probability)
    by_expert = products.detach().view(-1, experts, inner)
    kept = (by_expert != 0).float()
    assert 0.4 < kept.mean() < 0.8 and (kept[:, 0] != kept[:, 1]).any()

    rows = []
    for expert in range(experts):
        part = slice(expert * inner, (expert + 1) * inner)
        gate, up = (f + SCALING * dropped @ p.a[part].T @ p.b[:, part].T for f, p in zip(firsts, pairs, strict=True))
        slot = (block.chosen == expert).float() * weights
        rows.append((functional.silu(gate) * up, slot.sum(1, keepdim=True)))
    expected_mixed = sum(weight * hidden for hidden, weight in rows)
    expected_products = torch.cat(
        [
            weight * ((hidden * kept[:, e] / (1 - probability)) @ identity[e * inner : (e + 1) * inner].T)
            for e, (hidden, weight) in enumerate(rows)
        ],
        dim=1,
    )
    assert_close([mixed, products], [expected_mixed, expected_products], FLOAT32)
    torch.manual_seed(4)
    cotangents = [torch.randn_like(mixed), torch.randn_like(products)]
    found = torch.autograd.grad([mixed, products], leaves, cotangents, retain_graph=True)
    expected = torch.autograd.grad([expected_mixed, expected_products], leaves, cotangents)
    assert_close(found, expected, FLOAT32)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_draws_the_same_masks_and_gives_the_same_gradients(reentrant):
    block = Block(tokens=7, dropout=0.3)
    found = []
    for function in (block, lambda *leaves: checkpoint(block, *leaves, use_reentrant=reentrant)):
        leaves = [one.detach().requires_grad_() for one in block.leaves]
        torch.manual_seed(3)
        output = function(*leaves)
        output.pow(2).sum().backward()
        found.append([output.detach(), *(one.grad for one in leaves)])
    assert_close(*found, tolerance=0)


def test_twice_in_one_graph_and_backward_twice(monkeypatch):
    block = Block(tokens=5)
    twice = lambda x, *others: block(x, *others) * block(x * 0.5, *others)  # noqa: E731
    output, found = gradients(twice, block.leaves)
    with monkeypatch.context() as patched:
        patched.setenv(SWITCH, "0")
        expected, wanted = gradients(twice, block.leaves)
    assert_close([output, *found], [expected, *wanted], FLOAT32)
    output = block(*block.leaves)
    first = torch.autograd.grad(output.sum(), block.leaves, retain_graph=True)
    assert_close(torch.autograd.grad(output.sum(), block.leaves), first, tolerance=0)


def test_a_compiled_caller_gets_the_same_numbers():
    block = Block(tokens=5)
    expected = block.outcome()
    torch._dynamo.reset()
    output, found = gradients(torch.compile(lambda *leaves: block(*leaves) * 1, backend="eager"), block.leaves)
    again, wanted = gradients(block, block.leaves)
    assert_close([output, *found], [again, *wanted], tolerance=0)
    assert_close([output], expected[:1], tolerance=0)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_models_with_padded_input(kind, monkeypatch, small_tiles):
    """A gated block in one module, and BERT's in two; balance losses and all."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "tuners"))
    from tiny_tuners import make_batch, make_model

    batch = make_batch(kind, rows=2, length=5)
    batch["attention_mask"][0, -2:] = 0
    found = []
    for wanted in ("1", "0"):
        monkeypatch.setenv(SWITCH, wanted)
        model = make_model(kind, "mixlora", moved=True).to(DEVICE)
        loss = model(**{name: one.to(DEVICE) for name, one in batch.items()}).loss
        loss.backward()
        found.append([loss.detach(), *(one.grad for one in model.parameters() if one.requires_grad)])
        assert len(small_tiles) == 6
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-7


def test_frozen_input_gets_no_gradient():
    block = Block(tokens=5)
    x, *others = block.leaves
    block(x.detach(), *others).sum().backward()
    assert all(one.grad is not None for one in others)


def test_what_is_not_covered_goes_through_torch(small_tiles, monkeypatch):
    block = Block(activation=torch.tanh)
    assert_close(block.outcome(), block.by_torch(monkeypatch), tolerance=0)
    output, *found = Block(tokens=0).outcome()
    assert output.shape == (0, 9) and not any(one.any() for one in found)
    block = Block()
    leaves = [one.detach().double().requires_grad_() for one in block.leaves]
    assert_close(block.outcome(leaves), block.by_torch(monkeypatch, leaves), tolerance=0)
    assert not small_tiles


def test_no_value_is_needed_on_the_host(monkeypatch):
    """Tensors without values go through everything but the kernels: shapes depend on nothing that a device computes."""
    from moelora.ops.triton import function

    monkeypatch.setattr(launch, "_launch", lambda *_, **__: None)
    block = Block(dropout=0.2)
    x, weights, *factors = (one.detach().to("meta").requires_grad_() for one in block.leaves)
    pairs = tuple(LowRank(*factors[n : n + 2]) for n in range(0, len(factors), 2))
    layers = [Frozen(*(one.to("meta") for one in two[:2])) for two in block.frozen]
    assignment = Assignment(block.chosen.to("meta"), weights, block.experts)
    output = function.block_by_kernels(x, layers[:2], layers[2], pairs, assignment, block.settings)
    output.sum().backward()
    assert output.shape == x.shape
    assert [one.grad.shape for one in (x, weights, *factors)] == [one.shape for one in (x, weights, *factors)]
