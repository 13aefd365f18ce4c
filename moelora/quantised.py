"""Base models whose linears bitsandbytes holds in 4 or 8 bits."""

import importlib.util
from typing import Any

import torch
from torch import nn

from moelora.errors import ModelUnavailableError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEPT = ("classifier", "lm_head")
"""Modules that stay as they are: heads are trained, and a language model's head is what likelihoods are read from."""


def weight_options(document: dict[str, Any]) -> dict[str, Any]:
    """Return how transformers is to hold the weights that a model file describes.

    nf4 is that of QLoRA (arXiv 2305.14314): blocks of 64 weights, whose constants are quantised again; products are
    computed in the model's dtype.

    Raises:
        ModelUnavailableError: a quantised form is asked for and bitsandbytes is not installed.
    """
    dtype = DTYPES.get(document.get("dtype", ""))
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    form = document.get("quantisation")
    if form is None:
        return options
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelUnavailableError(
            f"model '{document['name']}' is quantised ({form}), which needs bitsandbytes: "
            "pip install 'moelora[quantised]'; or name the model without the form at the end of its name"
        )
    from transformers import BitsAndBytesConfig

    from moelora.training.device import choose_device

    kept = list(KEPT)
    if form == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype or torch.float32,
            llm_int8_skip_modules=kept,
        )
    else:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return {**options, "device_map": {"": choose_device()}}


def check_widths(model: nn.Module, document: dict[str, Any]) -> None:
    """Refuse 4-bit linears that bitsandbytes cannot multiply in evaluation on this CPU.

    On CPUs with AVX512-BF16 it packs them anew there, into blocks of 64 inputs by 32 outputs.

    Raises:
        ModelUnavailableError: a linear has other widths.
    """
    for name, module in model.named_modules():
        if not getattr(module, "support_avx512bf16_for_cpu", False) or module.weight.device.type != "cpu":
            continue
        if module.in_features % 64 or module.out_features % 32:
            raise ModelUnavailableError(
                f"model '{document['name']}': '{name}' is {module.in_features} to {module.out_features} features wide; "
                "bitsandbytes' 4-bit products on this CPU need multiples of 64 and 32. Take the model whole, "
                "in int8, or on a GPU"
            )


def count_parameters(module: nn.Module) -> int:
    """Return the parameters of a module, packed ones counted as what they stand for."""
    return sum(_numbers(parameter) for parameter in module.parameters())


def _numbers(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)  # two 4-bit weights share a byte
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())
