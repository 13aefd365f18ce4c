"""What holds for mixtures and routers: one expert is LoRA, padding does not count, balance is what the loss rewards."""

import re

import bases
import pytest
import torch
from subjects import Subject, check, gradients, logits, move, not_applicable

import moelora.routers
import moelora.tuners.mixture_layer
from moelora.routers import expert_load
from moelora.tuners import MoeloraLayer, balance_loss, record_routing, routing

ONE_EXPERT = {"experts": 1, "num_experts": 1, "shape": "1"}  # what pages call the number of experts


def lora_factors(model: torch.nn.Module) -> tuple[dict[str, tuple[torch.Tensor, ...]], dict[str, torch.Tensor]]:
    """Return A and B by linear of our own layers with one expert, and DoRA's magnitudes by linear.

    A layer around a whole block has factors of several linears, named for their role. Where a block lies in two
    modules, the inner one holds A and the outer one B of the outer linear.
    """
    first: dict[str, torch.Tensor] = {}
    second: dict[str, torch.Tensor] = {}
    magnitudes: dict[str, torch.Tensor] = {}
    apart = []
    for layer in (module for module in model.modules() if isinstance(module, MoeloraLayer)):
        names = getattr(layer, "names", {})
        for attribute in layer.adapter_layer_names:
            match = re.fullmatch(r"moelora_(?:(\w+)_)?(A|B|magnitude)", attribute)
            if match is None:
                continue  # a router
            role, factor = match.groups()
            value = getattr(layer, attribute)["default"]
            if factor == "magnitude":
                magnitudes[f"{layer.module_name}.{names[role]}" if role in names else layer.module_name] = value[0]
            elif role is None:
                (first if factor == "A" else second)[layer.module_name] = value
            elif role in names:
                (first if factor == "A" else second)[f"{layer.module_name}.{names[role]}"] = value
            elif factor == "A":
                apart.append(value)
            else:
                first[layer.module_name], second[layer.module_name] = apart.pop(0), value
    assert first.keys() == second.keys() and not apart
    return {name: (first[name], second[name]) for name in first}, magnitudes


@check("one expert is plain LoRA or DoRA")
def test_one_expert_is_the_plain_method(subject):
    if not subject.abilities.mixture:
        not_applicable("is no mixture")
    options = {name: one for name, one in ONE_EXPERT.items() if name in subject.setting_names}
    if not options and not subject.abilities.needs_allocation:
        not_applicable("its number of experts is no setting")
    options |= {"dropout": 0.0, "experts_per_token": 1}
    if subject.abilities.needs_allocation:
        shapes = bases.describe(subject.kind, bases.make_base(subject.kind)).shapes
        options["allocation"] = {linear.name: 1 for linear in shapes.linears}
    attached = subject.attach(**options)
    if not any(isinstance(module, MoeloraLayer) for module in attached.model.modules()):
        not_applicable("its experts are whole PEFT adapters")
    move(attached, head=False)
    attached.model.eval()
    adapted = subject.method.adapted(attached.base.shapes, attached.settings, attached.context)
    factors, magnitudes = lora_factors(attached.model)
    assert factors.keys() == {linear.name for linear in adapted}
    plain = Subject(subject.abilities.one_expert_is, subject.kind).attach(
        r=attached.settings.r, alpha=attached.settings.alpha, modules=sorted(factors)
    )
    with torch.no_grad():
        for name, (a, b) in factors.items():
            module = plain.model.base_model.model.get_submodule(name)
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)
            if magnitudes:
                module.lora_magnitude_vector["default"].weight.copy_(magnitudes[name])
    tensors = subject.tensors(subject.batch())
    # the same products, summed in another order
    assert torch.allclose(logits(attached.model, tensors), logits(plain.model.eval(), tensors), atol=1e-4, rtol=1e-4)


