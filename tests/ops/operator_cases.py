"""Every operator on small random tensors beside its slow form, for tests that hold for all of them.

D 5, F 7, O 6 where the operator has it, R 2. A case takes its leaves (x first) and returns the output.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from moelora import ops
from moelora.ops import Assignment, Frozen, LowRank, Settings

SCALING = 1.3


@dataclass
class Case:
    """An operator and its slow form as functions of the same leaves."""

    fast: Callable[..., Tensor]
    slow: Callable[..., Tensor]
    leaves: list[Tensor]


def leaf(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def choose(tokens: int, experts: int, slots: int, unused: bool) -> Tensor:
    """Return distinct experts a token; with ``unused``, every other token leaves its last slot empty."""
    chosen = torch.stack([torch.randperm(experts)[:slots] for _ in range(max(tokens, 1))])[:tokens]
    if unused:
        chosen[::2, -1] = -1
    return chosen


def densify(chosen: Tensor, weights: Tensor, experts: int) -> Tensor:
    """Return (T, K) weights as (T, E), by a loop."""
    rows = []
    for token, row in enumerate(chosen.tolist()):
        one = [weights.new_zeros(())] * experts
        for slot, expert in enumerate(row):
            if expert >= 0:
                one[expert] = weights[token, slot]
        rows.append(torch.stack(one))
    return torch.stack(rows) if rows else weights.new_zeros(0, experts)


def lora_case(tokens: int = 9, bias: bool = True, form: str = "weight", **_) -> Case:
    w, c = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64) if bias else None

    def fast(x, a, b):
        frozen = {"weight": w, "bias": c} if form == "weight" else {"base": functional.linear(x, w.to(x.dtype), c)}
        return ops.lora_linear(x, a, b, SCALING, overwrite=form == "overwrite", **frozen)

    return Case(fast, lambda x, a, b: ops.lora_linear_reference(x, w, c, a, b, SCALING), [
        leaf(tokens, 5), leaf(2, 5), leaf(6, 2)
    ])  # fmt: skip


def mixture_case(
    tokens: int = 9,
    experts: int = 3,
    slots: int = 2,
    bias: bool = True,
    form: str = "weight",
    shared: bool = False,
    **_,
) -> Case:
    w, c = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64) if bias else None
    chosen = choose(tokens, experts, slots, unused=False)
    used = densify(chosen, torch.ones(chosen.shape, dtype=torch.float64), experts)

    def fast(x, a, b, g):
        if form == "weight":
            return ops.gated_wide_lora_linear(x, w, c, a, b, g * used, SCALING)
        return ops.gated_wide_lora(functional.linear(x, w.to(x.dtype), c), x, a, b, g * used, SCALING,
                                   overwrite=form == "overwrite")  # fmt: skip

    def slow(x, a, b, g):
        return ops.gated_wide_lora_reference(functional.linear(x, w, c), x, a, b, g * used, SCALING)

    leaves = [leaf(tokens, 5), leaf(2 if shared else 2 * experts, 5), leaf(6, 2 * experts), leaf(tokens, experts)]
    return Case(fast, slow, leaves)


def dora_case(tokens: int = 9, bias: bool = True, **_) -> Case:
    w, c = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64) if bias else None
    return Case(
        lambda x, a, b, m: ops.dora_linear(x, w, c, a, b, m, SCALING),
        lambda x, a, b, m: ops.dora_linear_reference(x, w, c, a, b, m, SCALING),
        [leaf(tokens, 5), leaf(2, 5), leaf(6, 2), leaf(6)],
    )


def dora_called_case(tokens: int = 9, bias: bool = True, **_) -> Case:
    w, c = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64) if bias else None

    def layer(rows):
        return functional.linear(rows, w.to(rows.dtype), None if c is None else c.to(rows.dtype))

    squares = w.square().sum(1)
    return Case(
        lambda x, a, b, m: ops.dora_called_layer(x, layer, c, a, b, m, SCALING, squares.to(m.dtype)),
        lambda x, a, b, m: ops.dora_linear_reference(x, w, c, a, b, m, SCALING),
        [leaf(tokens, 5), leaf(2, 5), leaf(6, 2), leaf(6)],
    )


def block_case(
    tokens: int = 9,
    experts: int = 3,
    slots: int = 2,
    bias: bool = True,
    gated: bool = True,
    dora: bool = False,
    unused: bool = False,
    form: str = "weight",
    activation: Callable[[Tensor], Tensor] = functional.silu,
    chunk: int | None = None,
    grouped: bool | None = None,
    dropout: float = 0.0,
    **_,
) -> Case:
    """A feed-forward block of MixLoRA or MixDoRA; the weights of a token do not sum to 1."""
    shapes = [(7, 5)] * (2 if gated else 1) + [(5, 7)]
    dense = [
        Frozen(torch.randn(s, dtype=torch.float64), torch.randn(s[0], dtype=torch.float64) if bias else None)
        for s in shapes
    ]
    chosen = choose(tokens, experts, slots, unused)
    used = (chosen >= 0).double()
    settings = Settings(activation, SCALING, dropout, chunk, grouped)

    def split(tensors):
        pairs = tuple(LowRank(*tensors[2 * n : 2 * n + 2]) for n in range(len(shapes)))
        return pairs, tuple(tensors[2 * len(shapes) :])

    def fast(x, g, *tensors):
        pairs, magnitudes = split(tensors)
        layers = dense
        if form == "module":
            layers = [Frozen(None, one.bias, lambda rows, one=one: one(rows.double())) for one in dense]
        assignment = Assignment(chosen, g * used, experts)
        if dora:
            function = ops.mixdora_gated if gated else ops.mixdora_two_matrix
            return function(x, *layers, pairs, magnitudes, assignment, settings)
        function = ops.mixlora_gated if gated else ops.mixlora_two_matrix
        return function(x, *layers, pairs, assignment, settings)

    def slow(x, g, *tensors):
        pairs, magnitudes = split(tensors)
        weights = densify(chosen, g, experts)
        if dora:
            return ops.mixdora_reference(x, tuple(dense), pairs, magnitudes, weights, activation, SCALING)
        return ops.mixlora_reference(x, tuple(dense), pairs, weights, activation, SCALING)

    leaves = [leaf(tokens, 5), leaf(tokens, slots)]
    for outputs, inputs in shapes:
        leaves += [leaf(experts * 2, inputs), leaf(outputs, experts * 2)]
    if dora:
        leaves += [leaf(experts, outputs) for outputs, _ in shapes]
    return Case(fast, slow, leaves)


def mixlora_gated_case(**settings) -> Case:
    return block_case(**settings)


def mixlora_two_matrix_case(**settings) -> Case:
    return block_case(gated=False, **{"activation": functional.gelu, **settings})


def mixdora_gated_case(**settings) -> Case:
    return block_case(dora=True, **settings)


def mixdora_two_matrix_case(**settings) -> Case:
    return block_case(gated=False, dora=True, **{"activation": functional.gelu, **settings})


CASES = {
    "lora": lora_case,
    "mixture": mixture_case,
    "dora": dora_case,
    "dora_called": dora_called_case,
    "mixlora_gated": mixlora_gated_case,
    "mixlora_two_matrix": mixlora_two_matrix_case,
    "mixdora_gated": mixdora_gated_case,
    "mixdora_two_matrix": mixdora_two_matrix_case,
}
BLOCKS = [name for name in CASES if name.startswith("mix") and name != "mixture"]


def make(name: str, **settings) -> Case:
    """Return a case from a fixed seed."""
    torch.manual_seed(0)
    return CASES[name](**settings)


def gradients(function, leaves, cotangent=None) -> tuple[Tensor, list[Tensor]]:
    """Return an output and the gradient of every leaf for a fixed cotangent."""
    output = function(*leaves)
    generator = torch.Generator().manual_seed(5)
    if cotangent is None:
        cotangent = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return output, list(torch.autograd.grad(output, leaves, cotangent))


def assert_close(ours, theirs, tolerance: float = 1e-10) -> None:
    """Compare tensors relative to the size of each."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * max(float(other.detach().abs().max()), 1e-30)


def assert_same(fast, slow, leaves, tolerance: float = 1e-10) -> None:
    """Compare two functions of the same leaves: output and every gradient."""
    ours, theirs = gradients(fast, leaves), gradients(slow, leaves)
    assert_close([ours[0], *ours[1]], [theirs[0], *theirs[1]], tolerance)
