"""Tiny models that hold a case's frozen weights, with our tuners attached and the case's adapter copied in."""

from collections.abc import Callable

import torch
from foreign_inputs import ALPHA, EXPERTS, PER_TOKEN, RANK
from peft import PeftModel, get_peft_model
from reference_files import Reference
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from moelora.ops import Frozen, LowRank, mixlora_reference
from moelora.tuners import MixLoraConfig, MixtureConfig

# (gradient name of the case, our parameter, which factor)
PARTS = {
    "gated": {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"},
    "two_matrix": {"fc1": "inner", "fc2": "outer"},
    "two_matrix_block": {"fc1": "inner", "fc2": "outer"},
}


def linear(case: Reference, name: str) -> nn.Linear:
    """Return the frozen linear layer ``name`` of a case."""
    weight, bias = case.weight(name), case.group("weight").get(f"{name}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


class Gated(nn.Module):
    """A gated feed-forward block."""

    def __init__(self, case: Reference):
        super().__init__()
        for part in PARTS["gated"]:
            setattr(self, part, linear(case, part))
        self.act_fn = ACT2FN["silu"]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Inner(nn.Module):
    """The first half of a two-matrix block."""

    def __init__(self, case: Reference):
        super().__init__()
        self.dense = linear(case, "fc1")
        self.intermediate_act_fn = ACT2FN["gelu_new"]

    def forward(self, x: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(x))


class TwoMatrix(nn.Module):
    """A two-matrix block in one module."""

    def __init__(self, case: Reference):
        super().__init__()
        self.fc1, self.fc2 = linear(case, "fc1"), linear(case, "fc2")
        self.activation_fn = ACT2FN["gelu_new"]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


class Host(nn.Module):
    """Calls its parts one after the other."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class Layers(nn.Module):
    """Blocks side by side, block l on x[l]."""

    def __init__(self, blocks: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(Host(mlp=block) for block in blocks)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return torch.stack([layer(one) for layer, one in zip(self.layers, x, strict=True)])


def wide_a(a: Tensor) -> Tensor:
    """Stack (E, R, in) to our (E * R, in)."""
    return a.flatten(0, 1)


def wide_b(b: Tensor) -> Tensor:
    """Put (E, out, R) side by side as our (out, E * R)."""
    return b.transpose(0, 1).flatten(1)


class Attached:
    """A model with our tuner and, by the case's names, its parameters and how theirs become ours."""

    def __init__(self, model: PeftModel, pairs: dict[str, tuple[nn.Parameter, Callable[[Tensor], Tensor]]]):
        self.model = model
        self.pairs = pairs

    def fill(self, case: Reference) -> "Attached":
        """Copy the case's adapter in; shapes must agree."""
        with torch.no_grad():
            for name, (parameter, ours) in self.pairs.items():
                value = ours(case.weight(name))
                assert value.shape == parameter.shape, (name, value.shape, parameter.shape)
                parameter.copy_(value)
        return self


def mixlora(case: Reference, layout: str, dtype: torch.dtype, **settings) -> Attached:
    """Return MixLoRA around a case's block, its base in ``dtype``."""
    settings = {
        "num_experts": EXPERTS, "experts_per_token": PER_TOKEN, "r": RANK, "alpha": ALPHA,
        "feed_forward_layout": layout, "feed_forward_modules": ["mlp"], **settings,
    }  # fmt: skip
    if layout == "two_matrix":
        host = Host(mlp=Host(inner=Inner(case), outer=linear(case, "fc2")))
        settings |= {"feed_forward_modules": ["inner"], "output_modules": ["outer"]}
    else:
        host = Host(mlp=Gated(case) if layout == "gated" else TwoMatrix(case))
    model = get_peft_model(host.to(dtype), MixLoraConfig(**settings))
    block = model.base_model.model.mlp
    first, last = (block.inner, block.outer) if layout == "two_matrix" else (block, block)
    pairs = {"router": (first.moelora_router["default"], lambda router: router)}
    for part, role in PARTS[layout].items():
        pairs[f"{part}.A"] = (getattr(first, f"moelora_{role}_A")["default"], wide_a)
        holder = last if role == "outer" else first
        pairs[f"{part}.B"] = (getattr(holder, f"moelora_{role}_B")["default"], wide_b)
        if settings.get("dora"):
            pairs[f"{part}.magnitude"] = (getattr(first, f"moelora_{role}_magnitude")["default"], lambda m: m)
    return Attached(model, pairs).fill(case)


def mixture(case: Reference, dtype: torch.dtype, **settings) -> Attached:
    """Return a mixture (or, with one expert, a LoRA) on a case's linear layer."""
    config = MixtureConfig(target_modules=["up_proj"], r=RANK, alpha=ALPHA, **settings)
    model = get_peft_model(Host(up_proj=linear(case, "base")).to(dtype), config)
    layer = model.base_model.model.up_proj
    single = case.weight("A").dim() == 2
    pairs = {
        "A": (layer.moelora_A["default"], (lambda a: a) if single else wide_a),
        "B": (layer.moelora_B["default"], (lambda b: b) if single else wide_b),
    }
    if not single:
        pairs["router"] = (layer.moelora_router["default"], lambda router: router)
    return Attached(model, pairs).fill(case)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference over the largest entry of the reference."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()


def block_output(case: Reference, weights: Tensor) -> Tensor:
    """Return a gated block's output for given expert weights, (T, E), from our slow operation."""
    parts = ("gate_proj", "up_proj", "down_proj")
    factors = [
        LowRank(case.weight(f"{p}.A").flatten(0, 1), case.weight(f"{p}.B").transpose(0, 1).flatten(1)) for p in parts
    ]
    frozen = tuple(case.weight(part) for part in parts)
    x = case.input("x").flatten(0, 1)
    return mixlora_reference(
        x, tuple(Frozen(one) for one in frozen), tuple(factors), weights, functional.silu, ALPHA / RANK
    ).view_as(case.output("y"))


def top_p_weights(case: Reference) -> Tensor:
    """Return the dynamic router's weights with experts in their own columns, (T, E)."""
    kept, slots = case.output("kept").flatten(0, -2), case.output("slots").flatten(0, -2)
    return torch.zeros_like(kept).scatter_add(-1, slots.clamp(min=0), torch.where(slots < 0, 0.0, kept))