def widened(tensors: dict[str, torch.Tensor], by: int, filler: int) -> dict[str, torch.Tensor]:
    """Return the batch with more padding on the right, and another token there."""
    more = torch.zeros(tensors["input_ids"].shape[0], by, dtype=torch.long)
    ids, mask = (torch.cat([tensors[name], more], dim=1) for name in ("input_ids", "attention_mask"))
    return {"input_ids": torch.where(mask.bool(), ids, filler), "attention_mask": mask}


@check("padding does not count")
def test_padding_does_not_count(subject):
    batch = subject.batch()
    attached = subject.moved()
    model, hooks = attached.model, subject.method.make_hooks(attached.settings)
    narrow = subject.tensors(batch)
    wide = widened(narrow, by=5, filler=9)
    real = narrow["attention_mask"].bool()
    shown = []
    for tensors in (narrow, wide):
        if hooks.before_batch is not None:
            hooks.before_batch(model, batch)
        with record_routing(model):
            out = logits(model, tensors)
            loads = {name: expert_load(output) for name, output in routing(model)}
        model.train()
        model(**tensors)
        balance = balance_loss(model) if subject.abilities.balance_loss else None
        model.eval()
        shown.append((out if subject.kind == "bert" else out[:, : real.shape[1]][real], loads, balance))
    (first, first_loads, first_balance), (second, second_loads, second_balance) = shown
    # masked keys get a weight of exactly zero; what is left is the order of float32 sums
    assert torch.allclose(first, second, atol=1e-4, rtol=1e-4)
    assert first_loads.keys() == second_loads.keys()
    if subject.abilities.routed and any(isinstance(module, MoeloraLayer) for module in model.modules()):
        assert first_loads, "a routed method shows its routing to record_routing"
    for name, load in first_loads.items():
        assert torch.allclose(load, second_loads[name], atol=1e-5), name
        assert load.sum().item() == pytest.approx(1, abs=1e-5)
    if subject.abilities.balance_loss:
        assert first_balance.item() == pytest.approx(second_balance.item(), rel=1e-4)


@check("balance loss grows with imbalance")
def test_balance_loss_grows_with_imbalance(subject, monkeypatch):
    subject.needs_ability("balance_loss", "has no balance loss")
    attached = subject.attach()
    model, hooks = attached.model.train(), subject.method.make_hooks(attached.settings)
    batch = subject.batch()
    tensors = subject.tensors(batch)
    plain = moelora.routers.router_logits
    found = []
    for preference in (0.0, 2.0, 20.0):

        def leaning(x, weight, preference=preference):
            given = plain(x, torch.zeros_like(weight))
            return given + preference * torch.eye(given.shape[-1], dtype=given.dtype)[0]

        with monkeypatch.context() as patched:
            patched.setattr(moelora.routers, "router_logits", leaning)
            # Nor may an operator that holds the router itself pass it by.
            patched.setattr(moelora.tuners.mixture_layer, "takes_router", lambda *_: False)
            if hooks.before_batch is not None:
                hooks.before_batch(model, batch)
            model(**tensors)
            found.append(balance_loss(model).item())
    balanced, leaning, collapsed = found
    # in between, a router that takes as many experts as it needs takes fewer, and a loss over its slots may fall
    assert balanced < collapsed and leaning < collapsed, found
    if hooks.before_batch is not None:
        hooks.before_batch(model, batch)
    model(**tensors)
    loss = balance_loss(model)
    assert torch.isfinite(loss)
    loss.backward()
    routers = [name for name, one in model.named_parameters() if "_router" in name and one.requires_grad]
    assert routers
    flat = [name for name in routers if not model.get_parameter(name).grad.abs().max() > 0]
    assert flat == [], "the balance loss reaches every router"
    model.zero_grad(set_to_none=True)
    # and the loop adds it: without it the routers' gradients differ
    subject.step(attached, batch)
    with_balance = gradients(model)
    subject.step(attached, batch, balance=False)
    without = gradients(model)
    assert any(not torch.equal(with_balance[name], without[name]) for name in routers)
