"""Cases from moe-peft's and mixlora's whole-block experts: MixLoRA, its other routers, MixDoRA, its balance loss."""

from types import SimpleNamespace

import torch
from foreign_inputs import (
    ALPHA,
    BATCH,
    EXPERTS,
    INNER,
    LENGTH,
    PER_TOKEN,
    RANK,
    WIDTH,
    Case,
    Draw,
    gradients,
    stacked,
    unreached,
)
from torch import Tensor, nn

# The packages refuse a dropout of 0. This one keeps every element and divides by exactly 1.
NO_DROPOUT = 1e-300
COMMON = {"r": RANK, "lora_alpha": ALPHA, "lora_dropout": NO_DROPOUT, "num_experts": EXPERTS, "name": "m"}
SHAPES = {
    "gated": {"gate_proj": (WIDTH, INNER), "up_proj": (WIDTH, INNER), "down_proj": (INNER, WIDTH)},
    "two_matrix": {"fc1": (WIDTH, INNER), "fc2": (INNER, WIDTH)},
}
ACTIVATION = {"gated": "silu", "two_matrix": "gelu_new"}


def frozen_linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Return a double linear layer holding these numbers."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
    return linear.requires_grad_(False)


def draw_block(draw: Draw, layout: str, bias: bool, magnitude: bool) -> dict[str, Tensor]:
    """Draw the frozen weights, experts and router of a block; with DoRA, magnitudes too."""
    weights = {}
    for part, (inner, outer) in SHAPES[layout].items():
        weights[part] = draw(outer, inner, scale=0.3)
        if bias:
            weights[f"{part}.bias"] = draw(outer)
        weights[f"{part}.A"], weights[f"{part}.B"] = draw.factors(inner, outer)
        if magnitude:
            weights[f"{part}.magnitude"] = (draw(EXPERTS, outer).abs() + 0.5).to(torch.bfloat16).double()
    weights["router"] = draw(EXPERTS, WIDTH)
    return weights


def build_block(weights: dict[str, Tensor], layout: str, settings: dict) -> tuple:
    """Return moe-peft's feed-forward block and mixture holding the weights, and its adapter leaves by name."""
    from moe_peft.adapters import lora_config_factory, moe_layer_factory
    from moe_peft.models.modeling_llama import LlamaMLP
    from moe_peft.models.modeling_phi import PhiMLP

    parts = list(SHAPES[layout])
    config = lora_config_factory(
        {**COMMON, "peft_type": "MIXLORA", "target_modules": parts, "act_fn": ACTIVATION[layout], **settings}
    )
    frozen = {part: frozen_linear(weights[part], weights.get(f"{part}.bias")) for part in parts}
    arguments = SimpleNamespace(device_="cpu", hidden_act_=ACTIVATION[layout])
    if layout == "gated":
        block = LlamaMLP(frozen["gate_proj"], frozen["down_proj"], frozen["up_proj"], arguments)
    else:
        block = PhiMLP(frozen["fc1"], frozen["fc2"], arguments)
    mixture = moe_layer_factory(WIDTH, torch.device("cpu"), config, weights["router"])
    leaves = {"router": mixture.gate_.weight}
    for part, linear in block.state_dict().items():
        for expert in range(EXPERTS):
            own = config.expert_config(expert)
            linear.init_lora_weight(own, (weights[f"{part}.A"][expert], weights[f"{part}.B"][expert]))
            lora = linear.loras_[own.adapter_name]
            leaves[f"{part}.A.{expert}"], leaves[f"{part}.B.{expert}"] = lora.lora_a_.weight, lora.lora_b_.weight
            if lora.use_dora_:
                # The package sets it to the norms of W + s B A; other numbers test more.
                with torch.no_grad():
                    lora.magnitude_vector_.copy_(weights[f"{part}.magnitude"][expert])
                leaves[f"{part}.magnitude.{expert}"] = lora.magnitude_vector_
    return block, mixture, leaves


