"""Dense MoE LoRA and its LoRA baseline as their notebooks have them: counts, first values, and what stays frozen."""

import pytest
import torch
from transformers import RobertaConfig, RobertaForSequenceClassification
from world import model_document, plan, task_document

from moelora.errors import ConfigError
from moelora.methods import AttachContext, Linear, ModelShapes, get_method
from moelora.models import adaptable_linears, hidden_head_linears
from moelora.tasks import load_task
from moelora.training.attach import attach

HEAD = 768 * 768 + 768 + 768 * 2 + 2


def roberta_shapes() -> ModelShapes:
    """RoBERTa-base with a two-label head, from the shapes alone."""
    with torch.device("meta"):
        model = RobertaForSequenceClassification(RobertaConfig(vocab_size=50265, type_vocab_size=1))
    document = model_document("encoder") | {"layers": 12}
    head = sum(p.numel() for p in model.classifier.parameters())
    return ModelShapes(
        adaptable_linears(model, document), "two_matrix", 768, head,
        head_linears=tuple(hidden_head_linears(model, "classifier")),
    )  # fmt: skip


def counts(name, shapes, **settings):
    page = get_method(name)
    return page.parameters(shapes, page.make_settings(settings), AttachContext(shapes))


def test_counts_at_roberta_base():
    """The notebook prints 813,314; the LoRA notebook's count is derived."""
    shapes = roberta_shapes()
    assert shapes.head_parameters == HEAD == 592_130
    mixture = counts("dense_moe_lora_as_coded", shapes)
    assert mixture.experts + mixture.router == 221_184
    assert mixture.trainable == mixture.active == 813_314
    assert counts("dense_moe_lora_as_coded", shapes, sorted_weights=False) == mixture
    lora = counts("lora_as_coded", shapes)
    assert lora.trainable == 669_696 and lora.head == 0
    assert [linear.name for linear in shapes.head_linears] == ["classifier.dense"]


def attached(world, method, **settings):
    task = load_task(task_document("mood"), world / "data")
    return attach(plan("encoder", [task.document], method, settings), [task], world / "encoder", "cpu")


def test_the_mixture_sits_behind_the_last_blocks(world):
    found = attached(world, "dense_moe_lora_as_coded", layers=1)
    assert found.layers() == [{"type": "BottleneckAttention", "count": 1, "dtype": "float32"}]
    config = found.model.peft_config["default"]
    assert config.target_modules == ["bert.encoder.layer.1.attention"]
    assert (config.r, config.num_experts, config.sorted_weights) == (4, 8, True)


def test_more_layers_than_there_are(world):
    with pytest.raises(ConfigError, match="'layers' is 4, but the model has 2"):
        attached(world, "dense_moe_lora_as_coded")


def test_a_decoder_is_refused_with_the_reason():
    linears = tuple(Linear(f"layers.0.{kind}", kind, part, 0, 8, 8) for kind, part in (("q", "attention"),))
    with pytest.raises(ConfigError, match="residual stream bypasses the attention block"):
        counts("dense_moe_lora_as_coded", ModelShapes(linears, "gated", 8))


def test_the_baseline_leaves_the_head_at_its_first_values(world):
    found = attached(world, "lora_as_coded")
    trained = {name for name, p in found.model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert found.parameters()["parts"]["head"] == 0
    # BERT's head is one linear, so there is nothing in it to adapt
    assert found.base.shapes.head_linears == () and found.layers() == [
        {"type": "Linear", "count": 12, "dtype": "float32"}
    ]


def test_settings_that_cannot_be_meant():
    with pytest.raises(ConfigError, match="layers must be at least 1, found 0"):
        get_method("dense_moe_lora_as_coded").make_settings({"layers": 0})
    with pytest.raises(ConfigError, match="r must be at least 1, found 0"):
        get_method("lora_as_coded").make_settings({"r": 0})
