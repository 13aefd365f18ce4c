"""A run on a quantised base model, from its plan to its record."""

import importlib.util
import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from world import plan, task_document, write_plan

from moelora.errors import AdapterError, ModelUnavailableError
from moelora.models import load_base_model
from moelora.quantised import DTYPES, check_widths, count_parameters, weight_options
from moelora.tasks import load_task
from moelora.training.identity import open_run
from moelora.training.run import carry_out

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="quantised bases need bitsandbytes: moelora[quantised]"
)


def quantised(architecture: str, form: str, method: str = "lora", **training) -> dict:
    task = task_document("mood") if architecture == "encoder" else task_document("pick", "multiple_choice")
    document = plan(architecture, [task], method, **training)
    document["model"] |= {"name": f"test-{architecture}-{form}", "quantisation": form}
    return document


@pytest.fixture(scope="module")
def wider(world, tmp_path_factory):
    """A decoder whose widths bitsandbytes can take on any CPU: multiples of 64."""
    folder = tmp_path_factory.mktemp("wider")
    shutil.copytree(world / "decoder", folder, dirs_exist_ok=True)
    config = LlamaConfig.from_pretrained(world / "decoder", hidden_size=64, intermediate_size=128, head_dim=32)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run_once(world, root, document, base):
    path = write_plan(root, document)
    run = open_run(path, "test", world / "data", base)
    return run, carry_out(run, evaluate=True)


@needs_bitsandbytes
@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_linears_are_quantised_and_counted_as_what_they_stand_for(world, wider, form):
    import bitsandbytes

    document = quantised("decoder", form)
    task = load_task(document["tasks"][0], world / "data")
    plain = load_base_model({**document["model"], "quantisation": None}, [task], 0, wider)
    found = load_base_model(document["model"], [task], 0, wider)
    kind = {"nf4": bitsandbytes.nn.Linear4bit, "int8": bitsandbytes.nn.Linear8bitLt}[form]
    kinds = {name: type(found.model.get_submodule(name)) for name in [linear.name for linear in found.shapes.linears]}
    assert set(kinds.values()) == {kind} and type(found.model.lm_head) is torch.nn.Linear
    assert found.shapes == plain.shapes
    assert count_parameters(found.model) == sum(p.numel() for p in plain.model.parameters())


@needs_bitsandbytes
@pytest.mark.parametrize("method", ["lora", "mixlora"])
def test_a_decoder_in_four_bits_is_trained_and_scored(world, wider, tmp_path, method):
    run, record = run_once(world, tmp_path, quantised("decoder", "nf4", method, max_steps=24), wider)
    assert record["status"] == "finished", record["reason"]
    curve = record["training"]["loss_curve"]
    assert curve[-1][1] < curve[0][1]
    entry = record["scores"]["tiny-pick"]
    assert entry["base_form"] == "nf4" and record["plan"]["model"]["quantisation"] == "nf4"
    assert any("quantised (nf4, bitsandbytes)" in said for said in record["declarations"])
    assert record["parameters"]["total"] > record["parameters"]["trainable"] > 0
    (run.folder / "record.json").unlink()  # scored once more from the adapter: the same to the last digit
    again = carry_out(run, evaluate=True)
    assert again["scores"] == record["scores"]


@needs_bitsandbytes
def test_an_encoder_in_eight_bits_keeps_its_head(world, tmp_path):
    _, record = run_once(world, tmp_path, quantised("encoder", "int8", max_steps=12), world / "encoder")
    assert record["status"] == "finished", record["reason"]
    assert record["scores"]["tiny-mood"]["base_form"] == "int8"
    assert record["parameters"]["parts"]["head"] == 16 * 2 + 2


@needs_bitsandbytes
def test_an_adapter_of_a_quantised_base_is_refused_on_the_whole_one(world, wider, tmp_path):
    run, _ = run_once(world, tmp_path, quantised("decoder", "nf4", max_steps=1), wider)
    identity = json.loads((run.folder / "adapter" / "identity.json").read_text())
    assert identity["quantisation"] == "nf4"
    whole = plan("decoder", [task_document("pick", "multiple_choice")], max_steps=1)
    path = write_plan(tmp_path / "other", whole)
    with pytest.raises(AdapterError, match="belongs to another source"):
        open_run(path, "test", world / "data", wider, run.folder, further=False)


def test_widths_that_some_cpus_cannot_score_are_refused_at_once():
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 64))
    check_widths(model, {"name": "any"})  # an ordinary linear may have any width
    model[0].support_avx512bf16_for_cpu = model[1].support_avx512bf16_for_cpu = True  # as bitsandbytes marks its own
    with pytest.raises(ModelUnavailableError, match=r"'1' is 32 to 64 features wide.*multiples of 64 and 32"):
        check_widths(model, {"name": "any"})


def test_without_bitsandbytes_the_message_says_what_to_do(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(ModelUnavailableError, match=r"needs bitsandbytes: pip install 'moelora\[quantised\]'"):
        weight_options({"name": "llama-2-7b-nf4", "quantisation": "nf4"})


def test_a_file_may_say_the_dtype_of_the_weights(world):
    assert weight_options({"name": "any"}) == {}
    document = plan("decoder", [task_document("pick", "multiple_choice")])["model"]
    task = load_task(task_document("pick", "multiple_choice"), world / "data")
    for name, dtype in DTYPES.items():
        model = load_base_model({**document, "dtype": name}, [task], 0, world / "decoder").model
        assert {p.dtype for p in model.parameters()} == {dtype}
