"""Cases from moe-peft's per-linear adapters, and facts about what the package trains, saves and counts."""

from types import SimpleNamespace

import torch
from foreign_inputs import ALPHA, BATCH, EXPERTS, INNER, LENGTH, PER_TOKEN, RANK, WIDTH, Case, Draw, gradients
from foreign_mixlora import COMMON, NO_DROPOUT, frozen_linear, gather
from torch.nn import functional


def _input_args(**settings):
    from moe_peft.common import LLMBatchConfig, LLMModelInput

    return LLMModelInput(batch_configs_=[LLMBatchConfig("m", 0, BATCH)], **settings)


def _mixture_case(seed: int, peft_type: str, **settings) -> Case:
    """Run one linear layer with a mixture of LoRA increments, forward and backward."""
    from moe_peft.adapters import lora_config_factory, moe_layer_factory
    from moe_peft.common import Linear

    draw = Draw(seed)
    a, b = draw.factors(WIDTH, INNER)
    weights = {"base": draw(INNER, WIDTH, scale=0.3), "A": a, "B": b, "router": draw(EXPERTS, WIDTH)}
    x, cotangent = draw(BATCH, LENGTH, WIDTH).requires_grad_(True), draw(BATCH, LENGTH, INNER)
    config = lora_config_factory({**COMMON, "peft_type": peft_type, "target_modules": ["up_proj"], **settings})
    linear = Linear(frozen_linear(weights["base"]), "cpu")
    mixture = moe_layer_factory(WIDTH, torch.device("cpu"), config, weights["router"])
    linear.moes_["m"] = mixture
    leaves = {"router": mixture.gate_.weight}
    for expert in range(EXPERTS):
        own = config.expert_config(expert)
        linear.init_lora_weight(own, (a[expert], b[expert]))
        lora = linear.loras_[own.adapter_name]
        leaves[f"A.{expert}"], leaves[f"B.{expert}"] = lora.lora_a_.weight, lora.lora_b_.weight
    y = linear.forward(x, _input_args())
    logits = mixture.router_logits_.detach()
    found = gradients(y, cotangent, {"x": x, **leaves})
    case = Case().keep(input={"x": x, "cotangent": cotangent}, weight=weights)
    case.keep(output={"y": y, "logits": logits, "probabilities": logits.softmax(-1)})
    return case.keep(gradient={"x": found.pop("x"), **gather(found)})


def mola() -> Case:
    """MoLA's layer: a router for each linear, top 2 of 4, renormalised; and whether its balance loss is on."""
    from moe_peft.adapters import lora_config_factory, router_loss_factory
    from moe_peft.adapters.mola import MolaRouterLoss

    case = _mixture_case(21, "MOLA", top_k=PER_TOKEN)
    default = {**COMMON, "peft_type": "MOLA", "target_modules": ["up_proj"]}
    case.facts["balance_loss_by_default"] = router_loss_factory(lora_config_factory(default)) is not None
    asked = router_loss_factory(lora_config_factory({**default, "router_loss": True, "router_aux_loss_coef": 1.0}))
    assert isinstance(asked, MolaRouterLoss)
    return case.keep(output={"loss_when_asked_for": asked(case.tensors["output.logits"], None)})


def loramoe() -> Case:
    """LoRAMoE's layer: every expert, weighted by a softmax. The package has no balance loss for it."""
    from moe_peft.adapters import lora_config_factory, router_loss_factory

    case = _mixture_case(22, "LORAMOE")
    config = lora_config_factory({**COMMON, "peft_type": "LORAMOE", "target_modules": ["up_proj"]})
    case.facts["balance_loss_by_default"] = router_loss_factory(config) is not None
    return case


