"""DoRA whose dropout acts on the low-rank path only: a method of its own that PEFT does not have.

PEFT's DoRA drops elements of the input of its whole correction, (m / n − 1) ∘ x' Wᵀ included, so that in training the
frozen weight multiplies both x and x'. Here the frozen weight multiplies x alone, y = (m / n) ∘ (x Wᵀ + s (x' Aᵀ) Bᵀ) +
bias, at the price of a LoRA. Outside training, and without dropout, the two are the same; the adapter's files are
those of PEFT's DoRA and do not say which of the two trained them.
"""

from typing import Any

from peft.tuners.lora.variants import DoraLinearVariant
from torch import Tensor, nn

from moelora.errors import AdapterError


class LowRankDropoutDora(DoraLinearVariant):
    """PEFT's variant of a LoRA layer with the other dropout; fused layers compute it with our operator."""

    @staticmethod
    def forward(module: nn.Module, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Return the layer's output from its input, (..., D), and the frozen layer's output, (..., O)."""
        if module.training:
            x = module.lora_dropout[active_adapter](x)
        return result + module.lora_magnitude_vector[active_adapter](
            x,
            lora_A=module.lora_A[active_adapter],
            lora_B=module.lora_B[active_adapter],
            scaling=module.scaling[active_adapter],
            base_layer=module.get_base_layer(),
            base_result=result,
            adapter_name=active_adapter,
        )


def drop_low_rank_only(model: nn.Module, adapter: str = "default") -> int:
    """Let dropout act on the low-rank path only in all DoRA layers of an adapter on linear layers.

    Call it after `get_peft_model`, and again after loading an adapter to train it further.

    Args:
        model: A PEFT model.
        adapter: Name of the adapter.

    Returns:
        The number of layers.

    Raises:
        AdapterError: The adapter has no such layer.
    """
    holders = [one.lora_variant for one in model.modules() if hasattr(one, "lora_variant")]
    found = [one for one in holders if type(one.get(adapter)) in (DoraLinearVariant, LowRankDropoutDora)]
    if not found:
        raise AdapterError(f"adapter {adapter!r} has no DoRA on a linear layer; expected LoraConfig(use_dora=True)")
    for variants in found:
        variants[adapter] = LowRankDropoutDora()
    return len(found)
