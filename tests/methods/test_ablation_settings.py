"""Settings that controls and ablations vary: what they freeze, leave out or start differently, and what they count."""

import pytest
import torch
from world import plan, task_document

from moelora.errors import ConfigError
from moelora.methods import get_method, method_names
from moelora.methods._choices import BALANCE_FORMS, FACTOR_INITS, ROUTER_INITS
from moelora.tasks import load_task
from moelora.training.attach import attach, load_adapter, save_adapter

MIXTURES = [name for name in method_names() if get_method(name).abilities.mixture]


def build(world, method, settings=None, architecture="encoder", seed=0):
    """Return the method attached to a small model."""
    layouts = get_method(method).abilities.feed_forward_layouts
    if layouts and "two_matrix" not in layouts:
        architecture = "decoder"
    encoder = architecture == "encoder"
    document = task_document("mood") if encoder else task_document("pick", "multiple_choice")
    one = plan(architecture, [document], method, settings or {}) | {"seed": seed}
    task = load_task(document, world / "data")
    if get_method(method).abilities.needs_allocation:
        from moelora.models import load_base_model

        shapes = load_base_model(one["model"], [task], 0, world / architecture).shapes
        one["allocation"] = {linear.name: index % 4 for index, linear in enumerate(shapes.linears)}
    return attach(one, [task], world / architecture, "cpu")


def routers(attached) -> dict[str, torch.nn.Parameter]:
    return {name: one for name, one in attached.model.named_parameters() if "moelora_router" in name}


def active_parameters(attached) -> int:
    """Count what one token uses from the attached layers themselves: routers, the experts that serve it, the head."""
    from moelora.tuners import MoeloraLayer

    total = 0.0
    for layer in (module for module in attached.model.modules() if isinstance(module, MoeloraLayer)):
        experts, router = layer.experts["default"], layer.router["default"]
        used = {"top_k": router.experts_per_token, "switch": 1}.get(router.name, experts)
        for kind in layer.adapter_layer_names:
            if "default" in (held := getattr(layer, kind)):
                size = held["default"].numel()
                total += size if "router" in kind else size * min(used, experts) / experts
    heads = [one for name, one in attached.model.named_parameters() if "modules_to_save.default" in name]
    return round(total) + sum(one.numel() for one in heads)


@pytest.mark.parametrize("method", MIXTURES)
def test_a_frozen_router_is_random_counted_apart_and_saved(world, tmp_path, method):
    usual, frozen = build(world, method), build(world, method, {"train_router": False})
    assert routers(frozen) and not any(one.requires_grad for one in routers(frozen).values())
    for name, one in routers(usual).items():
        assert one.requires_grad
        assert torch.equal(one, routers(frozen)[name]), "the first values do not depend on being trained"
    before, after = usual.parameters(), frozen.parameters()  # raises where formula and count differ
    held = sum(one.numel() for one in routers(frozen).values())
    assert after["trainable"] == before["trainable"] - held
    assert after["parts"]["frozen"] == held and after["parts"]["router"] == 0 and "frozen" not in before["parts"]
    assert (after["total"], after["active"]) == (before["total"], before["active"])

    save_adapter(frozen, tmp_path)
    other = build(world, method, {"train_router": False}, seed=1)
    assert any(not torch.equal(one, routers(frozen)[name]) for name, one in routers(other).items())
    load_adapter(other, tmp_path)
    for name, one in routers(other).items():
        assert torch.equal(one, routers(frozen)[name]) and not one.requires_grad


@pytest.mark.parametrize("method", MIXTURES)
def test_active_parameters_are_what_the_layers_hold_for_a_token(world, method):
    attached = build(world, method)
    assert attached.parameters()["active"] == active_parameters(attached)


@pytest.mark.parametrize("router", ["top_k", "top_p", "switch", "dense"])
def test_every_router_of_mola_is_attached_and_counted(world, router):
    attached = build(world, "mola", {"router": router, "balance_loss": "cv_squared", "shape": "4"})
    assert attached.parameters()["active"] == active_parameters(attached)
    assert {layer.router["default"].name for layer in attached.model.modules() if hasattr(layer, "router")} == {router}