def _single_linear(draw: Draw, bias: bool, **settings) -> tuple:
    """Return drawn weights and a moe-peft linear with one LoRA of them."""
    from moe_peft.adapters import lora_config_factory
    from moe_peft.common import Linear

    a, b = draw.factors(WIDTH, INNER, experts=1)
    weights = {"base": draw(INNER, WIDTH, scale=0.3), "A": a[0], "B": b[0]}
    if bias:
        weights["base.bias"] = draw(INNER)
    config = lora_config_factory(
        {
            "peft_type": "LORA",
            "name": "m",
            "r": RANK,
            "lora_alpha": ALPHA,
            "lora_dropout": NO_DROPOUT,
            "target_modules": ["up_proj"],
            **settings,
        }
    )
    linear = Linear(frozen_linear(weights["base"], weights.get("base.bias")), "cpu")
    linear.init_lora_weight(config, (weights["A"], weights["B"]))
    return weights, config, linear


def fused_lora_dropout() -> Case:
    """The hand-written LoRA function with dropout 0.5, and the mask it drew."""
    draw = Draw(23)
    rate = 0.5
    weights, _, linear = _single_linear(draw, bias=False, lora_dropout=rate)
    x, cotangent = draw(BATCH, LENGTH, WIDTH).requires_grad_(True), draw(BATCH, LENGTH, INNER)
    lora = linear.loras_["m"]
    torch.manual_seed(5)
    y = linear.forward(x, _input_args(efficient_operator_=True))
    torch.manual_seed(5)
    mask = functional.dropout(torch.ones_like(x), rate)
    case = Case(facts={"dropout": rate}).keep(input={"x": x, "cotangent": cotangent, "mask": mask}, weight=weights)
    case.keep(output={"y": y})
    leaves = {"x": x, "A": lora.lora_a_.weight, "B": lora.lora_b_.weight}
    return case.keep(gradient=gradients(y, cotangent, leaves))


def dora_bias() -> Case:
    """The package's DoRA on a linear with a bias, and which of its parameters reach optimiser and checkpoint."""
    from moe_peft.model import get_lora_layer_weight

    draw = Draw(24)
    weights, config, linear = _single_linear(draw, bias=True, use_dora=True)
    lora = linear.loras_["m"]
    weights["magnitude"] = (draw(INNER).abs() + 0.5).to(torch.bfloat16).double()
    with torch.no_grad():
        lora.magnitude_vector_.copy_(weights["magnitude"])
    x, cotangent = draw(BATCH, LENGTH, WIDTH).requires_grad_(True), draw(BATCH, LENGTH, INNER)
    y = linear.forward(x, _input_args(efficient_operator_=False))
    leaves = {"x": x, "A": lora.lora_a_.weight, "B": lora.lora_b_.weight, "magnitude": lora.magnitude_vector_}
    # What the package's trainer asks for its parameters, and what it saves.
    layer = SimpleNamespace(layer_id_=0, mlp_=SimpleNamespace(moes_={}), state_dict=lambda: ({}, {"up_proj": linear}))
    listed: dict[str, torch.Tensor] = {}
    get_lora_layer_weight(layer, config, listed)
    case = Case(facts={"trained_and_saved": sorted(listed)})
    case.keep(input={"x": x, "cotangent": cotangent}, weight=weights, output={"y": y})
    return case.keep(gradient=gradients(y, cotangent, leaves))


def padded_loss() -> Case:
    """The package's training loss of a padded batch, with the labels its dispatcher makes: a copy of the tokens."""
    from moe_peft.model import CasualOutputLayer

    draw = Draw(25)
    vocabulary = 7
    tokens = torch.tensor([[3, 5, 4, 0, 0, 0], [2, 6, 1, 5, 3, 4]])
    logits = draw(BATCH, LENGTH, vocabulary).requires_grad_(True)
    loss = CasualOutputLayer(vocabulary, None).loss(tokens, logits, tokens.clone())
    case = Case(facts={"padding_id": 0})
    case.keep(input={"tokens": tokens, "logits": logits}, output={"loss": loss})
    return case.keep(gradient={"logits": torch.autograd.grad(loss, logits)[0]})


CASES = {
    "mola": mola,
    "loramoe": loramoe,
    "fused_lora_dropout": fused_lora_dropout,
    "dora_bias": dora_bias,
    "padded_loss": padded_loss,
}
