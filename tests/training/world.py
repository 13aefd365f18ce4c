"""A throw-away world for training tests: two models of a few thousand weights, two labelled tasks and a choice task."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = "the a cat dog bird fish sees likes not very good bad red blue is yes no question answer : . ?".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]

LAYERS = 2
MODULES = {
    "encoder": {
        "attention": {
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "output": "attention.output.dense",
        },
        "feed_forward": {"intermediate": "intermediate.dense", "output": "output.dense"},
    },
    "decoder": {
        "attention": {k: f"self_attn.{k}_proj" for k in ("q", "k", "v", "o")},
        "feed_forward": {k: f"mlp.{k}_proj" for k in ("gate", "up", "down")},
    },
}


def model_document(architecture: str) -> dict:
    return {
        "name": f"test-{architecture}",
        "title": f"test {architecture}",
        "architecture": architecture,
        "source": {"builtin": f"test-{architecture}", "seed": 0},
        "layers": LAYERS,
        "block": "encoder.layer.{layer}" if architecture == "encoder" else "model.layers.{layer}",
        "modules": MODULES[architecture],
        "feed_forward_layout": "two_matrix" if architecture == "encoder" else "gated",
        "max_length": 32,
    }


def task_document(name: str, kind: str = "classification") -> dict:
    document = {
        "name": f"tiny-{name}",
        "title": name,
        "version": 1,
        "kind": kind,
        "source": {"builtin": "tiny"},
        "splits": {"train": "train", "evaluation": "test"},
        "metrics": {
            "classification": ["accuracy", "f1"],
            "regression": ["pearson"],
            "multiple_choice": ["acc", "acc_norm"],
        }[kind],
        "main_metric": {"classification": "accuracy", "regression": "pearson", "multiple_choice": "acc"}[kind],
        "protocol": "lm-eval" if kind == "multiple_choice" else "glue",
        "synthetic": True,
    }
    if kind == "classification":
        document["labels"] = ["negative", "positive"]
    return document


TRAINING = {
    "learning_rate": 1e-2, "epochs": None, "max_steps": 12, "batch_size": 8, "micro_batch_size": 8,
    "scheduler": "linear", "warmup_ratio": 0.0, "weight_decay": 0.01, "max_grad_norm": 1.0, "precision": "fp32",
    "optimizer": "adamw", "max_length": 32, "checkpoint_every_steps": None, "max_examples": None, "log_every_steps": 4,
}  # fmt: skip


def plan(
    architecture: str, tasks: list[dict], method: str = "lora", settings: "dict | None" = None, **training
) -> dict:
    from moelora.methods import get_method

    return {
        "schema": 1, "suite": "test", "model": model_document(architecture),
        "task": tasks[0]["name"] if len(tasks) == 1 else "mixture", "tasks": tasks, "variant": method, "method": method,
        "method_version": 1, "settings": get_method(method).all_settings(settings or {}),
        "regime": "published", "seed": 0,
        "training": {**TRAINING, **training}, "evaluation": {"batch_size": 16, "limit": None}, "pending": {},
    }  # fmt: skip


def write_world(root: Path) -> Path:
    """Write data and both base models below ``root`` and return it."""
    data = root / "data"
    generator = torch.Generator().manual_seed(0)

    def pick(count: int, upper: int) -> list[int]:
        return torch.randint(0, upper, (count,), generator=generator).tolist()

    for name, kind in (("mood", "label"), ("odd", "label"), ("grade", "grade")):
        for split, count in (("train", 64), ("test", 24)):
            path = data / "encoder" / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = []
            for index, (subject, good, extra) in enumerate(
                zip(pick(count, 4), pick(count, 2), pick(count, 4), strict=True)
            ):
                noun = WORDS[2 + subject]
                text = f"the {noun} is {'very ' * extra}{'good' if good else 'bad'} ."
                label = good if name == "mood" else 1 - good
                row = {"id": index, "text": text, "text_pair": None, "label": label}
                if kind == "grade":
                    row |= {"text_pair": f"a {noun} .", "label": float(extra)}
                rows.append(json.dumps(row))
            path.write_text("\n".join(rows) + "\n")
    for split, count in (("train", 64), ("test", 24)):
        path = data / "decoder" / "pick" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for index, (subject, answer) in enumerate(zip(pick(count, 4), pick(count, 2), strict=True)):
            question = f"the {WORDS[2 + subject]} is {'good' if answer else 'bad'} . question : good ? answer :"
            rows.append(json.dumps({"id": index, "question": question, "choices": ["no", "yes"], "answer": answer}))
        path.write_text("\n".join(rows) + "\n")
    (data / "lm_eval").mkdir()
    files = {split: str(data / "decoder" / "pick" / f"{split}.jsonl") for split in ("train", "test")}
    (data / "lm_eval" / "moelora_pick.yaml").write_text(
        "task: moelora_pick\ndataset_path: json\n"
        f"dataset_kwargs: {json.dumps({'data_files': files})}\n"
        "training_split: train\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list:\n  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\nmetadata: {version: 1.0}\n"
    )
    vocabulary = {word: index for index, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="</s>", model_max_length=32,
    )  # fmt: skip
    torch.manual_seed(0)
    common = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
              "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
    BertForSequenceClassification(BertConfig(**common)).save_pretrained(root / "encoder")
    LlamaForCausalLM(LlamaConfig(**common, num_key_value_heads=2, eos_token_id=4, bos_token_id=2)).save_pretrained(
        root / "decoder"
    )
    for half in ("encoder", "decoder"):
        fast.save_pretrained(root / half)
    return root


def write_plan(root: Path, document: dict, seed: int = 0) -> Path:
    """Write a plan where the layout puts it and return its path."""
    document = {**document, "seed": seed}
    folder = (
        root / "results" / "test" / document["model"]["name"] / document["task"] / document["variant"] / f"seed{seed}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "plan.json"
    path.write_text(json.dumps(document))
    return path
