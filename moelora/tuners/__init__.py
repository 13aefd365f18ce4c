"""PEFT tuners: mixtures of LoRA experts per linear module, and MixLoRA's feed-forward experts.

Importing this package registers them; then PEFT's own functions work as for any method::

    import moelora.tuners
    model = get_peft_model(base, moelora.tuners.MixtureConfig(target_modules=["q_proj"], experts=4))

Import it also before `PeftModel.from_pretrained` of a saved adapter: PEFT otherwise knows no such type.
"""

from moelora.tuners.bottleneck import BottleneckAttention, BottleneckConfig, BottleneckModel
from moelora.tuners.config import MixLoraConfig, MixtureConfig
from moelora.tuners.dora_dropout import drop_low_rank_only
from moelora.tuners.dora_layer import DoraLinear, MixDoraFeedForward, MixDoraTwoMatrix
from moelora.tuners.fused import FusedLinear, fuse, unfuse
from moelora.tuners.layer import MoeloraLayer
from moelora.tuners.mixlora_layer import MixLoraFeedForward, MixLoraInner, MixLoraOuter, MixLoraTwoMatrix
from moelora.tuners.mixture_layer import MixtureLinear
from moelora.tuners.model import MixLoraModel, MixtureModel
from moelora.tuners.registration import BOTTLENECK, MIXLORA, MIXTURE, register
from moelora.tuners.routing import balance_loss, record_routing, routing, set_sample_types

register(MIXTURE, MixtureConfig, MixtureModel)
register(MIXLORA, MixLoraConfig, MixLoraModel)
register(BOTTLENECK, BottleneckConfig, BottleneckModel)

__all__ = [
    "BalanceTrainer",
    "BottleneckAttention",
    "BottleneckConfig",
    "BottleneckModel",
    "DoraLinear",
    "FusedLinear",
    "MixDoraFeedForward",
    "MixDoraTwoMatrix",
    "MixLoraConfig",
    "MixLoraFeedForward",
    "MixLoraInner",
    "MixLoraModel",
    "MixLoraOuter",
    "MixLoraTwoMatrix",
    "MixtureConfig",
    "MixtureLinear",
    "MixtureModel",
    "MoeloraLayer",
    "balance_loss",
    "drop_low_rank_only",
    "fuse",
    "record_routing",
    "routing",
    "set_sample_types",
    "unfuse",
]


def __getattr__(name: str):
    # transformers' Trainer takes seconds to import; only those who use it pay.
    if name == "BalanceTrainer":
        from moelora.tuners.trainer import BalanceTrainer

        return BalanceTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
