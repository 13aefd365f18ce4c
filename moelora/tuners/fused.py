"""PEFT's own LoRA and DoRA layers, computed with our operators: one autograd function a layer.

Configs, checkpoints, names and semantics stay PEFT's. `fuse` changes the class of PEFT's layers to `FusedLinear`, which
overrides their forward and hands every case that the operators do not cover back to PEFT: merged or disabled
adapters, several at once, mixed batches, hooks, offloaded or trained frozen layers, other variants of LoRA. On
bitsandbytes bases only DoRA is fused (`moelora.tuners.fused_quantised`): PEFT's LoRA is as good there.

The environment variable MOELORA_FUSED=0 switches it off for a whole process.
"""

import os

import torch
from peft.tuners.lora.dora import DoraLinearLayer
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from moelora.ops import DoraNorm, dora_linear, lora_linear
from moelora.tuners.dora_dropout import LowRankDropoutDora
from moelora.tuners.frozen import is_hooked, is_plain

SWITCH = "MOELORA_FUSED"


def fuse(model: nn.Module) -> int:
    """Let a PEFT model's plain LoRA, rsLoRA and DoRA layers compute with our operators.

    Adapters added to these layers later are fused too; layers that PEFT adds later are not until the next call. The
    functions can be differentiated once: a Hessian needs `unfuse`. What is not plain (convolutions, embeddings,
    transposed weights, LoRA without DoRA on quantised layers) stays as it is.

    Args:
        model: A PEFT model, or any module that contains PEFT's layers.

    Returns:
        How many layers are fused now and were not before; 0 with MOELORA_FUSED=0.
    """
    if os.environ.get(SWITCH) == "0":
        return 0
    plain = [
        one
        for one in model.modules()
        if type(one) is Linear and type(one.base_layer) is nn.Linear and not one.fan_in_fan_out
    ]
    for layer in plain:
        layer.__class__ = FusedLinear
        layer.frozen_norm = DoraNorm()
    return len(plain) + _fuse_quantised(model)


def _fuse_quantised(model: nn.Module) -> int:
    found = [one for one in model.modules() if type(one).__module__ == "peft.tuners.lora.bnb" and one.lora_variant]
    if not found:
        return 0
    from moelora.tuners.fused_quantised import FUSED  # needs bitsandbytes

    found = [one for one in found if type(one) in FUSED]
    for layer in found:
        layer.__class__ = FUSED[type(layer)]
        layer.frozen_norm = DoraNorm()
    return len(found)


def unfuse(model: nn.Module) -> int:
    """Give all layers of a model back to PEFT's forward; return how many."""
    fused = [one for one in model.modules() if isinstance(one, Fused)]
    for layer in fused:
        layer.__class__ = type(layer).__bases__[1]
        del layer.frozen_norm
    return len(fused)


