"""What the Triton kernels cover; needs no Triton."""

import torch
from torch import Tensor

from moelora.ops.activations import GELU, GELU_TANH, RELU, SILU, Activation, elementwise

# In the kernels' words.
NAMES = ((SILU, "silu"), (GELU, "gelu"), (GELU_TANH, "gelu_tanh"), (RELU, "relu"))
# With larger ranks ptxas spills registers by the thousand and takes minutes.
LARGEST_RANK = {torch.float32: 32, torch.bfloat16: 64, torch.float16: 64}


def kernel_name(activation: Activation) -> str | None:
    """Return what the kernels call an activation; None for one that they do not know."""
    known = elementwise(activation)
    return next((name for one, name in NAMES if one is known), None)


def is_covered(activation: Activation, rank: int, *operands: Tensor) -> bool:
    """Say whether the kernels know the activation and every dtype, and were made for such a rank in these dtypes."""
    return kernel_name(activation) is not None and all(rank <= LARGEST_RANK.get(one.dtype, 0) for one in operands)
