"""PEFT's LoRA and DoRA layers computed with our operators: the same function, gradients, files and abilities."""

import copy
import io

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear
from tiny_tuners import ATTENTION, make_base, make_batch
from torch import nn

from moelora.ops import DoraNorm
from moelora.tuners import FusedLinear, fuse, fused, unfuse

VARIANTS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


class Stack(nn.Module):
    """Two linear layers with a bias, one without."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(10, 14), nn.Linear(14, 6, bias=False)

    def forward(self, x):
        """Map (..., 10) to (..., 6)."""
        return self.second(torch.tanh(self.first(x)))


@pytest.fixture(params=list(VARIANTS))
def variant(request) -> str:
    return request.param


def move(model, scale=0.3):
    torch.manual_seed(5)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_" in name:
                one.add_(scale * torch.randn_like(one) if "magnitude" not in name else torch.rand_like(one))


def make_stack(variant, dropout=0.0, double=True, adapters=("default",), **settings):
    torch.manual_seed(1)
    config = LoraConfig(
        r=3, lora_alpha=7, lora_dropout=dropout, target_modules=["first", "second"], **VARIANTS[variant], **settings
    )
    model = get_peft_model(Stack(), config)
    for name in adapters[1:]:
        model.add_adapter(name, config)
    move(model)
    return model.double() if double else model


def layers(model):
    return [one for one in model.modules() if isinstance(one, Linear)]


def outcome(model, x, seed=9):
    """Return output and every gradient of a pass, that of the input first."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(seed)
    y = model(x)
    torch.manual_seed(2)
    y.backward(torch.randn_like(y))
    return [y.detach(), x.grad, *(one.grad for one in model.parameters() if one.requires_grad)]


def same(ones, others, tolerance=1e-10):
    assert len(ones) == len(others) > 3
    for one, other in zip(ones, others, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.fixture
def calls(monkeypatch):
    """Count what ran: our operators, and PEFT's forward of a fused layer."""
    counts = {"ours": 0, "peft": 0}
    for name in ("lora_linear", "dora_linear"):
        original = getattr(fused, name)

        def ours(*args, original=original, **kwargs):
            counts["ours"] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(fused, name, ours)
    original_forward = Linear.forward

    def peft(self, *args, **kwargs):
        counts["peft"] += isinstance(self, FusedLinear)
        return original_forward(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "forward", peft)
    return counts


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(5, 10), (2, 4, 10), (10,), (0, 10)])
def test_forward_and_every_gradient_are_those_of_peft(variant, dropout, shape, calls):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    model = make_stack(variant, dropout)
    expected = outcome(model, x)
    assert fuse(model) == 2 and fuse(model) == 0
    same(outcome(model, x), expected)
    assert calls == {"ours": 2, "peft": 0}
    model.eval()
    evaluated = outcome(model, x)
    assert unfuse(model) == 2
    same(evaluated, outcome(model, x))
    assert {type(one) for one in layers(model)} == {Linear}


def test_only_the_layers_own_mode_decides_on_dropout_in_dora():
    x = torch.randn(3, 10, dtype=torch.float64)
    for part in ("module", "dropout"):
        model = make_stack("dora", 0.4)
        for layer in layers(model):
            (layer.lora_dropout if part == "dropout" else layer).eval()
            layer.lora_dropout.train(part == "module")
        expected = outcome(model, x)
        fuse(model)
        same(outcome(model, x), expected)


def test_non_contiguous_input_and_frozen_input(variant):
    x = torch.randn(10, 7, dtype=torch.float64).T
    model = make_stack(variant)
    expected = outcome(model, x)
    with torch.no_grad():
        silent = model(x)
    fuse(model)
    same(outcome(model, x), expected)
    with torch.no_grad():
        assert torch.allclose(model(x), silent, rtol=1e-12)
    model(x).sum().backward()  # an input that wants no gradient


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_autocast_rounds_as_little_as_peft(variant, dropout):
    """Both round; the distance to the float32 pass is what each is allowed: ours at most twice PEFT's and a bit."""
    x = torch.randn(4, 6, 10)
    model = make_stack(variant, dropout, double=False)
    exact = outcome(model, x)

    def rounded():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return outcome(model, x)

    peft = rounded()
    fuse(model)
    ours = rounded()
    for one, other, true in zip(ours, peft, exact, strict=True):
        assert one.dtype == other.dtype
        bound = 2 * (other.float() - true).norm() + 2**-8 * true.norm()
        assert (other.float() - true).norm() > 0
        assert (one.float() - true).norm() <= bound


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_half_precision_base_with_factors_in_float32(variant, dropout):
    x = torch.randn(4, 6, 10)
    model = make_stack(variant, dropout, double=False)
    for one in layers(model):
        one.base_layer.bfloat16().float()
    exact = outcome(model, x.bfloat16().float())
    for one in layers(model):
        one.base_layer.bfloat16()
    assert layers(model)[0].lora_A["default"].weight.dtype == torch.float32
    peft = outcome(model, x.bfloat16())
    assert fuse(model) == 2
    ours = outcome(model, x.bfloat16())
    for one, other, true in zip(ours, peft, exact, strict=True):
        assert one.dtype == other.dtype
        bound = 2 * (other.float() - true).norm() + 2**-8 * true.norm()
        assert (other.float() - true).norm() > 0
        assert (one.float() - true).norm() <= bound


