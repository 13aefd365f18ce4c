"""Dense MoE LoRA from Python, with the interface that its README advertises.

For example::

    from moelora.dense import DenseMoELoRA, train_model, evaluate_model

    model = DenseMoELoRA("bert-base-uncased", num_experts=4, lora_rank=8)
    train_model(model, dataset="sst2", epochs=3, batch_size=16, lr=2e-5)
    print(evaluate_model(model, dataset="mrpc"))

Training and scoring are those of the benchmark: the same loop, order of the data and metrics.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from moelora.errors import AdapterError, ConfigError, ModelUnavailableError
from moelora.evaluation.labelled import predict
from moelora.evaluation.metrics import score
from moelora.methods import AttachContext, get_method
from moelora.models import describe_model, fetch_model, give_heads
from moelora.seeds import derive_seed
from moelora.strangers import inspect
from moelora.tasks.rows import as_task, rows_task, usual_metrics
from moelora.training.attach import attach_method, load_adapter, save_adapter
from moelora.training.device import choose_device, make_accelerator
from moelora.training.encode import encode
from moelora.training.loop import LoopResult, train_loop
from moelora.training.order import all_steps
from moelora.training.parent import IDENTITY_FILE, read_identity, write_identity
from moelora.training.run import balance_of
from moelora.training.state import seed_everything

BERT_LIKE = {
    "architecture": "encoder",
    "block": "encoder.layer.{layer}",
    "modules": {
        "attention": {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "output": "attention.output.dense",
        },
        "feed_forward": {"intermediate": "intermediate.dense", "output": "output.dense"},
    },
    "feed_forward_layout": "two_matrix",
}


class DenseMoELoRA(nn.Module):
    """A BERT-like encoder with a classification head and Dense MoE LoRA on its feed-forward linears.

    Args:
        base_model: id on the hub, a local folder, or a loaded sequence-classification model (whose head is kept).
        num_experts: experts of every adapted linear, all of them used for every token.
        lora_rank: rank of every expert.
        num_labels: outputs of a new head, 1 for grades; 2 by default, or what a loaded model has.
        method: ``dense_moe_lora`` (as described) or ``dense_moe_lora_as_coded`` (as its notebooks have it).
        settings: further settings of the method's page, such as ``{"balance_coefficient": 0.0}``.
        tokenizer: of a loaded model; by default it is fetched from where the model came from.
        seed: of the adapter's and a new head's first values.

    Attributes:
        model: the PEFT model.
        tokenizer: the tokenizer.

    Raises:
        ModelUnavailableError: the model or its tokenizer cannot be had.
        ConfigError: it is no BERT-like encoder with a head, or a setting cannot be meant.
    """

    def __init__(
        self,
        base_model: "str | Path | nn.Module",
        num_experts: int = 4,
        lora_rank: int = 8,
        *,
        num_labels: "int | None" = None,
        method: str = "dense_moe_lora",
        settings: "Mapping[str, Any] | None" = None,
        tokenizer: Any = None,
        seed: int = 0,
    ):
        super().__init__()
        page = get_method(method)
        chosen = page.make_settings({"experts": num_experts, "r": lora_rank, **(settings or {})})
        loaded = isinstance(base_model, nn.Module)
        where = getattr(base_model.config, "name_or_path", "") if loaded else str(base_model)
        self.document = {**BERT_LIKE, "name": where or type(base_model).__name__, "source": {"hub": where}}
        if loaded:
            if num_labels not in (None, base_model.config.num_labels):
                raise ConfigError(
                    f"num_labels is {num_labels}, but the loaded model has a head of {base_model.config.num_labels}; "
                    "leave num_labels out, or load the model with another head"
                )
            model, tokenizer = base_model, tokenizer or _fetch_tokenizer(where)
        else:
            model, fetched = fetch_model(self.document, num_labels or 2, None)
            tokenizer = tokenizer or fetched
        self.document["layers"] = _count_layers(model)
        if not loaded:
            give_heads(model, [rows_task((), model.config.num_labels)], seed)
        base = describe_model(model, tokenizer, self.document)
        context = AttachContext(base.shapes, base.head_modules)
        self.attached = attach_method(base, page, chosen, context, seed, choose_device())
        self.model, self.tokenizer = self.attached.model, tokenizer

    @property
    def num_labels(self) -> int:
        """Return the outputs of the head."""
        return self.attached.base.model.config.num_labels

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the PEFT model: token ids and masks (B, T) to logits (B, labels)."""
        return self.model(*args, **kwargs)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters are trained."""
        self.model.print_trainable_parameters()

    def save_pretrained(self, folder: "Path | str") -> None:
        """Write the adapter and the head in PEFT's format, and what they belong to."""
        folder = Path(folder)
        save_adapter(self.attached, folder)
        labels = {"suite": None, "task": None, "variant": None, "seed": None, "num_labels": self.num_labels}
        write_identity(folder, self.attached, self.document, self.attached.base.identity, labels)

    @classmethod
    def from_pretrained(
        cls, folder: "Path | str", base_model: "str | Path | nn.Module | None" = None, *, tokenizer: Any = None
    ) -> "DenseMoELoRA":
        """Return the model that `save_pretrained` wrote.

        Args:
            folder: where it was written.
            base_model: the base model, where it is not to be had from where it came from.
            tokenizer: as for the constructor.

        Raises:
            AdapterError: the folder holds no such model, or one of another base model.
        """
        folder = Path(folder)
        inspect(folder)
        identity = read_identity(folder)
        if "num_labels" not in identity:
            raise AdapterError(
                f"{folder} has no {IDENTITY_FILE} of a DenseMoELoRA; name a folder that save_pretrained() wrote, or "
                "load another adapter with PeftModel.from_pretrained"
            )
        if base_model is None and not identity["source"].get("hub"):
            raise AdapterError(f"{folder} does not say where its base model came from; pass base_model=…")
        model = cls(
            identity["source"]["hub"] if base_model is None else base_model,
            num_labels=identity["num_labels"],
            method=identity["method"],
            settings=identity["settings"],
            tokenizer=tokenizer,
        )
        load_adapter(model.attached, folder)
        return model


