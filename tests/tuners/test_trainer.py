"""BalanceTrainer: accumulation changes no update whose losses are linear in the batch."""

import pytest
import torch
from datasets import Dataset
from tiny_tuners import make_batch, make_model
from transformers import TrainingArguments

from moelora.tuners import BalanceTrainer, balance_loss

LINEAR = {"balance_loss": "z_loss", "balance_coefficient": 0.5}


def train(kind: str, folder, micro_batch: int, steps: int, *, settings=LINEAR, **arguments) -> dict:
    """Train one step on eight examples with plain SGD and return by how much each tensor moved."""
    model = make_model(kind, "mixture", moved=True, router="dense", **settings)
    batch = make_batch(kind, rows=8)
    before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
    trainer = BalanceTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=folder, per_device_train_batch_size=micro_batch, gradient_accumulation_steps=steps,
            max_steps=1, learning_rate=1.0, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
            use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, **arguments,
        ),
        train_dataset=Dataset.from_dict({name: value.tolist() for name, value in batch.items()}),
    )  # fmt: skip
    trainer.train()
    after = dict(trainer.model.named_parameters())
    return {name: after[name].detach() - one for name, one in before.items()}


def length(update: dict) -> float:
    return torch.cat([one.flatten() for one in update.values()]).double().norm().item()


@pytest.mark.parametrize("settings", [LINEAR, {}], ids=["with balance loss", "without"])
def test_accumulation_gives_the_same_update(kind, tmp_path, settings):
    whole = train(kind, tmp_path, 8, 1, settings=settings)
    split = train(kind, tmp_path, 2, 4, settings=settings)
    assert length(split) / length(whole) == pytest.approx(1, abs=1e-5)
    for name, one in whole.items():
        assert torch.allclose(one, split[name], atol=1e-5), name


def test_the_balance_loss_takes_part(kind, tmp_path):
    with_loss = train(kind, tmp_path, 8, 1)
    without = train(kind, tmp_path, 8, 1, settings={})
    changed = {name for name in with_loss if not torch.allclose(with_loss[name], without[name], atol=1e-6)}
    assert any("moelora_router" in name for name in changed)


def test_one_large_batch_gets_exactly_loss_plus_balance(kind, tmp_path):
    model = make_model(kind, "mixture", moved=True, router="dense", **LINEAR)
    (model(**make_batch(kind, rows=8)).loss + balance_loss(model)).backward()
    expected = {name: -one.grad for name, one in model.named_parameters() if one.grad is not None}
    update = train(kind, tmp_path, 2, 4)
    for name, one in expected.items():
        assert torch.allclose(one, update[name], atol=1e-5), name


def test_evaluation_loss_is_the_task_loss(kind, tmp_path):
    model = make_model(kind, "mixture", moved=True, **LINEAR)
    batch = make_batch(kind, rows=4)
    data = Dataset.from_dict({name: value.tolist() for name, value in batch.items()})
    trainer = BalanceTrainer(
        model=model,
        args=TrainingArguments(
            output_dir=tmp_path,
            per_device_eval_batch_size=4,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        eval_dataset=data,
    )
    model.eval()
    with torch.no_grad():
        expected = model(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.last_balance_loss is None


def test_gradient_checkpointing_through_the_trainer(kind, tmp_path):
    plain = train(kind, tmp_path, 2, 4)
    checkpointed = train(
        kind, tmp_path, 2, 4,
        activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": False},
    )  # fmt: skip
    for name, one in plain.items():
        assert torch.allclose(one, checkpointed[name], atol=1e-6), name
