"""PEFT's DoRA layers on bitsandbytes bases, with one dequantisation forward and one backward.

PEFT dequantises the frozen weight for the layer's own product and again for the norm. Here the rows of A ride along
with the input through the one call of the frozen layer, and what the norm needs of the weight alone is kept.
"""

from functools import partial

from bitsandbytes.nn import Linear4bit, Linear8bitLt
from peft.tuners.lora import bnb
from torch import Tensor

from moelora.ops import dora_called_layer
from moelora.tuners.dora_layer import dense_weight
from moelora.tuners.fused import Fused, dropout_of, factor_of


class FusedQuantised(Fused):
    """The forward of both kinds of layers."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """Map (..., D) to (..., O)."""
        adapter = self._sole_adapter()
        base = self.base_layer
        if args or kwargs or adapter not in self.lora_variant or type(base) not in (Linear4bit, Linear8bitLt):
            return self._forward_of_peft(x, *args, **kwargs)
        a, b = factor_of(self.lora_A[adapter]), factor_of(self.lora_B[adapter])
        magnitude, dropout = self._magnitude(adapter), dropout_of(self.lora_dropout[adapter])
        scaling = self.scaling[adapter]
        if a is None or b is None or magnitude is None or dropout is None or not isinstance(scaling, (int, float)):
            return self._forward_of_peft(x)
        dropout = dropout if self.training else 0.0  # PEFT's DoRA goes by the layer's own mode
        squares = self._norm(base.weight).squares_of(partial(dense_weight, base))
        low_rank_only = self._drops_low_rank_only(adapter)
        return dora_called_layer(x, base, base.bias, a, b, magnitude, scaling, squares, dropout, low_rank_only)


class FusedLinear4bit(FusedQuantised, bnb.Linear4bit):
    """PEFT's layer around 4-bit weights."""


class FusedLinear8bit(FusedQuantised, bnb.Linear8bitLt):
    """PEFT's layer around 8-bit weights."""


FUSED = {bnb.Linear4bit: FusedLinear4bit, bnb.Linear8bitLt: FusedLinear8bit}
