"""Dense MoE LoRA and its LoRA baseline as their notebooks have them: counts, first values, and what stays frozen."""

import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification
from world import model_document, plan, task_document

from moelora.errors import ConfigError
from moelora.methods import AttachContext, Linear, ModelShapes, get_method
from moelora.models import adaptable_linears, give_heads, hidden_head_linears, select_head
from moelora.tasks import Task, load_task
from moelora.training.attach import attach, load_adapter, save_adapter

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


def test_several_tasks_share_a_roberta():
    """Its head takes every token and has two linears; each task gets one of its own."""
    config = RobertaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=40)  # fmt: skip
    model = RobertaForSequenceClassification(config).eval()
    tasks = [
        Task(task_document("mood"), (), (), ""),
        Task(task_document("grade", "regression"), (), (), ""),
    ]
    give_heads(model, tasks, seed=0)
    for task, outputs in (("tiny-mood", 2), ("tiny-grade", 1)):
        with select_head(model, task):
            assert model(input_ids=torch.tensor([[0, 5, 6, 2]])).logits.shape == (1, outputs)
    assert hidden_head_linears(model, "classifier") == []


@pytest.mark.parametrize(
    ("method", "settings"), [("lora_as_coded", {}), ("dense_moe_lora_as_coded", {"layers": 1}), ("lora", {})]
)
def test_on_a_roberta(world, tmp_path, method, settings):
    """Counted, saved with what its head is, and loaded into a model with another head."""
    config = RobertaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=40, pad_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    AutoTokenizer.from_pretrained(world / "encoder").save_pretrained(tmp_path / "roberta")
    models = []
    for seed in (0, 1):  # the head's and the adapter's first values differ
        document = plan("encoder", [task_document("mood")], method, settings) | {"seed": seed}
        document["model"]["source"] = {"hub": str(tmp_path / "roberta")}
        models.append(attach(document, [load_task(task_document("mood"), world / "data")], None, "cpu"))
    one, other = models
    parts = one.parameters()["parts"]  # raises where formula and count differ
    assert parts["head"] == (0 if method == "lora_as_coded" else 16 * 16 + 16 + 16 * 2 + 2)
    move(one.model)
    save_adapter(one, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "head.safetensors").is_file() == (method == "lora_as_coded")
    batch = {"input_ids": torch.tensor([[2, 7, 8, 3]])}
    with torch.no_grad():
        expected = one.model.eval()(**batch).logits
        assert not torch.allclose(other.model.eval()(**batch).logits, expected, atol=1e-4)
        load_adapter(other, tmp_path / "adapter")
        assert torch.equal(other.model.eval()(**batch).logits, expected)


def move(model):
    """Give every trained tensor another value, so that no factor is zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
