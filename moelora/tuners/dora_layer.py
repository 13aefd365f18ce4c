"""MixDoRA's layers: MixLoRA's blocks and attention linears in which every LoRA is a DoRA.

The magnitudes start as the row norms of the frozen weight. Untrained they stay what they start as, so they are
computed and neither held nor saved: what MoE-PEFT's code does, where they never reach the optimiser.
"""

from functools import partial
from typing import Any

import torch
from peft.utils.quantization_utils import resolve_quantization_backend
from torch import Tensor, nn

from moelora.errors import AdapterError, MergeError
from moelora.ops import DoraNorm, Frozen, dora_called_layer, dora_linear, mixdora_gated, mixdora_two_matrix
from moelora.routers import RouterSettings
from moelora.tuners.frozen import dropout_probability
from moelora.tuners.mixlora_layer import MixLoraFeedForward, MixLoraLayer, MixLoraTwoMatrix
from moelora.tuners.routing import NO_BALANCE
from moelora.tuners.sharding import is_sharded


def dense_weight(linear: nn.Module) -> Tensor:
    """Return a frozen linear's weight, (O, D), dequantised where it is quantised.

    Raises:
        AdapterError: The process holds a part of it only.
    """
    backend = resolve_quantization_backend(linear)
    if backend is None:
        return whole_weight(linear)
    if getattr(getattr(linear.weight, "quant_state", None), "packing_format_for_cpu", False):
        # A layout for evaluation on some CPUs, which bitsandbytes' own dequantisation misreads.
        with torch.no_grad():
            image = linear(torch.eye(linear.in_features, dtype=linear.compute_dtype))
        return (image if linear.bias is None else image - linear.bias).T
    return backend.get_base_weight(linear)


def whole_weight(linear: nn.Module) -> Tensor:
    """Return a linear's weight, (O, D).

    Raises:
        AdapterError: The process holds a part of it only.
    """
    if is_sharded(linear.weight):
        raise AdapterError(
            f"a linear of {tuple(linear.weight.shape)} is a unit of FSDP of its own, so its weight is in parts while "
            "the layer around it computes; shard whole blocks, as moelora.tuners.sharding.shard does"
        )
    return linear.weight


def dense_layer(linear: nn.Module) -> Frozen:
    """Return a frozen linear by its dense weight; a quantised one's is made anew in the backward pass."""
    quantised = resolve_quantization_backend(linear) is not None
    return Frozen(dense_weight(linear), linear.bias, again=partial(dense_weight, linear) if quantised else None)


class WithMagnitudes:
    """What layers with DoRA share: magnitudes, and the norms of the frozen weights kept between passes."""

    magnitude_roles: tuple[str, ...] = ()

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.norms = {role: DoraNorm() for role in self.magnitude_roles}

    def _apply(self, *args: Any, **kwargs: Any):
        self._forget_norms()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget_norms()
        super()._load_from_state_dict(*args, **kwargs)

    def _forget_norms(self) -> None:
        # A weight that moved or was loaded anew has other norms, and nothing on the tensor tells.
        for norm in self.norms.values():
            norm.invalidate()

    def _add_magnitude(self, role: str, adapter: str, linear: nn.Module) -> None:
        """Add the trained magnitudes of an adapter's experts, (E, O), from the frozen weight's row norms."""
        norms = torch.linalg.vector_norm(dense_weight(linear).detach().float(), dim=1)
        holder = getattr(self, f"moelora_{role}_magnitude")
        holder[adapter] = nn.Parameter(norms.repeat(self.experts[adapter], 1))

    def _magnitude(self, role: str, adapter: str, squares: Tensor) -> Tensor:
        """Return the magnitudes of an adapter's experts, (E, O), trained or, from the squared norms, untrained."""
        holder = getattr(self, f"moelora_{role}_magnitude")
        return holder[adapter] if adapter in holder else squares.sqrt().expand(self.experts[adapter], -1)


