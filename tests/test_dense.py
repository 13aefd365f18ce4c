"""The Python interface that the README of Dense MoE LoRA advertises, on a BERT of a few thousand weights."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from moelora.dense import DenseMoELoRA, evaluate_model, train_model
from moelora.errors import AdapterError, ConfigError, MoeloraError
from moelora.tuners import MixtureLinear

REPOSITORY = Path(__file__).parents[1]


def rows(world, task="mood", split="train"):
    path = world / "data" / "encoder" / task / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def config_dir(world, tmp_path_factory):
    """A configuration whose sst2 and mrpc are local folders of JSON lines with GLUE's columns."""
    root = tmp_path_factory.mktemp("configuration") / "workflow"
    shutil.copytree(REPOSITORY / "workflow" / "schemas", root / "schemas")
    shutil.copytree(REPOSITORY / "workflow" / "config", root / "config")
    for name, own in (("sst2", "mood"), ("mrpc", "odd")):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        path = root / "config" / "tasks" / f"{name}.yaml"
        document = yaml.safe_load(path.read_text())
        document["source"] = {"hub": str(folder), "config": None, "revision": None}
        path.write_text(yaml.safe_dump(document))
        for split, ours in (("train", "train"), ("validation", "test")):
            found = [
                dict(zip(document["fields"], (row["text"], "a cat ."), strict=False), label=row["label"])
                for row in rows(world, own, ours)
            ]
            (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n")
    return root / "config"


@pytest.fixture
def model(world):
    return DenseMoELoRA(str(world / "encoder"), num_experts=4, lora_rank=8)


def test_the_readme_end_to_end(world, config_dir, monkeypatch, tmp_path_factory):
    # on all linears: feed-forward adapters alone cannot teach an encoder that was never pretrained
    model = DenseMoELoRA(str(world / "encoder"), num_experts=4, lora_rank=8, settings={"modules": "all"})
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
    monkeypatch.setenv("MOELORA_CONFIG_DIR", str(config_dir))
    before = evaluate_model(model, dataset="sst2")
    result = train_model(model, dataset="sst2", epochs=20, batch_size=16, lr=2e-2)
    assert result.status == "finished" and result.steps == 20 * 4 and result.examples == 20 * 64
    assert result.loss_curve[-1][1] < result.loss_curve[0][1]
    learned = evaluate_model(model, dataset="sst2")
    assert learned["accuracy"] > max(0.9, before["accuracy"])
    transferred = evaluate_model(model, dataset="mrpc")
    assert set(transferred) == {"accuracy", "f1", "macro_f1"}
    # "odd" has the opposite answers to the same texts: what is learned on one is wrong on the other
    assert transferred["accuracy"] < 0.1 and transferred["f1"] < 0.1


def test_it_is_the_method_as_described(model):
    found = [module for module in model.modules() if isinstance(module, MixtureLinear)]
    assert len(found) == 2 * 2
    assert {(layer.experts["default"], layer.r["default"], layer.router["default"].name) for layer in found} == {
        (4, 8, "dense")
    }
    assert model.attached.parameters()["trainable"] == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_training_is_that_of_the_benchmark(world):
    """The same data, seed and settings as a plan give the same adapter, bit by bit."""
    from world import plan, task_document

    from moelora.seeds import derive_seed
    from moelora.tasks import load_task
    from moelora.training.attach import attach
    from moelora.training.device import make_accelerator
    from moelora.training.encode import encode
    from moelora.training.loop import train_loop
    from moelora.training.order import all_steps
    from moelora.training.run import balance_of
    from moelora.training.state import seed_everything

    mine = DenseMoELoRA(str(world / "encoder"))
    task = load_task(task_document("mood"), world / "data")
    result = train_model(mine, dataset=task, epochs=1, batch_size=8, lr=1e-2, max_length=32)
    document = plan("encoder", [task.document], "dense_moe_lora", learning_rate=1e-2, epochs=1, log_every_steps=10)
    theirs = attach(document, [task], world / "encoder", "cpu")
    head = dict(mine.attached.base.model.named_parameters())
    with (
        torch.no_grad()
    ):  # a head's first values depend on the task's name, which a model from Python does not know yet
        fresh = DenseMoELoRA(str(world / "encoder"))
        for name, parameter in theirs.base.model.named_parameters():
            if "classifier" in name:
                parameter.copy_(dict(fresh.attached.base.model.named_parameters())[name])
    steps = all_steps(encode(task, task.train, theirs.base.tokenizer, 32), 8, 0, epochs=1, max_steps=None, by_task=True)
    seed_everything(derive_seed("training", 0))
    expected = train_loop(
        theirs.model, steps, {task.name: task.kind}, document["training"], theirs.base.tokenizer.pad_token_id,
        make_accelerator(document), balance=balance_of(theirs.method),
    )  # fmt: skip
    assert result.loss_curve == expected.loss_curve
    for name, parameter in theirs.base.model.named_parameters():
        assert torch.equal(parameter, head[name]), name


def test_rows_and_splits(model, world):
    train, test = rows(world), rows(world, split="test")
    train_model(model, dataset=train, epochs=2, batch_size=16, lr=1e-2)
    found = evaluate_model(model, dataset=test)
    assert found == evaluate_model(model, dataset={"train": train, "validation": test})
    other = [{"words": row["text"], "class": row["label"]} for row in test]
    assert found == evaluate_model(model, dataset=other, fields=["words"], label="class")
    right = 0
    for row in test:  # one by one, without the scorer
        with torch.no_grad():
            logits = model(**model.tokenizer(row["text"], return_tensors="pt")).logits
        right += int(logits.argmax()) == row["label"]
    assert found["accuracy"] == right / len(test)


def test_datasets_of_the_hub_client(model, world):
    datasets = pytest.importorskip("datasets")
    test = datasets.Dataset.from_list(rows(world, split="test"))
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows(world)), "validation": test})
    train_model(model, dataset=splits, epochs=1, lr=1e-2)
    assert evaluate_model(model, dataset=splits) == evaluate_model(model, dataset=test)