@pytest.mark.parametrize("method", MIXTURES)
def test_one_expert_has_no_router(world, method):
    attached = build(world, method, get_method(method).one_expert)
    assert not routers(attached)
    parameters = attached.parameters()
    assert parameters["parts"]["router"] == 0 and parameters["active"] == parameters["trainable"]


def test_mixlora_without_attention_has_experts_only(world):
    attached = build(world, "mixlora", {"attention_lora": False})
    assert attached.parameters()["parts"]["attention"] == 0
    adapted = get_method("mixlora").adapted(attached.base.shapes, attached.settings, attached.context)
    assert {linear.part for linear in adapted} == {"feed_forward"}


def test_untrained_magnitudes_of_dora_stay_frozen(world):
    attached = build(world, "dora", {"train_magnitude": False})
    magnitudes = [one for name, one in attached.model.named_parameters() if "magnitude" in name]
    assert magnitudes and not any(one.requires_grad for one in magnitudes)
    trained = build(world, "dora").parameters()["trainable"]
    assert attached.parameters()["trainable"] == trained - sum(one.numel() for one in magnitudes)
    attached.model.disable_adapter_layers()
    attached.model.enable_adapter_layers()
    assert not any(one.requires_grad for one in magnitudes)


@pytest.mark.parametrize(("method", "name"), [("lora", "lora_A"), ("mixlora", "moelora_"), ("mola", "moelora_A")])
def test_gaussian_factors_have_the_deviation_that_they_say(world, method, name):
    attached = build(world, method, {"factor_init": "gaussian", "r": 16})
    values = [one.detach().flatten() for key, one in attached.model.named_parameters() if name in key and "_A" in key]
    assert torch.cat(values).std().item() == pytest.approx(1 / 16, rel=0.1)
    uniform = dict(build(world, method, {"r": 16}).model.named_parameters())
    largest = max(one.abs().max().item() for key, one in uniform.items() if name in key and "_A" in key)
    assert largest <= 1 / 16**0.5, "kaiming-uniform is bounded by the root of the narrowest input"


def test_balance_forms_of_mixlora(world):
    from moelora.tuners import MoeloraLayer

    attached = build(world, "mixlora", {"balance_loss": "cv_squared"})
    layers = [m for m in attached.model.modules() if isinstance(m, MoeloraLayer) and "default" in m.experts]
    assert {m.balance["default"].loss for m in layers if m.experts["default"] > 1} == {"cv_squared"}


def test_words_of_the_pages_are_those_of_the_tuners():
    from moelora.losses import BALANCE_LOSSES
    from moelora.tuners import config

    assert {"none", *(name for name, one in BALANCE_LOSSES.items() if not one.takes_delta)} == set(BALANCE_FORMS)
    assert config.ROUTER_INITS == ROUTER_INITS and set(config.FACTOR_INITS) == set(FACTOR_INITS)


def test_later_settings_stay_out_of_plans_at_their_defaults():
    page = get_method("mixlora")
    assert "train_router" not in page.all_settings({"train_router": True})
    assert page.all_settings({"train_router": False})["train_router"] is False
    assert page.make_settings(page.all_settings({})) == page.make_settings({})


def test_impossible_settings_are_refused_with_their_reason():
    for method, settings, reason in (
        ("mola", {"router": "top-k"}, "router must be one of top_k"),
        ("mola", {"router": "dense"}, "is a constant with the router 'dense'"),
        ("mixlora", {"balance_loss": "localised"}, "balance_loss must be one of none"),
        ("lora", {"factor_init": "pissa"}, "factor_init must be one of kaiming_uniform, gaussian"),
        ("lora_smoe", {"most_experts": 0}, "most_experts must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=reason):
            get_method(method).make_settings(settings)
