"""Triton kernels for a MixLoRA block between its frozen layers, behind a switch that is off.

MOELORA_TRITON=1 sends `moelora.ops.mixlora_gated`, `mixlora_two_matrix` and `mix_experts` through them; without it
nothing here is imported. They have run in Triton's interpreter only: their authors had no GPU.
"""

import os
from importlib.util import find_spec

from torch import Tensor

from moelora.errors import ConfigError
from moelora.ops.activations import Activation
from moelora.ops.triton.covered import is_covered

SWITCH = "MOELORA_TRITON"


def uses_kernels(x: Tensor, activation: Activation, rank: int, *factors: Tensor) -> bool:
    """Say whether the kernels are asked for, and cover this block.

    Args:
        x: Tokens.
        activation: The block's activation.
        rank: R.
        factors: Factors, and outputs of frozen layers where they are given: their dtypes count.

    Returns:
        False with the switch off, without tokens, and for what the kernels do not cover (`is_covered`).

    Raises:
        ConfigError: The switch is on and Triton or a GPU is missing, or it has another value than 0 and 1.
    """
    wanted = os.environ.get(SWITCH, "0")
    if wanted == "0":
        return False
    if wanted != "1":
        raise ConfigError(f"{SWITCH} is {wanted!r}; expected 1 (Triton kernels) or 0 (torch operators, the default)")
    if find_spec("triton") is None:
        raise ConfigError(f"{SWITCH} is 1 but triton is not installed; `pip install triton`, or unset {SWITCH}")
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ConfigError(
            f"{SWITCH} is 1 but the tokens are on {x.device}; Triton kernels need a CUDA device. Move the model "
            f"there, unset {SWITCH}, or set TRITON_INTERPRET=1 to run them slowly, for tests"
        )
    return x.numel() > 0 and is_covered(activation, rank, x, *factors)