def train_model(
    model: DenseMoELoRA,
    dataset: Any = "sst2",
    epochs: float = 3,
    batch_size: int = 16,
    lr: float = 2e-5,
    *,
    seed: int = 0,
    max_length: int = 128,
    micro_batch_size: "int | None" = None,
    scheduler: str = "linear",
    warmup_ratio: float = 0.0,
    weight_decay: float = 0.01,
    max_grad_norm: "float | None" = 1.0,
    precision: str = "fp32",
    max_examples: "int | None" = None,
    fields: "list[str] | None" = None,
    label: str = "label",
    config_dir: "Path | str | None" = None,
) -> LoopResult:
    """Train a model in place with the benchmark's loop; return steps, losses and how it ended.

    Args:
        model: what to train.
        dataset: a task's name (``sst2``, ``mrpc``, …), splits of `datasets`, or rows (dicts with texts and a label).
        epochs: passes over the data.
        batch_size: examples per optimiser step.
        lr: learning rate of AdamW.
        seed: of the order of the data and of dropout.
        max_length: tokens; longer inputs are cut.
        micro_batch_size: examples per forward pass where a batch does not fit.
        scheduler: ``linear``, ``cosine``, ``constant`` or ``constant_with_warmup``.
        warmup_ratio: part of the steps in which the rate rises.
        weight_decay: on matrices.
        max_grad_norm: None does not clip.
        precision: ``fp32`` or ``bf16``.
        max_examples: the first so many of the training split.
        fields: text columns of rows, one or two, where their names do not say it.
        label: column of the label of rows.
        config_dir: where task files lie, for a package without its checkout.

    Raises:
        ConfigError: the data do not fit the model's head.
        DataUnavailableError: the data cannot be had.
    """
    task = as_task(dataset, "train", model.num_labels, fields, label, config_dir)
    training = {
        "learning_rate": lr,
        "batch_size": batch_size,
        "micro_batch_size": micro_batch_size,
        "scheduler": scheduler,
        "warmup_ratio": warmup_ratio,
        "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm,
        "precision": precision,
        "log_every_steps": 10,
        "checkpoint_every_steps": None,
    }
    attached = model.attached
    examples = encode(task, task.train[:max_examples], model.tokenizer, max_length)
    steps = all_steps(examples, batch_size, seed, epochs=epochs, max_steps=None, by_task=True)
    seed_everything(derive_seed("training", seed))
    return train_loop(
        attached.model,
        steps,
        {task.name: task.kind},
        training,
        model.tokenizer.pad_token_id,
        make_accelerator({"training": training}),
        balance=balance_of(attached.method),
        hooks=attached.method.make_hooks(attached.settings),
        label=f"{attached.method.title} on {task.name}",
    )


def evaluate_model(
    model: DenseMoELoRA,
    dataset: Any = "mrpc",
    *,
    batch_size: int = 64,
    max_length: int = 128,
    limit: "int | None" = None,
    precision: str = "fp32",
    fields: "list[str] | None" = None,
    label: str = "label",
    config_dir: "Path | str | None" = None,
) -> dict[str, float]:
    """Score a model on a task it may not have been trained on; return metrics as fractions.

    The head goes with the model, so the task must have as many labels as the head has outputs, and its scores mean
    something only where the labels do: SST-2's (negative, positive) and MRPC's (not equivalent, equivalent) share no
    more than their number.

    Returns:
        The task's own metrics and always ``accuracy`` and ``macro_f1``, and ``f1`` (of label 1) where there are two
        labels; for grades ``pearson`` and ``spearman``.

    Raises:
        ConfigError: the data do not fit the model's head.
        DataUnavailableError: the data cannot be had.
    """
    task = as_task(dataset, "evaluation", model.num_labels, fields, label, config_dir)
    examples = task.evaluation[:limit]
    predictions = predict(
        model.attached.model,
        encode(task, examples, model.tokenizer, max_length),
        task.kind,
        model.tokenizer.pad_token_id,
        batch_size,
        next(model.parameters()).device,
        precision=precision,
    )
    names = dict.fromkeys([*usual_metrics(task.kind, task.outputs), *task.document["metrics"]])
    return {name: score(name, [example.label for example in examples], predictions) for name in names}


def _fetch_tokenizer(where: str) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # the clients raise many unrelated types; all mean that there is no tokenizer
        raise ModelUnavailableError(
            f"the tokenizer of the loaded model ({where or 'of unknown origin'}) cannot be had: "
            f"{type(error).__name__}; pass tokenizer=…"
        ) from error


def _count_layers(model: nn.Module) -> int:
    """Return the layers of a BERT-like encoder with a head.

    Raises:
        ConfigError: the model is laid out otherwise.
    """
    names = {name for name, _ in model.named_modules()}
    if not any(name.endswith("encoder.layer.0.attention.self.query") for name in names) or "classifier" not in names:
        raise ConfigError(
            f"{type(model).__name__} is no BERT-like encoder (BERT, RoBERTa, MiniLM, …) with a classification head; "
            "load one with AutoModelForSequenceClassification. For other models use moelora.tuners with "
            "get_peft_model, or write a model file and run a suite"
        )
    return model.config.num_hidden_layers