class DoraLinear(WithMagnitudes, MixLoraLayer):
    """y = (m / n) ∘ (W0 + s B A) x + b on one linear: attention's part of MixDoRA."""

    adapter_layer_names = ("moelora_A", "moelora_B", "moelora_linear_magnitude")
    magnitude_roles = ("linear",)

    def update_layer(self, adapter: str, config: Any, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        self._set_adapter_numbers(adapter, config, 1, RouterSettings("none"), NO_BALANCE)
        base = self.get_base_layer()
        self._add_factors(self.moelora_A, self.moelora_B, adapter, base.in_features, base.out_features)
        if config.train_magnitude:
            self._add_magnitude("linear", adapter, base)
        self._finish_adapter(adapter, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., O)."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        base, norm = self.get_base_layer(), self.norms["linear"]
        quantised = resolve_quantization_backend(base) is not None
        squares = norm.squares_of(partial(dense_weight, base)) if quantised else norm.squares(whole_weight(base))
        a, b = self.moelora_A[adapter], self.moelora_B[adapter]
        magnitude = self._magnitude("linear", adapter, squares)[0]
        scaling, dropout = self.scaling[adapter], dropout_probability(self.moelora_dropout[adapter])
        if quantised:
            return dora_called_layer(x, base, base.bias, a, b, magnitude, scaling, squares, dropout)
        return dora_linear(x, base.weight, base.bias, a, b, magnitude, scaling, norm, dropout)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse, as the feed-forward blocks of the same adapter do.

        Raises:
            MergeError: An adapter of this layer is asked for.
        """
        for name in self.active_adapters if adapter_names is None else adapter_names:
            if name in self.experts:
                raise MergeError(
                    f"adapter {name!r} is a MixDoRA, whose feed-forward experts are chosen token by token, so it has "
                    "no merged form; keep it attached, or drop it with unload()"
                )


class MixDoraBlock(WithMagnitudes):
    """What both blocks add to MixLoRA's: magnitudes, and another operator."""

    def update_layer(self, adapter: str, config: Any, inference_mode: bool) -> None:
        """Add an adapter, or replace the one of that name."""
        if config.train_magnitude:
            self.experts[adapter] = config.num_experts
            for role in self.magnitude_roles:
                self._add_magnitude(role, adapter, getattr(self.get_base_layer(), self.names[role]))
        super().update_layer(adapter, config, inference_mode)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map (..., D) to (..., D)."""
        adapter = self._active()
        if adapter is None:
            return self.base_layer(x, *args, **kwargs)
        base, roles = self.get_base_layer(), self.magnitude_roles
        linears = [getattr(base, self.names[role]) for role in roles]
        layers = [dense_layer(linear) for linear in linears]
        squares = [self.norms[role].squares(layer.weight) for role, layer in zip(roles, layers, strict=True)]
        return self.block(
            x,
            *layers,
            tuple(self._factors(role, adapter) for role in roles),
            tuple(self._magnitude(role, adapter, one) for role, one in zip(roles, squares, strict=True)),
            self._assign(x, adapter),
            self._settings(adapter, getattr(base, self.names["activation"])),
            tuple(self.norms[role] for role in roles),
        )


class MixDoraFeedForward(MixDoraBlock, MixLoraFeedForward):
    """A gated block whose experts are DoRAs on all three matrices."""

    adapter_layer_names = (
        *MixLoraFeedForward.adapter_layer_names,
        "moelora_gate_magnitude", "moelora_up_magnitude", "moelora_down_magnitude",
    )  # fmt: skip
    magnitude_roles = ("gate", "up", "down")
    block = staticmethod(mixdora_gated)


class MixDoraTwoMatrix(MixDoraBlock, MixLoraTwoMatrix):
    """A two-matrix block in one module whose experts are DoRAs on both matrices."""

    adapter_layer_names = (
        *MixLoraTwoMatrix.adapter_layer_names, "moelora_inner_magnitude", "moelora_outer_magnitude",
    )  # fmt: skip
    magnitude_roles = ("inner", "outer")
    block = staticmethod(mixdora_two_matrix)


DORA_BLOCK_LAYERS = {"gated": MixDoraFeedForward, "two_matrix_block": MixDoraTwoMatrix}