def test_a_loaded_model_keeps_its_head(world):
    loaded = AutoModelForSequenceClassification.from_pretrained(world / "encoder")
    weight = loaded.classifier.weight.detach().clone()
    batch = {"input_ids": torch.tensor([[2, 7, 8, 3]])}
    expected = loaded.eval()(**batch).logits
    model = DenseMoELoRA(loaded, num_experts=2, lora_rank=2, tokenizer=AutoTokenizer.from_pretrained(world / "encoder"))
    assert torch.equal(model.model.base_model.model.classifier.original_module.weight, weight)
    assert torch.allclose(model.eval()(**batch).logits, expected, atol=1e-6)
    train_model(model, dataset=rows(world), epochs=1, lr=1e-2)


def test_saved_and_loaded(model, world, tmp_path):
    train_model(model, dataset=rows(world), epochs=2, lr=1e-2)
    model.save_pretrained(tmp_path / "saved")
    batch = {"input_ids": torch.tensor([[2, 7, 8, 3]])}
    expected = model.eval()(**batch).logits
    again = DenseMoELoRA.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(again(**batch).logits, expected)
    loaded = AutoModelForSequenceClassification.from_pretrained(world / "encoder")
    other = DenseMoELoRA.from_pretrained(tmp_path / "saved", base_model=loaded).eval()
    assert torch.equal(other(**batch).logits, expected)
    from peft import PeftModel

    base = AutoModelForSequenceClassification.from_pretrained(world / "encoder")
    assert torch.equal(PeftModel.from_pretrained(base, tmp_path / "saved").eval()(**batch).logits, expected)
    with pytest.raises(AdapterError, match=r"has no identity\.json of a DenseMoELoRA"):
        DenseMoELoRA.from_pretrained(tmp_path)


def test_as_coded(world, tmp_path):
    model = DenseMoELoRA(world / "encoder", 8, 4, method="dense_moe_lora_as_coded", settings={"layers": 1})
    assert train_model(model, dataset=rows(world), epochs=1, lr=1e-3).status == "finished"
    model.save_pretrained(tmp_path)
    assert evaluate_model(DenseMoELoRA.from_pretrained(tmp_path), rows(world)) == evaluate_model(model, rows(world))


def test_three_labels_and_grades(world):
    three = DenseMoELoRA(world / "encoder", num_labels=3)
    data = [{**row, "label": row["id"] % 3} for row in rows(world)]
    train_model(three, dataset=data, epochs=1, lr=1e-3)
    assert set(evaluate_model(three, dataset=data)) == {"accuracy", "macro_f1"}
    grades = DenseMoELoRA(world / "encoder", num_labels=1)
    train_model(grades, dataset=rows(world, "grade"), epochs=1, lr=1e-3)
    assert set(evaluate_model(grades, dataset=rows(world, "grade"))) == {"pearson", "spearman"}


def test_what_cannot_be_meant(model, world, tmp_path, monkeypatch, config_dir):
    monkeypatch.setenv("MOELORA_CONFIG_DIR", str(config_dir))
    with pytest.raises(ConfigError, match="task 'stsb' needs a head of 1, but the model's has 2 outputs"):
        evaluate_model(model, dataset="stsb")
    with pytest.raises(ConfigError, match="task 'piqa' is scored by log-likelihood"):
        evaluate_model(model, dataset="piqa")
    with pytest.raises(ConfigError, match="unknown task 'sst3'; did you mean 'sst2'"):
        train_model(model, dataset="sst3")
    with pytest.raises(ConfigError, match="head has 2 outputs, for labels 0 to 1"):
        train_model(model, dataset=[{"text": "the cat", "label": 2}])
    with pytest.raises(ConfigError, match="must be numbers"):
        train_model(model, dataset=[{"text": "the cat", "label": "good"}])
    with pytest.raises(ConfigError, match=r"no columns \['label'\]"):
        train_model(model, dataset=[{"text": "the cat"}])
    with pytest.raises(ConfigError, match="text columns cannot be told"):
        train_model(model, dataset=[{"words": "the cat", "label": 1}])
    with pytest.raises(ConfigError, match="splits"):
        train_model(model, dataset={"test": []})
    with pytest.raises(ConfigError, match="at least one row"):
        train_model(model, dataset=[])
    with pytest.raises(ConfigError, match="num_labels is 3, but the loaded model has a head of 2"):
        loaded = AutoModelForSequenceClassification.from_pretrained(world / "encoder")
        DenseMoELoRA(loaded, num_labels=3)
    with pytest.raises(ConfigError, match="is no BERT-like encoder"):
        decoder = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                               num_attention_heads=1, num_key_value_heads=1))  # fmt: skip
        DenseMoELoRA(decoder, tokenizer=object())
    with pytest.raises(MoeloraError, match="cannot be had"):
        DenseMoELoRA(str(tmp_path / "nowhere"))
    monkeypatch.setenv("MOELORA_CONFIG_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="the YAML files are not part of the installed package"):
        train_model(model, dataset="sst2")


def test_importing_the_package_stays_light():
    code = "import sys, moelora; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
