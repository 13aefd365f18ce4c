"""The arithmetic of the methods as pure functions.

Beside each fast function stands a slow, obvious one with the suffix ``_reference``; tests hold the
two equal in float64, forward and every gradient.
"""

from moelora.ops.feed_forward import (
    Assignment,
    LowRank,
    gated_experts,
    gated_experts_reference,
    two_matrix_experts,
    two_matrix_experts_reference,
)
from moelora.ops.grouping import TokenGroups
from moelora.ops.mixture import gated_wide_lora, gated_wide_lora_reference, wide_lora_delta
from moelora.ops.shared import shared_wide_lora, shared_wide_lora_reference

__all__ = [
    "Assignment",
    "LowRank",
    "TokenGroups",
    "gated_experts",
    "gated_experts_reference",
    "gated_wide_lora",
    "gated_wide_lora_reference",
    "shared_wide_lora",
    "shared_wide_lora_reference",
    "two_matrix_experts",
    "two_matrix_experts_reference",
    "wide_lora_delta",
]
