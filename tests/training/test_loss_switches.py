"""What the loss of a decoder counts, the end of a text, recomputed activations, and a DoRA whose magnitudes stay."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from world import plan, task_document

from moelora.tasks import load_task
from moelora.training.attach import attach, recompute_activations
from moelora.training.declarations import source_declarations
from moelora.training.device import make_accelerator
from moelora.training.encode import IGNORED, Encoded, collate, encode_training, end_text
from moelora.training.loop import one_step, train_loop
from moelora.training.losses import loss_items, summed_loss
from moelora.training.order import all_steps

KIND = "multiple_choice"
BATCH = [
    Encoded("pick", 0, (5, 6, 7, 8), (), 3),
    Encoded("pick", 1, (5, 9), (), 1),
    Encoded("pick", 2, (5, 6, 9), (), 1),
]
LABELS = {
    "answers": [[8], [9], [6, 9]],
    "all_tokens": [[6, 7, 8], [9], [6, 9]],
    "all_tokens_and_padding": [[6, 7, 8], [9, 0, 0], [6, 9, 0]],
}


@pytest.mark.parametrize("loss_on", LABELS)
def test_labels_and_what_they_are_divided_by(loss_on):
    labels = collate(BATCH, 0, KIND, loss_on=loss_on)["labels"][:, 1:]  # the first token has nothing before it
    assert [row[row != IGNORED].tolist() for row in labels] == LABELS[loss_on]
    assert loss_items(BATCH, KIND, loss_on) == sum(map(len, LABELS[loss_on]))


def test_padding_and_all_is_the_mean_that_transformers_takes(world):
    """MoE-PEFT hands the padded ids as labels, so transformers' own loss is its loss."""
    model = AutoModelForCausalLM.from_pretrained(world / "decoder").eval()
    tensors = collate(BATCH, 0, KIND, loss_on="all_tokens_and_padding")
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    expected = model(input_ids=ids, attention_mask=mask, labels=ids).loss
    found = summed_loss(model, tensors, KIND) / loss_items(BATCH, KIND, "all_tokens_and_padding")
    torch.testing.assert_close(found, expected)


def gradients(world, loss_on: str, micro_batch_size: int) -> torch.Tensor:
    document = plan("decoder", [task_document("pick", KIND)])
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "decoder", "cpu")
    batch = encode_training(task, 8, attached.base.tokenizer, document["training"])
    one_step(
        attached.model.train(), batch, KIND, micro_batch_size, 0, make_accelerator(document), None, loss_on=loss_on
    )
    return torch.cat([p.grad.flatten() for p in attached.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("loss_on", ["answers", "all_tokens"])
def test_the_cut_into_micro_batches_changes_nothing(world, loss_on):
    torch.testing.assert_close(gradients(world, loss_on, 3), gradients(world, loss_on, 8))


def test_prompts_that_count_change_the_update(world):
    assert not torch.allclose(gradients(world, "answers", 8), gradients(world, "all_tokens", 8))


def test_an_end_of_text_belongs_to_the_answer_where_it_fits(world):
    tokenizer = AutoTokenizer.from_pretrained(world / "decoder")
    task = load_task(task_document("pick", KIND), world / "data")
    plain, ended = (
        encode_training(task, 4, tokenizer, {"max_length": 32, "end_of_text": asked}) for asked in (False, True)
    )
    assert [x.ids for x in ended] == [(*x.ids, tokenizer.eos_token_id) for x in plain]
    assert [x.label for x in ended] == [x.label for x in plain]
    full = plain[0]
    assert end_text(full, 4, len(full.ids)) is full
    assert end_text(ended[0], tokenizer.eos_token_id, 32) is ended[0]  # some protocols end their texts themselves


def trained(world, method: str, **training) -> list[torch.Tensor]:
    document = plan("decoder", [task_document("pick", KIND)], method, max_steps=3, **training)
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "decoder", "cpu")
    recompute_activations(attached.model, document["training"])
    examples = encode_training(task, None, attached.base.tokenizer, document["training"])
    steps = all_steps(examples, 8, 0, epochs=None, max_steps=3, by_task=False)
    train_loop(attached.model, steps, {task.name: KIND}, document["training"], 0, make_accelerator(document))
    inner = attached.model.get_base_model()
    asked = any(getattr(module, "gradient_checkpointing", False) for module in inner.modules())
    assert asked == training.get("checkpointing", False)
    return [p.detach() for p in attached.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("method", ["lora", "mixlora"])
def test_recomputed_activations_give_the_same_update(world, method):
    for one, other in zip(trained(world, method), trained(world, method, checkpointing=True), strict=True):
        torch.testing.assert_close(one, other)


def test_magnitudes_as_coded_are_those_of_the_first_step(world):
    document = plan("decoder", [task_document("pick", KIND)], "dora_as_coded")
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "decoder", "cpu")
    attached.parameters()  # raises where the closed formula and the count differ
    magnitudes = {n: p for n, p in attached.model.named_parameters() if "magnitude" in n}
    before = {name: p.detach().clone() for name, p in magnitudes.items()}
    examples = encode_training(task, None, attached.base.tokenizer, document["training"])
    steps = all_steps(examples, 8, 0, epochs=None, max_steps=2, by_task=False)
    result = train_loop(attached.model, steps, {task.name: KIND}, document["training"], 0, make_accelerator(document))
    assert result.status == "finished" and len(magnitudes) == 14
    assert all(torch.equal(before[name], p) and not p.requires_grad for name, p in magnitudes.items())
    assert any(p.abs().max() > 0 for n, p in attached.model.named_parameters() if "lora_B" in n)


def test_a_record_says_what_its_loss_counts():
    document = plan("decoder", [task_document("pick", KIND)])
    assert source_declarations(document) == []
    document["training"] |= {"loss_on": "all_tokens_and_padding", "end_of_text": True}
    document["model"]["quantisation"] = "nf4"
    assert source_declarations(document) == [
        "the loss counts prompt, answer and padding",
        "an end-of-text token is trained after each answer",
        "the base model's linears are quantised (nf4, bitsandbytes), in training and in scoring",
    ]
