"""LoRA-SMoE's file of experts per module.

The fixture has the form and the totals of the published example, not its numbers.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from moelora.errors import AllocationError, RecordError
from moelora.interchange import read_expert_counts, write_expert_counts
from moelora.tuners import MixtureConfig, MixtureLinear

FIXTURE = Path(__file__).parent / "expert_counts.json"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Return a model with the 36 layers of the published example, very narrow."""
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=36, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def test_the_fixture_is_read(model):
    counts = read_expert_counts(FIXTURE, model)
    assert len(counts) == 113 and sum(counts.values()) == 688 == 8 * 86
    assert Counter(counts.values()) == {8: 51, 7: 17, 6: 10, 5: 6, 4: 7, 3: 7, 2: 7, 1: 8}
    attention = [name for name, _ in model.named_modules() if name.endswith(ATTENTION)]
    assert len(attention) == 144 and set(counts) < set(attention)


def test_it_is_what_our_mixture_takes(model):
    counts = read_expert_counts(FIXTURE, model)
    attached = get_peft_model(model, MixtureConfig(experts=counts, r=2))
    layers = {one.module_name: one.experts["default"] for one in attached.modules() if isinstance(one, MixtureLinear)}
    attached.unload()
    assert layers == counts


def test_round_trip(model, tmp_path):
    counts = read_expert_counts(FIXTURE, model)
    absent = next(name for name, _ in model.named_modules() if name.endswith(ATTENTION) and name not in counts)
    write_expert_counts(tmp_path / "counts.json", {**counts, absent: 0})
    assert read_expert_counts(tmp_path / "counts.json", model) == counts
    assert absent not in json.loads((tmp_path / "counts.json").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.3.self_attn.q_proj",
        "model.layers.3.self_attn.q_proj.weight",
        "layers.3.self_attn.q_proj.weight",
        "base_model.model.model.layers.3.self_attn.q_proj",
    ],
)
def test_names_with_and_without_suffix_and_leading_parts(model, tmp_path, name):
    file = tmp_path / "counts.json"
    file.write_text(json.dumps({name: 2, "model.layers.0.mlp.up_proj": 0}))
    assert read_expert_counts(file, model) == {"model.layers.3.self_attn.q_proj": 2}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model.layers.3.self_attn.q_prj": 2}, "did you mean 'model.layers.3.self_attn.q_proj'"),
        ({"model.layers.36.self_attn.q_proj": 2}, "is no linear module"),
        ({"model.layers.3.self_attn": 2}, "is no linear module"),
        ({"self_attn.q_proj": 2}, "could mean any of"),
        ({"model.layers.3.self_attn.q_proj": 2.0}, "is 2.0; expected a whole number"),
        ({"model.layers.3.self_attn.q_proj": True}, "is True"),
        ({"model.layers.3.self_attn.q_proj": -1}, "is -1"),
        ({"model.layers.3.self_attn.q_proj": 1, "model.layers.3.self_attn.q_proj.weight": 1}, "twice"),
        ({"model.layers.3.self_attn.q_proj": 0}, "gives no module an expert"),
        ({}, "gives no module an expert"),
        ([1], "holds a list"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(model, tmp_path, document, message):
    file = tmp_path / "counts.json"
    file.write_text(json.dumps(document))
    with pytest.raises(AllocationError, match=message):
        read_expert_counts(file, model)


def test_missing_and_broken_files(model, tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        read_expert_counts(tmp_path / "none.json", model)
    (tmp_path / "half.json").write_text('{"a": 1')
    with pytest.raises(RecordError, match="not JSON"):
        read_expert_counts(tmp_path / "half.json", model)


@pytest.mark.parametrize("counts", [{"a": -1}, {"a": 1.5}, {"a": 0}, {}])
def test_counts_that_cannot_be_meant_are_not_written(tmp_path, counts):
    with pytest.raises(AllocationError):
        write_expert_counts(tmp_path / "counts.json", counts)
    assert not (tmp_path / "counts.json").exists()
