"""Cases from PEFT: LoRA and DoRA on one linear layer with a bias."""

import torch
from foreign_inputs import ALPHA, BATCH, INNER, LENGTH, RANK, WIDTH, Case, Draw, gradients
from foreign_mixlora import frozen_linear


def _peft_case(seed: int, dora: bool) -> Case:
    from peft import LoraConfig, get_peft_model

    draw = Draw(seed)
    a, b = draw.factors(WIDTH, INNER, experts=1)
    weights = {"base": draw(INNER, WIDTH, scale=0.3), "base.bias": draw(INNER), "A": a[0], "B": b[0]}
    x, cotangent = draw(BATCH, LENGTH, WIDTH).requires_grad_(True), draw(BATCH, LENGTH, INNER)
    base = torch.nn.Sequential(frozen_linear(weights["base"], weights["base.bias"]))
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=["0"], use_dora=dora)
    layer = get_peft_model(base, config, autocast_adapter_dtype=False).base_model.model[0]
    leaves = {"A": layer.lora_A["default"].weight, "B": layer.lora_B["default"].weight}
    if dora:
        weights["magnitude"] = (draw(INNER).abs() + 0.5).to(torch.bfloat16).double()
        leaves["magnitude"] = layer.lora_magnitude_vector["default"].weight
    for name, leaf in leaves.items():
        leaf.data = weights[name].clone()
    y = layer(x)
    case = Case().keep(input={"x": x, "cotangent": cotangent}, weight=weights, output={"y": y})
    return case.keep(gradient=gradients(y, cotangent, {"x": x, **leaves}))


def lora() -> Case:
    """PEFT's LoRA."""
    return _peft_case(31, dora=False)


def dora() -> Case:
    """PEFT's DoRA: no gradient runs through the norm."""
    return _peft_case(32, dora=True)


CASES = {"peft_lora": lora, "peft_dora": dora}