def test_a_small_step_of_a_magnitude_shows_in_half_precision():
    model = make_stack("dora", double=False)
    layer = layers(model)[1]
    layer.base_layer.bfloat16()
    fuse(model)
    x = torch.randn(400, 14).bfloat16()
    with torch.no_grad():
        before = layer(x)
        layer.lora_magnitude_vector["default"].weight.mul_(1 + 2**-11)
        assert (layer(x) != before).any(dim=0).all()


def test_the_frozen_weight_of_dora_is_measured_once(calls, monkeypatch):
    counted = []
    norm = torch.linalg.vector_norm
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda *a, **k: counted.append(1) or norm(*a, **k))
    model = make_stack("dora")
    fuse(model)
    x = torch.randn(3, 10, dtype=torch.float64)
    for _ in range(3):
        outcome(model, x)
    assert len(counted) == 2 and calls["ours"] == 6


def of_peft(model, x):
    """Return what PEFT's own layers give with the same tensors."""
    other = copy.deepcopy(model)
    unfuse(other)
    return outcome(other, x)


CHANGES = {
    "load": lambda m: m.load_state_dict({k: v * 1.5 for k, v in m.state_dict().items()}),
    "load below": lambda m: [
        one.base_layer.load_state_dict({k: v * 1.5 for k, v in one.base_layer.state_dict().items()})
        for one in layers(m)
    ],
    "merge and unmerge": lambda m: (m.merge_adapter(), scale_data(m), m.unmerge_adapter()),
    "other weight": lambda m: [
        setattr(one.base_layer, "weight", nn.Parameter(one.base_layer.weight * 1.5, False)) for one in layers(m)
    ],
    "other data": lambda m: [setattr(one.weight, "data", one.weight.data * 1.5) for one in layers(m)],
    "in place": lambda m: [one.weight.detach().mul_(1.5) for one in layers(m)],
    "announced": lambda m: (scale_data(m), [one.frozen_norm.invalidate() for one in layers(m)]),
    "trained meanwhile": lambda m: train_base(m),
    "dtype": lambda m: m.float().double(),
}


def scale_data(model):
    """Scale columns: a DoRA does not see its whole merged weight scaled."""
    for one in layers(model):
        one.weight.data.mul_(torch.linspace(0.5, 2, one.in_features))


