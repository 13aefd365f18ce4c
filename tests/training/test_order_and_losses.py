import copy

import pytest
import torch
from accelerate import Accelerator
from world import TRAINING, plan, task_document

from moelora.tasks import Choice, load_task
from moelora.training.attach import attach
from moelora.training.encode import IGNORED, Encoded, collate, encode, encode_choice
from moelora.training.loop import make_optimizer, one_step
from moelora.training.losses import loss_items, summed_loss
from moelora.training.order import all_steps, epoch_batches


def examples(task, count):
    return [Encoded(task, index, tuple(range(1 + index * 7 % 13)), (), 0) for index in range(count)]


def test_every_example_appears_once_an_epoch():
    batches = epoch_batches(examples("a", 50) + examples("b", 23), 8, 0, 0, by_task=True)
    assert all(len({x.task for x in batch}) == 1 for batch in batches)
    assert sorted((x.task, x.item) for batch in batches for x in batch) == sorted(
        (x.task, x.item) for x in examples("a", 50) + examples("b", 23)
    )


def test_order_depends_on_seed_and_epoch_and_repeats():
    def order(seed, epoch):
        return [x.item for batch in epoch_batches(examples("a", 64), 8, seed, epoch, by_task=True) for x in batch]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0) and order(0, 0) != order(0, 1)


def test_steps_by_epochs_or_number():
    many = examples("a", 40)
    assert len(all_steps(many, 8, 0, epochs=3, max_steps=None, by_task=True)) == 15
    assert len(all_steps(many, 8, 0, epochs=None, max_steps=7, by_task=True)) == 7
    with pytest.raises(ValueError, match="either epochs or max_steps"):
        all_steps(many, 8, 0, epochs=3, max_steps=7, by_task=True)


def test_length_buckets_pad_less_than_chance():
    batches = epoch_batches(examples("a", 512), 8, 0, 0, by_task=True)
    padded = sum(max(len(x.ids) for x in batch) * len(batch) - sum(len(x.ids) for x in batch) for batch in batches)
    in_order = examples("a", 512)
    chance = [in_order[i : i + 8] for i in range(0, 512, 8)]
    assert padded < 0.2 * sum(max(len(x.ids) for x in b) * len(b) - sum(len(x.ids) for x in b) for b in chance)


def test_loss_counts_answer_tokens_only(world):
    document = plan("decoder", [task_document("pick", "multiple_choice")])
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "decoder", "cpu")
    encoded = encode(task, task.train[:6], attached.base.tokenizer, 32)
    tensors = collate(encoded, 0, task.kind)
    counted = (tensors["labels"] != IGNORED).sum().item()
    assert counted == loss_items(encoded, task.kind) == 6  # "yes" or "no": one token each
    logits = attached.model(input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]).logits
    by_hand = sum(
        -logits[row, len(example.ids) - 2].log_softmax(-1)[example.ids[-1]] for row, example in enumerate(encoded)
    )
    torch.testing.assert_close(summed_loss(attached.model, tensors, task.kind), by_hand)


def test_a_long_prompt_loses_its_left_side(world):
    document = plan("decoder", [task_document("pick", "multiple_choice")])
    task = load_task(document["tasks"][0], world / "data")
    tokenizer = attach(document, [task], world / "decoder", "cpu").base.tokenizer
    example = Choice(0, "the cat is good . question : good ? answer :", (" no", " yes"), 1)
    whole, cut = (encode_choice(task, example, tokenizer, length) for length in (32, 5))
    assert cut.ids == whole.ids[-5:] and cut.ids[cut.label :] == whole.ids[whole.label :]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_accumulation_changes_nothing(world, method):
    document = plan("encoder", [task_document("mood")], method)
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "encoder", "cpu")
    model = attached.model.double().eval()
    encoded = encode(task, task.train[:8], attached.base.tokenizer, 32)
    accelerator = Accelerator(cpu=True)
    gradients = {}
    for micro in (8, 2):
        twin = copy.deepcopy(model)
        one_step(twin, encoded, task.kind, micro, 0, accelerator, None)
        gradients[micro] = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[2], gradients[8], rtol=1e-10, atol=1e-12)


def test_a_balance_loss_linear_in_the_batch_accumulates_exactly(world):
    document = plan("encoder", [task_document("mood")], "full")
    task = load_task(document["tasks"][0], world / "data")
    attached = attach(document, [task], world / "encoder", "cpu")
    model = attached.model.double().eval()
    encoded = encode(task, task.train[:8], attached.base.tokenizer, 32)
    seen = []

    def watch(module, inputs, output):
        seen[:] = [output.square().mean()]  # a mean over examples: linear in the batch

    norms = {}
    for micro in (8, 2):
        twin = copy.deepcopy(model)
        twin.bert.pooler.register_forward_hook(watch)
        one_step(twin, encoded, task.kind, micro, 0, Accelerator(cpu=True), lambda _: seen[0])
        norms[micro] = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm().item()
    assert f"{norms[2] / norms[8]:.5f}" == "1.00000"


def test_data_and_head_do_not_depend_on_the_method(world):
    tasks = [task_document("mood")]
    heads, orders = [], []
    for method in ("lora", "dora", "full", "base"):
        document = plan("encoder", tasks, method)
        task = load_task(tasks[0], world / "data")
        attached = attach(document, [task], world / "encoder", "cpu")
        heads.append([p.detach().clone() for name, p in attached.model.named_parameters() if "classifier" in name][-2])
        encoded = encode(task, task.train, attached.base.tokenizer, 32)
        steps = all_steps(encoded, 8, 0, epochs=1, max_steps=None, by_task=True)
        orders.append([x.item for batch in steps for x in batch])
    assert all(torch.equal(head, heads[0]) for head in heads)
    assert all(order == orders[0] for order in orders)
    assert TRAINING["batch_size"] == 8


@pytest.mark.parametrize("method", ["dora", "mixdora"])
def test_weight_decay_leaves_magnitudes_alone_also_those_of_experts(world, method):
    document = plan("decoder", [task_document("pick", "multiple_choice")], method)
    task = load_task(document["tasks"][0], world / "data")
    model = attach(document, [task], world / "decoder", "cpu").model
    optimizer, _ = make_optimizer(model, {**TRAINING, "weight_decay": 0.1}, 20)
    decayed, spared = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    trained = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert spared == {own for name, own in trained.items() if "magnitude" in name} != set()
    assert decayed == set(trained.values()) - spared
    axes = {p.ndim for name, p in model.named_parameters() if "magnitude" in name}
    assert axes == {1 if method == "dora" else 2}, "a mixture keeps them as rows of one tensor"


def test_warmup_is_a_part_of_the_steps_or_a_number_of_them():
    model = torch.nn.Linear(2, 2)

    def rate(step, **training):
        optimizer, scheduler = make_optimizer(model, {**TRAINING, "learning_rate": 1.0, **training}, 20)
        for _ in range(step):
            optimizer.step()
            scheduler.step()
        return optimizer.param_groups[0]["lr"]

    assert rate(5, warmup_ratio=0.5) == 0.5
    assert rate(5, warmup_ratio=0.5, warmup_steps=8) == 5 / 8
    assert rate(0, warmup_ratio=0.5, warmup_steps=0) == 1.0
