"""Controls that are trained: each does what its name says."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from world import plan, task_document, write_plan

from moelora.errors import AdapterError
from moelora.files import read_json, sha256_file
from moelora.methods import AttachContext, get_method
from moelora.models import load_base_model
from moelora.plans.controls import make_controls
from moelora.plans.variants import Variant
from moelora.tasks import load_task
from moelora.training.attach import attach, load_adapter
from moelora.training.declarations import source_declarations
from moelora.training.encode import collate, encode_choice, encode_training
from moelora.training.identity import open_run
from moelora.training.matching import match_rank
from moelora.training.parent import load_parent
from moelora.training.run import carry_out

TASK = task_document("mood")
SMALL = {"experts": 4, "r": 4, "alpha": 8}


def control(kind, method="mixlora", settings=SMALL) -> Variant:
    page = get_method(method)
    mixture = Variant(method, method, page.version, page.all_settings(settings), page.abilities)
    (found,) = make_controls(mixture, [kind], "suite")
    return found


def carried(world, root, variant):
    """Train and score a variant; return its plan, its folder and its record."""
    document = plan("encoder", [TASK], variant.method) | {"variant": variant.name, "settings": dict(variant.settings)}
    if variant.match:
        names = {"variant": variant.match.name, "method": variant.match.method, "allocation": None, "count": "active"}
        document["pending"] = {"match": {**names, "settings": dict(variant.match.settings)}}
    path = write_plan(root, document)
    record = carry_out(open_run(path, "code", world / "data", world / "encoder"), evaluate=True)
    assert record["status"] == "finished", record["reason"]
    return read_json(path.parent / "resolved.json"), path.parent, record


def fresh(world, document):
    return attach(document, [load_task(TASK, world / "data")], world / "encoder", "cpu")


def tensors(world, tokenizer):
    task = load_task(TASK, world / "data")
    batch = collate(encode_training(task, 8, tokenizer, {"max_length": 32}), 0, task.kind)
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def named(attached, word) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in attached.model.named_parameters() if word in name}


def test_a_frozen_router_is_the_same_after_training_and_after_loading(world, tmp_path):
    document, folder, record = carried(world, tmp_path, control("frozen_router"))
    first = fresh(world, document)
    routers, factors = named(first, "moelora_router"), named(first, "moelora_inner_B")
    assert routers and record["parameters"]["parts"]["frozen"] == sum(one.numel() for one in routers.values())
    assert record["parameters"]["parts"]["router"] == 0
    # loaded into a model whose routers start elsewhere, the adapter brings its own
    other = fresh(world, document | {"seed": 5})
    assert any(not torch.equal(one, named(other, "moelora_router")[name]) for name, one in routers.items())
    load_adapter(other, folder / "adapter")
    for name, one in routers.items():
        assert torch.equal(named(other, "moelora_router")[name], one)
    assert any(not torch.equal(named(other, "moelora_inner_B")[name], one) for name, one in factors.items())


def test_without_balance_nothing_is_added_to_the_loss(world, tmp_path):
    _, _, record = carried(world, tmp_path, control("no_balance"))
    assert {value for _, value in record["training"]["balance_curve"]} == {0.0}
    assert not [text for text in record["declarations"] if "balance" in text]
    usual = control("no_balance", settings={**SMALL, "balance_coefficient": 0.3})
    assert usual.settings["balance_coefficient"] == 0.0
    with_balance = dataclasses.replace(usual, name="mixlora", settings={**usual.settings, "balance_coefficient": 0.3})
    _, _, other = carried(world, tmp_path, with_balance)
    assert all(value > 0 for _, value in other["training"]["balance_curve"])


def test_one_expert_is_plain_lora_with_weight_one(world, tmp_path):
    document, folder, record = carried(world, tmp_path, control("one_expert"))
    assert record["routing"] == [] and record["parameters"]["parts"]["router"] == 0
    single = fresh(world, document)
    load_adapter(single, folder / "adapter")
    plain = fresh(world, plan("encoder", [TASK], "lora", {"r": 4, "alpha": 8}))
    inner = ".intermediate"
    values = named(single, "moelora_")
    with torch.no_grad():
        for name, parameter in plain.model.named_parameters():
            if "lora_" not in name:
                continue
            module, _, kind = name.replace(".weight", "").rpartition(".lora_")
            letter = kind[0]
            if ".intermediate.dense" in module:
                source = f"{module.replace('.dense', '')}.moelora_inner_{letter}.default"
            elif ".attention." not in module and letter == "A":  # the outer half's A lies in the inner half
                source = f"{module.replace('.output.dense', inner)}.moelora_outer_A.default"
            elif ".attention." not in module:
                source = f"{module}.moelora_outer_B.default"
            else:
                source = f"{module}.moelora_{letter}.default"
            parameter.copy_(values.pop(source))
        assert not values, "every factor has gone into the plain LoRA"
        heads = named(single, "modules_to_save")
        for name, parameter in plain.model.named_parameters():
            if "modules_to_save" in name:
                parameter.copy_(heads[name])
    batch = tensors(world, single.base.tokenizer)
    with torch.no_grad():
        first, second = (one.model.eval()(**batch).logits for one in (single, plain))
    assert torch.allclose(first, second, atol=1e-5)


def test_a_lora_of_equal_active_parameters_says_both_counts(world, tmp_path):
    variant = control("equal_active")
    document, _, record = carried(world, tmp_path, variant)
    match = record["match"]
    assert match["count"] == "active" and match["variant"] == "mixlora"
    assert record["parameters"]["active"] == record["parameters"]["trainable"] == match["reached"]
    mixture = fresh(world, plan("encoder", [TASK], "mixlora", dict(variant.match.settings)))
    assert match["target"] == mixture.parameters()["active"] < mixture.parameters()["trainable"]
    assert document["match"]["count"] == "active"


@pytest.mark.parametrize("method", ["mixlora", "mola", "mixlora_top_p", "loramoe"])
def test_rank_of_equal_active_parameters_is_the_nearest(world, method):
    task = load_task(TASK, world / "data")
    shapes = load_base_model(plan("encoder", [TASK])["model"], [task], 0, world / "encoder").shapes
    settings = get_method(method).all_settings({})
    match = {"variant": method, "method": method, "settings": settings, "allocation": None, "count": "active"}
    matched, lora, context = match_rank(match, shapes), get_method("lora"), AttachContext(shapes)
    distances = {}
    for rank in range(1, 120):
        other = lora.make_settings({"r": rank, "modules": matched.settings.modules})
        distances[rank] = abs(lora.parameters(shapes, other, context).active - matched.target)
    assert distances[matched.settings.r] == min(distances.values())
    larger = match_rank({**match, "count": "trainable"}, shapes)
    assert larger.settings.r >= matched.settings.r and "count" not in larger.record()


def test_an_adapter_from_before_a_setting_was_there_has_its_default(world, tmp_path):
    document, folder, _ = carried(world, tmp_path, control("no_balance"))
    adapter = folder / "adapter"
    identity = read_json(adapter / "identity.json")
    assert identity["settings"].pop("train_router") is True
    (adapter / "identity.json").write_text(json.dumps(identity))
    parent = {"adapter_sha256": sha256_file(adapter / "adapter_model.safetensors")}
    run = SimpleNamespace(adapter_dir=adapter, plan={**document, "parent": parent}, base_dir=world / "encoder")
    attached = fresh(world, document)
    load_parent(attached, run)
    del identity["settings"]
    (adapter / "identity.json").write_text(json.dumps(identity))
    with pytest.raises(AdapterError, match="'settings' is missing, expected a dict"):
        load_parent(fresh(world, document), run)  # what it says nothing of is not taken for granted
    (adapter / "identity.json").write_text(json.dumps(identity | {"settings": document["settings"]}))
    trained = fresh(world, document)
    load_adapter(trained, adapter)
    for name, one in named(trained, "moelora_").items():
        assert torch.equal(named(attached, "moelora_")[name], one)
    other = fresh(world, {**document, "settings": {**document["settings"], "train_router": False}})
    with pytest.raises(AdapterError, match="setting train_router True, this run is of setting train_router False"):
        load_parent(other, run)


def test_untrained_magnitudes_stay_what_they_are(world, tmp_path):
    page = get_method("dora")
    variant = Variant("dora", "dora", page.version, page.all_settings({"train_magnitude": False}), page.abilities)
    document, folder, _ = carried(world, tmp_path, variant)
    before = named(fresh(world, document), "magnitude")
    trained = fresh(world, document)
    load_adapter(trained, folder / "adapter")
    for name, one in named(trained, "magnitude").items():
        assert torch.equal(one, before[name])


def test_another_prompt_in_training(world):
    document = task_document("pick", "multiple_choice")
    task = load_task(document, world / "data")
    tokenizer = fresh_tokenizer(world)
    answer = encode_training(task, 4, tokenizer, {"max_length": 32})
    asked = encode_training(task, 4, tokenizer, {"max_length": 32, "prompt": "question : {prompt}"})
    for one, other in zip(answer, asked, strict=True):
        more = len(other.ids) - len(one.ids)
        assert more == 2 and other.ids[-len(one.ids) + 1 :] == one.ids[1:] and other.label == one.label + more
    said = source_declarations({"model": {}, "training": {"loss_on": "all_tokens", "prompt": "question : {prompt}"}})
    assert len(said) == 2 and said[1].endswith("question : {prompt}")
    assert encode_choice(task, task.train[0], tokenizer, 32) == answer[0], "scoring has the task's own prompt"


def fresh_tokenizer(world):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(world / "decoder")
