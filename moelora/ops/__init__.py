"""The arithmetic of the methods as pure functions.

Beside each fast function stands a slow, obvious one with the suffix ``_reference``; tests hold the
two equal in float64, forward and every gradient.
"""

from moelora.ops.activations import Elementwise, elementwise
from moelora.ops.blocks import Assignment, Frozen, LowRank, Settings, mixdora_reference, mixlora_reference
from moelora.ops.dora import dora_called_layer, dora_linear, dora_linear_reference
from moelora.ops.dora_norm import DoraNorm
from moelora.ops.lora import lora_linear, lora_linear_reference
from moelora.ops.mixdora import mixdora_gated, mixdora_two_matrix
from moelora.ops.mixed_experts import mix_experts
from moelora.ops.mixlora import mixlora_gated, mixlora_two_matrix
from moelora.ops.mixture import gated_wide_lora, gated_wide_lora_linear, gated_wide_lora_reference, wide_lora_delta
from moelora.ops.routed import Routed, routed_lora, routed_lora_reference, takes_router
from moelora.ops.sensitivity import (
    absolute_taylor,
    input_gram,
    prefers_grams,
    squared_gradient_norm,
    squared_gradient_norm_reference,
)

__all__ = [
    "Assignment",
    "DoraNorm",
    "Elementwise",
    "Frozen",
    "LowRank",
    "Routed",
    "Settings",
    "absolute_taylor",
    "dora_called_layer",
    "dora_linear",
    "dora_linear_reference",
    "elementwise",
    "gated_wide_lora",
    "gated_wide_lora_linear",
    "gated_wide_lora_reference",
    "input_gram",
    "lora_linear",
    "lora_linear_reference",
    "mix_experts",
    "mixdora_gated",
    "mixdora_reference",
    "mixdora_two_matrix",
    "mixlora_gated",
    "mixlora_reference",
    "mixlora_two_matrix",
    "prefers_grams",
    "routed_lora",
    "routed_lora_reference",
    "squared_gradient_norm",
    "squared_gradient_norm_reference",
    "takes_router",
    "wide_lora_delta",
]
