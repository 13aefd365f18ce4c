"""What a method starts from, what it trains, and how many parameters that is."""

import bases
import pytest
import torch
from subjects import Subject, assert_equal, check, logits, not_applicable, tuner_layers, values

from moelora.errors import ConfigError
from moelora.training.loop import make_optimizer
from moelora.training.state import trainable_tensors


def base_names(subject: Subject) -> tuple:
    """Return the attached method and, by identity, the names of the base model's own parameters."""
    base = bases.make_base(subject.kind)
    own = {id(parameter): name for name, parameter in base.named_parameters()}
    return subject.attach(base=base), own, list(base.parameters())


@check("starts as the base model")
def test_starts_as_the_base_model(subject):
    if not subject.abilities.starts_as_base:
        assert subject.abilities.start_note, "abilities.start_note must say why the method does not start as the base"
        not_applicable(subject.abilities.start_note)
    tensors = subject.tensors(subject.batch())
    model = subject.attach().model.eval()
    # float32 sums in another order at most: increments of B = 0 are exact zeros
    assert torch.allclose(
        logits(model, tensors), logits(bases.make_base(subject.kind).eval(), tensors), atol=1e-5, rtol=1e-5
    )


@check("trains its own parts only")
def test_only_its_own_parts_get_gradients(subject):
    subject.needs_training()
    attached, own, _kept = base_names(subject)
    attached.model.train()
    trained = trainable_tensors(attached.model)
    if not trained:
        not_applicable("trains the head only, and a decoder has none")
    ours = {own[id(parameter)] for parameter in trained.values() if id(parameter) in own}
    # a decoder's head is the layer that gives the logits
    heads = bases.HEADS[subject.kind] or ("lm_head", "embed_out")
    head = {name for name in own.values() if name.split(".")[0] in heads}
    if attached.method.abilities.adapter:
        assert ours == set(), "an adapter trains copies of the head and nothing else of the base model"
    else:
        assert ours in (head, set(own.values()))
    if subject.kind == "bert":
        shapes = [tuple(parameter.shape) for name, parameter in trained.items() if "classifier" in name]
        head_shapes = [(2,), (2, bases.WIDTH)] if subject.abilities.trains_head else []
        assert sorted(shapes) == head_shapes, "the head is trained by every method that does not declare otherwise"
    subject.step(attached, subject.batch())
    with_gradient = {name for name, one in attached.model.named_parameters() if one.grad is not None}
    assert with_gradient == set(trained)


@check("every trained tensor moves")
def test_every_trained_tensor_moves(subject):
    subject.needs_training()
    attached = subject.attach()
    before = values(attached.model)
    if not before:
        not_applicable("trains the head only, and a decoder has none")
    frozen = {name: one.detach().clone() for name, one in attached.model.named_parameters() if not one.requires_grad}
    optimizer, _ = make_optimizer(attached.model, {"weight_decay": 0.0, "learning_rate": 1e-3, "warmup_ratio": 0.0,
                                                   "scheduler": "constant"}, 1)  # fmt: skip
    held = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for one in trainable_tensors(attached.model).values()}
    result = subject.train(attached, weight_decay=0.0)  # decay would move a tensor without a gradient
    assert result.status == "finished"
    after = values(attached.model)
    assert [name for name, one in before.items() if torch.equal(one, after[name])] == []
    now = dict(attached.model.named_parameters())
    hooks = subject.method.make_hooks(attached.settings)
    if hooks.after_step is None:  # such a hook may keep books in frozen tensors
        assert [name for name, one in frozen.items() if not torch.equal(one, now[name])] == []


@check("parameters as its formula says")
def test_parameters_equal_the_closed_formula(subject):
    attached = subject.attach()
    parameters = attached.parameters()  # raises where the page's formula and the count differ
    parts = parameters["parts"]
    assert parameters["active"] <= parameters["trainable"]
    assert parts["experts"] == parts["attention"] + parts["feed_forward"]
    # PEFT makes every adapter tensor anew on a half-precision base, trainable or not
    assert subject.attach(dtype=torch.bfloat16).parameters() == parameters
    if attached.method.abilities.adapter:
        saved = sum(one.numel() for name, one in trainable_tensors(attached.model).items() if "modules_to_save" in name)
        assert parts["head"] == saved
        routers = sum(one.numel() for name, one in trainable_tensors(attached.model).items() if "_router" in name)
        assert parts["router"] == routers or not routers
        names = {linear.name for linear in subject.method.adapted(*_arguments(attached))}
        # empty where it adapts no linear: what stands behind whole blocks
        assert names <= {linear.name for linear in attached.base.shapes.linears}


def _arguments(attached) -> tuple:
    return attached.base.shapes, attached.settings, attached.context


@check("refuses modules that are not there", kinds=("llama",))
def test_modules_that_are_not_there_are_refused(subject):
    if "modules" not in subject.setting_names:
        not_applicable("has no setting `modules`")
    shapes = bases.describe(subject.kind, bases.make_base(subject.kind)).shapes
    with pytest.raises(ConfigError, match="unknown modules 'atention'"):
        shapes.select(["atention"])
    attached = subject.attach(modules="attention")
    layers = {
        name
        for name, module in attached.model.named_modules()
        if module in tuner_layers(attached.model) and not name.endswith("base_layer")
    }
    assert layers and all("self_attn" in name for name in layers), "the setting `modules` chooses what is adapted"


@check("one seed, one start")
def test_seeds(subject):
    subject.needs_training()
    first, again, other = subject.attach(seed=0), subject.attach(seed=0), subject.attach(seed=1)
    if not values(first.model):
        not_applicable("trains the head only, and a decoder has none")
    assert values(first.model).keys() == values(other.model).keys()
    for attached in (first, again):
        torch.manual_seed(5)
        subject.train(attached, steps=2)
    assert_equal(values(first.model), values(again.model))
    if not subject.abilities.adapter:
        return  # nothing but the base model and its head, whose start depends on the task and the run's seed
    theirs = dict(other.model.named_parameters())  # frozen ones too: what is drawn need not be trained
    mine = subject.attach(seed=0).model.named_parameters()
    assert any(not torch.equal(one, theirs[name]) for name, one in mine)