class Fused:
    """What fused layers share; comes before PEFT's class among the bases.

    ``frozen_norm`` keeps the squared row norms of the frozen weight for DoRA. It forgets them when the weight is
    merged, loaded, moved, replaced or changed in place; only a write through the weight's ``.data``, or a fused
    optimiser's, goes unnoticed while the layer stays fused: call ``layer.frozen_norm.invalidate()`` after one.
    """

    frozen_norm: DoraNorm
    _norm_of: "tuple[int, int] | None" = None

    def merge(self, *args, **kwargs) -> None:
        """Merge as PEFT does; the frozen weight is another one then."""
        self.frozen_norm.invalidate()
        super().merge(*args, **kwargs)

    def unmerge(self) -> None:
        """Unmerge as PEFT does; what comes back is the frozen weight up to rounding."""
        self.frozen_norm.invalidate()
        super().unmerge()

    def _apply(self, *args, **kwargs):
        self.frozen_norm.invalidate()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self.frozen_norm.invalidate()
        super()._load_from_state_dict(*args, **kwargs)

    def _forward_of_peft(self, x: Tensor, *args, **kwargs) -> Tensor:
        # Whatever made this pass special (a merge, a trained weight) may also have changed the frozen weight.
        self.frozen_norm.invalidate()
        return super().forward(x, *args, **kwargs)

    def _sole_adapter(self) -> str | None:
        """Return the one adapter to apply, or None: there is none or more than one, or they are merged or disabled."""
        if self._disable_adapters or self.merged_adapters:
            return None
        active, here = self._active_adapter, self._modules["lora_A"]._modules
        if isinstance(active, str):
            return active if active in here else None
        found = [name for name in active if name in here]
        return found[0] if len(found) == 1 else None

    def _magnitude(self, adapter: str) -> Tensor | None:
        """Return DoRA's magnitudes, (O,), or None for another variant of LoRA."""
        if type(self.lora_variant[adapter]) not in (DoraLinearVariant, LowRankDropoutDora):
            return None
        holder = self._modules["lora_magnitude_vector"]._modules.get(adapter)
        return _weight(holder) if type(holder) is DoraLinearLayer else None

    def _drops_low_rank_only(self, adapter: str) -> bool:
        """Say whether a DoRA's dropout acts on its low-rank path only."""
        return type(self.lora_variant[adapter]) is LowRankDropoutDora

    def _norm(self, weight: Tensor) -> DoraNorm:
        """Return the kept norms, emptied if the frozen weight is visibly not the one that they are of.

        A compiled graph cannot look at addresses and versions, so it measures the weight in every pass.
        """
        if torch.compiler.is_compiling():
            return DoraNorm()
        seen = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if seen != self._norm_of:
            self.frozen_norm.invalidate()
            self._norm_of = seen
        return self.frozen_norm


class FusedLinear(Fused, Linear):
    """PEFT's `Linear` with the frozen layer and one active adapter computed together."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """Map (..., D) to (..., O)."""
        if args or kwargs:
            return self._forward_of_peft(x, *args, **kwargs)
        adapter = self._sole_adapter()
        modules = self._modules
        base = modules["base_layer"]
        if adapter is None or not is_plain(base, x):
            return self._forward_of_peft(x)
        a = factor_of(modules["lora_A"]._modules[adapter])
        b = factor_of(modules["lora_B"]._modules[adapter])
        scaling = self.scaling[adapter]
        dropout = dropout_of(modules["lora_dropout"]._modules[adapter])
        if a is None or b is None or a.dtype != b.dtype or dropout is None or not isinstance(scaling, (int, float)):
            return self._forward_of_peft(x)
        if not self.cast_input_dtype_enabled and x.dtype != a.dtype:
            return self._forward_of_peft(x)
        weight, bias = base._parameters["weight"], base._parameters["bias"]
        if adapter not in self.lora_variant:
            return lora_linear(x, a, b, scaling, weight=weight, bias=bias, dropout=dropout)
        magnitude = self._magnitude(adapter)
        if magnitude is None:
            return self._forward_of_peft(x)
        dropout = dropout if self.training else 0.0  # PEFT's DoRA goes by the layer's own mode
        return dora_linear(
            x, weight, bias, a, b, magnitude, scaling, self._norm(weight), dropout, self._drops_low_rank_only(adapter)
        )


def _weight(module: nn.Module) -> Tensor | None:
    """Return a module's weight if it is an ordinary parameter that no hook stands before."""
    weight = module._parameters.get("weight")
    return None if type(weight) is not nn.Parameter or is_hooked(module) else weight


def factor_of(module: nn.Module) -> Tensor | None:
    """Return a LoRA factor if its module does nothing but multiply with it."""
    if type(module) is not nn.Linear or module._parameters["bias"] is not None:
        return None
    return _weight(module)


def dropout_of(module: nn.Module) -> float | None:
    """Return the probability with which elements are dropped now; None for a module that may do something else."""
    kind = type(module)
    if is_hooked(module) or (kind is not nn.Identity and kind is not nn.Dropout):
        return None
    if kind is nn.Identity or not module.training:
        return 0.0
    return module.p if module.p < 1 else None
