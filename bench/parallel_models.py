"""Small models, batches and an accelerator of one process for `bench.parallel`."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from moelora.methods import AttachContext, get_method
from moelora.models import BaseModel, describe_model, give_heads
from moelora.training.attach import Attached, attach_method
from moelora.training.encode import Encoded
from moelora.training.state import trainable_tensors

VOCABULARY, PAD = 32, 0
SETTINGS = {"r": 4, "experts": 4, "num_experts": 4, "dropout": 0.0, "jitter_noise": 0.0}
MODULES = {
    "llama": {
        "attention": {kind: f"self_attn.{kind}_proj" for kind in ("q", "k", "v", "o")},
        "feed_forward": {kind: f"mlp.{kind}_proj" for kind in ("gate", "up", "down")},
    },
    "bert": {
        "attention": {
            **{kind: f"attention.self.{kind}" for kind in ("query", "key", "value")},
            "output": "attention.output.dense",
        },
        "feed_forward": {"intermediate": "intermediate.dense", "output": "output.dense"},
    },
}
TRAINING = {
    "learning_rate": 1e-2, "batch_size": 8, "micro_batch_size": 4, "scheduler": "linear", "warmup_ratio": 0.0,
    "weight_decay": 0.01, "max_grad_norm": 1.0, "precision": "fp32", "checkpoint_every_steps": None,
    "log_every_steps": 1,
}  # fmt: skip
# A step of 5 leaves a micro-batch of one example, in which one of two processes has nothing of its own to do.
ROWS = (8, 7, 8, 5, 8, 8)


class OneProcess:
    """Does for one of several processes what an accelerator does for a process alone."""

    num_processes, process_index, device = 1, 0, torch.device("cpu")

    def prepare(self, model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return both as they are."""
        return model, optimizer

    def unwrap_model(self, model: Any) -> Any:
        """Return the model as it is."""
        return model

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, norm: float) -> None:
        """Clip gradients."""
        torch.nn.utils.clip_grad_norm_(parameters, norm)


def make_base(kind: str, tasks: int = 1, dtype: torch.dtype = torch.float64, width: int = 16) -> BaseModel:
    """Return a two-layer model of a kind with weights large enough that attention is not flat."""
    torch.manual_seed(7)
    common = {
        "vocab_size": VOCABULARY, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD,
    }  # fmt: skip
    document = {
        "name": kind, "architecture": "encoder" if kind == "bert" else "decoder", "source": {"builtin": kind},
        "layers": 2, "block": "encoder.layer.{layer}" if kind == "bert" else "model.layers.{layer}",
        "modules": MODULES[kind], "feed_forward_layout": "two_matrix" if kind == "bert" else "gated",
    }  # fmt: skip
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2, bos_token_id=1, eos_token_id=2))
    else:
        model = BertForSequenceClassification(
            BertConfig(**common, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        )
        if tasks > 1:
            give_heads(model, [SimpleNamespace(name=name_of(place), outputs=2) for place in range(tasks)], 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return describe_model(model.to(dtype), None, document)


def name_of(place: int) -> str:
    """Return the name of a task."""
    return f"task-{place}"


def make_attached(
    kind: str, method: str, tasks: int = 1, dtype: torch.dtype = torch.float64, base: "BaseModel | None" = None,
    **settings: Any,
) -> Attached:  # fmt: skip
    """Return a method on a small model, its trained tensors moved from their first values."""
    page = get_method(method)
    base = make_base(kind, tasks, dtype) if base is None else base
    names = {field.name for field in dataclasses.fields(page.settings)}
    chosen = page.make_settings({key: value for key, value in {**SETTINGS, **settings}.items() if key in names})
    allocation = None
    if page.abilities.needs_allocation:
        allocation = {linear.name: 1 + place % 4 for place, linear in enumerate(base.shapes.linears)}
    context = AttachContext(base.shapes, base.head_modules, allocation, len(ROWS))
    attached = attach_method(base, page, chosen, context, 0, "cpu")
    if dtype == torch.float64:
        attached.model.double()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in trainable_tensors(attached.model).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return attached


def make_steps(kind: str, tasks: int = 1) -> list[list[Encoded]]:
    """Return batches of texts of several lengths, each of one task, and in a decoder's texts the second half asked."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for step, rows in enumerate(ROWS):
        batch = []
        for row in range(rows):
            length = int(torch.randint(6, 13, (), generator=generator))
            ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
            batch.append(
                Encoded(name_of(step % tasks), row, tuple(ids), (), row % 2 if kind == "bert" else length // 2)
            )
        steps.append(batch)
    return steps