def gather(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put the experts of each kind of leaf into one tensor."""
    names = dict.fromkeys(name.rpartition(".")[0] if name[-1].isdigit() else name for name in leaves)
    return {name: leaves[name] if name in leaves else stacked(leaves, name) for name in names}


def block_case(seed: int, layout: str, bias: bool = False, unused: int | None = None, **settings) -> Case:
    """Run one block forward and backward in training mode."""
    from moe_peft.common import LLMModelInput

    draw = Draw(seed)
    weights = draw_block(draw, layout, bias, settings.get("use_dora", False))
    if unused is not None:
        # Far below all others for every token, whatever the others are: x >= 0.5 in its first column.
        weights["router"][unused] = 0
        weights["router"][unused, 0] = -32
    x, cotangent = draw(BATCH, LENGTH, WIDTH), draw(BATCH, LENGTH, WIDTH)
    x[..., 0] = x[..., 0].abs() + 0.5
    x = x.to(torch.bfloat16).double()
    block, mixture, leaves = build_block(weights, layout, {"routing_strategy": "mixlora", **settings})
    x.requires_grad_(True)
    y, logits = mixture.forward(x, block, LLMModelInput(batch_configs_=[], inference_mode_=False))
    case = Case(facts={"without_gradient": unreached(y, leaves)})
    if bias:
        case.facts["bias"] = True
    found = gradients(y, cotangent, {"x": x, **leaves})
    case.keep(input={"x": x, "cotangent": cotangent}, weight=weights)
    logits = logits.detach()
    case.keep(output={"y": y, "logits": logits, "probabilities": logits.softmax(-1)})
    return case.keep(gradient={"x": found.pop("x"), **gather(found)})


def gated() -> Case:
    """MixLoRA's gated block from moe-peft, with mixlora's own forward of it beside; expert 3 gets no token."""
    case = block_case(11, "gated", unused=3, top_k=PER_TOKEN)
    return case.keep(output={"y_mixlora_package": _mixlora_package_output(case)})


def _mixlora_package_output(case: Case) -> Tensor:
    from mixlora.config import MixLoraConfig
    from mixlora.lora_linear import LoraLinear
    from mixlora.model import MixLoraSparseMoe

    weights = {name.removeprefix("weight."): one for name, one in case.tensors.items() if name.startswith("weight.")}
    config = MixLoraConfig.from_config(
        {
            **COMMON,
            "peft_type": "MIXLORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "none",
            "target_modules": list(SHAPES["gated"]),
            "routing_strategy": "mixlora",
            "top_k": PER_TOKEN,
            "act_fn": ACTIVATION["gated"],
        }
    ).check()
    config.dtype_, config.model_type_ = torch.float64, "llama"
    base = nn.Module()
    for part in SHAPES["gated"]:
        setattr(base, part, frozen_linear(weights[part]))
    mixture = MixLoraSparseMoe(base, config)
    mixture.gate_ = weights["router"]
    for part in SHAPES["gated"]:
        for expert in range(EXPERTS):
            pair = (weights[f"{part}.A"][expert], weights[f"{part}.B"][expert])
            mixture.experts_[f"experts.{expert}.{part}"] = LoraLinear(getattr(base, part), config, pair)
    with torch.no_grad():
        return mixture(case.tensors["input.x"].clone())


def two_matrix() -> Case:
    """MixLoRA's two-matrix block (Phi), without biases."""
    return block_case(12, "two_matrix", top_k=PER_TOKEN)


def two_matrix_bias() -> Case:
    """MixLoRA's two-matrix block with biases on both matrices."""
    return block_case(13, "two_matrix", bias=True, top_k=PER_TOKEN)


def mixdora() -> Case:
    """MixLoRA's gated block with DoRA experts, at magnitudes other than the initial ones."""
    return block_case(14, "gated", top_k=PER_TOKEN, use_dora=True)


def top_p() -> Case:
    """The dynamic router: the smallest prefix of sorted probabilities that reaches 0.8, not renormalised."""
    from moe_peft.adapters.mixlora.model import DynamicRouterLoss, _dynamic_top_p

    case = block_case(15, "gated", routing_strategy="mixlora-dynamic", top_p=0.8)
    kept, slots = _dynamic_top_p(case.tensors["output.probabilities"], 0.8)
    loss = DynamicRouterLoss(
        SimpleNamespace(router_aux_loss_coef_=1.0, num_experts_=EXPERTS, top_p_=0.8, temperature_=0.0)
    )
    case.facts["top_p"] = 0.8
    return case.keep(output=_loss_of(loss, case) | {"kept": kept, "slots": slots})


def _loss_of(loss: nn.Module, case: Case) -> dict[str, Tensor]:
    """Return a router loss and its gradient for the logits of a case."""
    logits = case.tensors["output.logits"].clone().requires_grad_(True)
    value = loss(logits, None)
    return {"loss": value, "loss_gradient_logits": torch.autograd.grad(value, logits)[0]}


def switch() -> Case:
    """The switch router without jitter: room for all tokens, room for one token an expert, and inference."""
    from moe_peft.adapters.mixlora.model import SwitchRouterLoss, _switch_load_balancing_loss_func
    from moe_peft.common import LLMModelInput

    settings = {"routing_strategy": "mixlora-switch", "jitter_noise": 0.0, "ffn_dropout": 0.0, "expert_capacity": 32}
    case = block_case(16, "gated", **settings)
    weights = {name.removeprefix("weight."): one for name, one in case.tensors.items() if name.startswith("weight.")}
    x = case.tensors["input.x"]
    with torch.no_grad():
        block, mixture, _ = build_block(weights, "gated", settings)
        inference, _ = mixture.forward(x.clone(), block, LLMModelInput(batch_configs_=[], inference_mode_=True))
        block, mixture, _ = build_block(weights, "gated", {**settings, "expert_capacity": 1})
        crowded, _ = mixture.forward(x.clone(), block, LLMModelInput(batch_configs_=[], inference_mode_=False))
        mask, probability, _ = mixture.route(x, LLMModelInput(batch_configs_=[], inference_mode_=False))
    names = {"num_experts_": EXPERTS, "expert_capacity_": 32}
    z_only = SwitchRouterLoss(SimpleNamespace(router_z_loss_coef_=1.0, router_aux_loss_coef_=0.0, **names))
    both = SwitchRouterLoss(SimpleNamespace(router_z_loss_coef_=0.001, router_aux_loss_coef_=0.01, **names))
    case.facts |= {"capacity": 1, "z_coefficient": 0.001, "balance_coefficient": 0.01}
    case.keep(
        output={
            "y_inference": inference,
            "y_capacity": crowded,
            "mask_capacity": mask,
            "probability": probability,
            "z_loss": z_only(case.tensors["output.logits"], None),
            "balance": _switch_load_balancing_loss_func(case.tensors["output.probabilities"]),
        }
    )
    return case.keep(output=_loss_of(both, case))


def balance() -> Case:
    """MixLoRA's balance loss over three layers' routers with padding, and without a mask."""
    from moe_peft.adapters.mixlora.model import MixtralRouterLoss
    from moe_peft.common import unpack_router_logits

    draw = Draw(17)
    layers = 3
    x, routers = draw(layers, BATCH, LENGTH, WIDTH), draw(layers, EXPERTS, WIDTH, scale=0.3)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    loss = MixtralRouterLoss(SimpleNamespace(router_aux_loss_coef_=0.5, num_experts_=EXPERTS, top_k_=PER_TOKEN))
    leaves = {"x": x.requires_grad_(True), "routers": routers.requires_grad_(True)}
    case = Case(facts={"coefficient": 0.5, "layers": layers})
    case.keep(input={"x": x, "attention_mask": mask}, weight={"routers": routers})
    for name, given in (("masked", mask), ("unmasked", None)):
        logits = unpack_router_logits([one.flatten(0, 1) @ router.T for one, router in zip(x, routers, strict=True)])
        value = loss(logits, given)
        found = gradients(value, torch.ones(()), leaves)
        case.keep(output={f"loss_{name}": value})
        case.keep(gradient={f"{leaf}_{name}": one for leaf, one in found.items()})
    return case


CASES = {
    "mixlora_gated": gated,
    "mixlora_two_matrix": two_matrix,
    "mixlora_two_matrix_bias": two_matrix_bias,
    "mixlora_balance": balance,
    "mixlora_top_p": top_p,
    "mixlora_switch": switch,
    "mixdora_gated": mixdora,
}