def train_base(model):
    weights = [one.weight.requires_grad_() for one in layers(model)]
    optimizer = torch.optim.AdamW(weights, lr=0.1, fused=True)
    model(torch.randn(3, 10, dtype=torch.float64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    for one in weights:
        one.requires_grad_(False)


@pytest.mark.parametrize("change", list(CHANGES))
def test_kept_norms_follow_the_frozen_weight(variant, change):
    model = make_stack(variant)
    x = torch.randn(3, 10, dtype=torch.float64)
    fuse(model)
    before = outcome(model, x)
    CHANGES[change](model)
    after = outcome(model, x)
    same(after, of_peft(model, x))
    assert change == "dtype" or not torch.allclose(before[0], after[0], rtol=1e-3)


@pytest.mark.parametrize("kind", ["fused", "foreach", "plain"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_five_training_steps_are_those_of_peft(variant, kind, dropout):
    flags = {"fused": {"fused": True}, "foreach": {"foreach": True}, "plain": {"foreach": False, "fused": False}}[kind]
    found = []
    for fusing in (False, True):
        model = make_stack(variant, dropout)
        if fusing:
            assert fuse(model) == 2
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=0.05, **flags)
        torch.manual_seed(4)
        x, target = torch.randn(16, 10, dtype=torch.float64), torch.randn(16, 6, dtype=torch.float64)
        losses = []
        for _ in range(5):
            loss = nn.functional.mse_loss(model(x), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        found.append([torch.stack(losses), *trained])
    same(*found, tolerance=1e-6)
    assert found[0][0][-1] < found[0][0][0]


@pytest.mark.parametrize("reentrant", [True, False])
def test_whole_models_with_checkpointing(kind, variant, reentrant, calls):
    batch = make_batch(kind)
    found = []
    for fusing in (False, True):
        base = make_base(kind)
        torch.manual_seed(3)
        model = get_peft_model(
            base, LoraConfig(r=4, lora_dropout=0.2, target_modules=ATTENTION[kind], **VARIANTS[variant])
        )
        move(model)
        model.double().train()
        if fusing:
            assert fuse(model) == 4
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        torch.manual_seed(0)
        loss = model(**batch).loss
        loss.backward()
        found.append([loss.detach(), *(one.grad for one in model.parameters() if one.requires_grad)])
    same(*found)
    assert calls["ours"] == 8 and calls["peft"] == 0


def test_disabled_merged_and_unloaded_layers_are_pefts(variant, calls):
    model = make_stack(variant).eval()
    x = torch.randn(3, 10, dtype=torch.float64)
    fuse(model)
    expected, base = model(x), model.base_model.model
    with model.disable_adapter():
        plain = model(x)
    original = copy.deepcopy(model).unload()(x)
    assert torch.equal(plain, original) and not torch.allclose(plain, expected)
    model.merge_adapter()
    assert calls == {"ours": 2, "peft": 2}
    assert torch.allclose(model(x), expected, rtol=1e-10)
    with model.disable_adapter():  # unmerges on the way
        assert torch.allclose(model(x), plain, rtol=1e-10)
    assert torch.allclose(model(x), expected, rtol=1e-10)
    merged = model.merge_and_unload()
    assert merged is base and not layers(merged)
    assert torch.allclose(merged(x), expected, rtol=1e-10)


def test_several_adapters(variant, calls):
    model = make_stack(variant, adapters=("default", "other"))
    x = torch.randn(4, 10, dtype=torch.float64)
    fuse(model)
    found = {}
    for active in ("default", "other", ["default", "other"]):
        model.base_model.set_adapter(active)
        found[str(active)] = outcome(model, x)
        same(found[str(active)], of_peft(model, x))
    assert calls["ours"] == 4 and calls["peft"] == 2
    assert not torch.allclose(found["default"][0], found["other"][0])
    model.base_model.set_adapter("default")
    model.eval()  # PEFT takes mixed batches in evaluation only
    if variant != "dora":
        mixed = model(x, adapter_names=["default", "other", "__base__", "other"])
        assert torch.allclose(mixed[0], found["default"][0][0])
        assert torch.allclose(mixed[[1, 3]], found["other"][0][[1, 3]])
    else:
        with pytest.raises(ValueError, match="DoRA"):
            copy.deepcopy(model)(x, adapter_names=["default"] * 4)  # PEFT's hooks stay on the model that raised
    model.delete_adapter("other")
    same(outcome(model, x), found["default"])


def test_adapters_added_later_are_fused_and_new_layers_are_not(variant, calls):
    torch.manual_seed(1)
    model = get_peft_model(Stack(), LoraConfig(r=2, target_modules=["first"], **VARIANTS[variant])).double()
    assert fuse(model) == 1
    model.add_adapter("wider", LoraConfig(r=3, target_modules=["first", "second"], **VARIANTS[variant]))
    model.set_adapter("wider")
    model.double()
    move(model)
    x = torch.randn(4, 10, dtype=torch.float64)
    expected = of_peft(model, x)
    same(outcome(model, x), expected)
    assert calls["ours"] == 1
    assert [type(one) for one in layers(model)] == [FusedLinear, Linear]
    assert fuse(model) == 1
    same(outcome(model, x), expected)


def test_saving_and_loading_give_the_same_bytes(variant, tmp_path):
    model = make_stack(variant, double=False).eval()
    model.save_pretrained(tmp_path / "plain")
    names = list(model.state_dict())
    fuse(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path / "fused")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert sorted((tmp_path / "fused" / file).read_bytes()) == sorted((tmp_path / "plain" / file).read_bytes())
    x = torch.randn(3, 10)
    torch.manual_seed(1)
    loaded = PeftModel.from_pretrained(Stack(), tmp_path / "fused").eval()
    fuse(loaded)
    assert torch.equal(loaded(x), model(x))


def test_copies_and_pickles(variant):
    model = make_stack(variant)
    fuse(model)
    x = torch.randn(3, 10, dtype=torch.float64)
    expected = outcome(model, x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert [type(one) for one in layers(other)] == [FusedLinear] * 2
        same(outcome(other, x), expected, tolerance=0)
        for layer in layers(other):  # a copy's norms are its own
            layer.weight.data.mul_(2)
            layer.frozen_norm.invalidate()
        same(outcome(other, x), of_peft(other, x))
        same(outcome(model, x), expected, tolerance=0)


class Doubled(nn.Linear):
    """Twice what a linear layer gives."""

    def forward(self, x):
        """Map (..., D) to (..., O)."""
        return 2 * super().forward(x)


def replace_factor(layer):
    other = Doubled(layer.in_features, layer.r["default"], bias=False)
    other.load_state_dict(layer.lora_A["default"].state_dict())
    layer.lora_A["default"] = other.to(layer.lora_A["default"].weight.dtype)


UNUSUAL = {
    "hook on the frozen layer": lambda one: one.base_layer.register_forward_hook(lambda *a: a[-1] + 1),
    "hook on a factor": lambda one: one.lora_A["default"].register_forward_hook(lambda *a: a[-1] * 2),
    "hook on the dropout": lambda one: one.lora_dropout["default"].register_forward_pre_hook(lambda m, a: (a[0] * 2,)),
    "trained weight": lambda one: one.base_layer.weight.requires_grad_(),
    "other factor": replace_factor,
    "no casting": lambda one: (setattr(one, "cast_input_dtype_enabled", False), one.lora_A["default"].float()),
    "adapter elsewhere": lambda one: setattr(one, "_active_adapter", ["nobody"]),
}


@pytest.mark.parametrize("unusual", list(UNUSUAL))
def test_what_the_operators_do_not_cover_is_pefts(variant, unusual, calls):
    model = make_stack(variant)
    layer = layers(model)[0]
    fuse(model)
    UNUSUAL[unusual](layer)
    x = torch.randn(3, 10, dtype=torch.float64)
    if unusual == "no casting":
        with pytest.raises(RuntimeError, match="dtype"):
            model(x)
    else:
        ours = outcome_where_any(model, x)
        assert calls == {"ours": 1, "peft": 1}
        unfuse(model)
        same(ours, outcome_where_any(model, x))


def outcome_where_any(model, x):
    return [one for one in outcome(model, x) if one is not None]


def test_hook_on_the_layer_itself_still_runs():
    model = make_stack("lora")
    fuse(model)
    seen = []
    layers(model)[0].register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(2, 10, dtype=torch.float64))
    assert seen == [1]


def test_other_layers_are_left_alone():
    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.conv, self.linear = nn.Embedding(9, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4)

        def forward(self, ids):
            return self.linear(self.conv(self.words(ids).mT).mT)

    model = get_peft_model(Base(), LoraConfig(r=2, target_modules=["words", "conv", "linear"]))
    assert fuse(model) == 1 and type(model.base_model.model.linear) is FusedLinear
    assert model(torch.tensor([[1, 2, 3]])).shape == (1, 3, 4)
    with_bias = make_stack("lora", lora_bias=False)
    assert not layers(with_bias)[1].lora_bias["default"]


def test_lora_with_a_bias_of_its_own_is_pefts(calls):
    torch.manual_seed(1)
    model = get_peft_model(Stack(), LoraConfig(r=2, target_modules=["first"], lora_bias=True)).double()
    move(model)
    fuse(model)
    x = torch.randn(2, 10, dtype=torch.float64)
    same(outcome(model, x), of_peft(model, x))
    assert calls["ours"] == 0


def test_the_switch_turns_it_off(monkeypatch):
    monkeypatch.setenv("MOELORA_FUSED", "0")
    model = make_stack("lora")
    assert fuse(model) == 0
    assert {type(one) for one in layers(model)} == {Linear}


@pytest.mark.parametrize("loaded", [False, True])
def test_lora_on_quantised_layers_is_left_alone(loaded):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = Stack()
    base.first = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4")
    base.second = nn.Linear(64, 6)
    base.is_loaded_in_4bit = loaded  # PEFT goes by this mark: without it the layer of its plain class is taken
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["first", "second"]))
    assert fuse(model) == 1
    assert type(model.base_model.model.first) is not FusedLinear
    assert isinstance(model.base_model.model.first, Linear) is not loaded


def test_norms_are_not_pickled():
    norm = DoraNorm()
    norm.squares(torch.ones(2, 3))
    assert copy.deepcopy(norm)._squares is None
