"""Scores of modules from per-example gradients, against autograd; padding, checkpointing, 4-bit weights."""

import copy

import pytest
import torch
from torch import nn
from world import plan, task_document

from moelora.allocation.gradients import ExampleScores, frozen, plain_weight
from moelora.allocation.labels import sampled_labels
from moelora.allocation.sensitivity import example_mean_losses, measure, measure_examples
from moelora.errors import AllocationError
from moelora.models import load_base_model
from moelora.tasks import load_task
from moelora.training.encode import IGNORED, Encoded, collate, encode

CASES = [
    ("encoder", "mood", "classification"),
    ("encoder", "grade", "regression"),
    ("decoder", "pick", "multiple_choice"),
]
SCORES = ["sum", "mean", "taylor", "fisher"]


@pytest.fixture(params=CASES, ids=[case[2] for case in CASES])
def prepared(world, request):
    """Return model in float64, its linears, 12 examples of unequal length, and the task's kind."""
    architecture, name, kind = request.param
    document = plan(architecture, [task_document(name, kind)])
    task = load_task(document["tasks"][0], world / "data")
    base = load_base_model(document["model"], [task], 0, world / architecture)
    examples = encode(task, task.train[:12], base.tokenizer, 32)
    assert kind == "multiple_choice" or len({len(example.ids) for example in examples}) > 1
    return base.model.double(), [linear.name for linear in base.shapes.linears], examples, kind


def by_autograd(model, names, example, kind, score, seed=0) -> list[float]:
    """Return the scores of one example from weight gradients that autograd keeps."""
    model.eval().requires_grad_(False)
    weights = [model.get_submodule(name).weight.requires_grad_(True) for name in names]
    relabel = sampled_labels([example], kind, seed) if score == "fisher" else None
    loss = example_mean_losses(model, collate([example], 0, kind), kind, relabel)
    gradients = torch.autograd.grad(loss, weights)
    model.requires_grad_(False)
    if score == "taylor":
        return [(w * g).abs().sum().item() for w, g in zip(weights, gradients, strict=True)]
    parts = [w.numel() if score == "mean" else 1 for w in weights]
    return [g.square().sum().item() / part for g, part in zip(gradients, parts, strict=True)]


@pytest.mark.parametrize("score", SCORES)
def test_scores_equal_one_autograd_pass_per_example_whatever_the_micro_batch(prepared, score):
    model, names, examples, kind = prepared
    expected = torch.tensor([by_autograd(model, names, one, kind, score) for one in examples], dtype=torch.float64)
    assert (expected > 0).any(0).all()
    for batch_size in (1, 4, 12):  # padded differently, summed in other groups
        found = measure_examples(model, names, examples, kind, 0, "cpu", batch_size, score)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-30)
    totals = measure(model, names, examples, kind, 0, "cpu", 5, score=score)
    assert totals == pytest.approx(dict(zip(names, expected.sum(0).tolist(), strict=True)), rel=1e-10)


@pytest.mark.parametrize("score", SCORES)
def test_checkpointing_changes_no_score_and_nothing_of_the_model(prepared, score):
    model, names, examples, kind = prepared
    model.train()
    model.get_submodule(names[0]).weight.requires_grad_(True)
    before = [(parameter.requires_grad, parameter.clone()) for parameter in model.parameters()]
    plain = measure_examples(model, names, examples, kind, 0, "cpu", 4, score)
    runs = []
    handle = model.get_submodule(names[0]).register_forward_hook(lambda *_: runs.append(1))
    again = measure_examples(model, names, examples, kind, 0, "cpu", 4, score, checkpointing=True)
    handle.remove()
    assert len(runs) == 6  # three micro-batches, each forward and recomputed
    torch.testing.assert_close(again, plain, rtol=1e-12, atol=0)
    assert model.training and not any(getattr(one, "gradient_checkpointing", False) for one in model.modules())
    for (wanted, value), parameter in zip(before, model.parameters(), strict=True):
        assert parameter.requires_grad == wanted and torch.equal(parameter, value) and parameter.grad is None


def test_checkpointing_holds_less(prepared):
    model, names, examples, kind = prepared

    def held(checkpointing: bool) -> int:
        kept: dict[int, int] = {}

        def pack(tensor):
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with frozen(model, checkpointing), ExampleScores(model, names, "squares") as scores:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss = example_mean_losses(model, collate(examples, 0, kind), kind)
            total = sum(kept.values())  # before backward: what the forward pass left
            loss.backward()
            scores.take()
        return total

    assert held(True) < 0.7 * held(False)


def test_sampled_labels_come_from_the_model_and_from_nothing_else(prepared):
    model, _, examples, kind = prepared
    batch = collate(examples, 0, kind)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        logits = model(**inputs).logits
    labels = sampled_labels(examples, kind, 0)(logits, batch["labels"])
    assert torch.equal(labels, sampled_labels(examples, kind, 0)(logits, batch["labels"]))
    order = list(reversed(range(len(examples))))
    turned = sampled_labels([examples[i] for i in order], kind, 0)(logits[order], batch["labels"][order])
    assert torch.equal(turned, labels[order])
    if kind == "multiple_choice":
        assert torch.equal(labels == IGNORED, batch["labels"] == IGNORED)
    others = [sampled_labels(examples, kind, seed)(logits, batch["labels"]) for seed in range(1, 40)]
    assert any(not torch.equal(labels, other) for other in others)


def test_sampled_classes_and_grades_follow_their_distributions():
    probabilities = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    examples = [Encoded("t", item, (1,), (), 0) for item in range(4000)]
    logits = probabilities.log().expand(len(examples), 3)
    classes = sampled_labels(examples, "classification", 0)(logits, torch.zeros(len(examples), dtype=torch.long))
    shares = torch.bincount(classes, minlength=3) / len(examples)
    assert torch.allclose(shares.double(), probabilities, atol=4 * (0.24 / 4000) ** 0.5)
    grades = sampled_labels(examples, "regression", 0)(torch.full((len(examples), 1), 3.0), torch.zeros(len(examples)))
    assert grades.mean().item() == pytest.approx(3.0, abs=4 * (0.5 / 4000) ** 0.5)
    assert grades.var().item() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("prepared", CASES[:1], indirect=True)
def test_fisher_is_the_expected_square_under_the_models_own_labels(prepared):
    """Over many seeds the sampled score approaches the exact expectation over classes."""
    model, names, examples, kind = prepared
    one = examples[0]
    inputs = {name: tensor for name, tensor in collate([one], 0, kind).items() if name != "labels"}
    with torch.no_grad():
        probabilities = model(**inputs).logits.softmax(-1)[0].tolist()
    exact = torch.zeros(len(names), dtype=torch.float64)
    for label, probability in enumerate(probabilities):
        changed = Encoded(one.task, one.item, one.ids, one.type_ids, label)
        exact += probability * torch.tensor(by_autograd(model, names, changed, kind, "sum"), dtype=torch.float64)
    many = [Encoded(one.task, item, one.ids, one.type_ids, one.label) for item in range(400)]
    mean = measure_examples(model, names, many, kind, 0, "cpu", 100, "fisher").mean(0)
    assert torch.allclose(mean, exact, rtol=0.25)


def test_a_module_used_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.layer = nn.Embedding(5, 3), nn.Linear(3, 3)

        def get_input_embeddings(self):
            return self.words

        def forward(self, ids):
            return self.layer(self.layer(self.words(ids)))

    model = Twice().requires_grad_(False)
    with ExampleScores(model, ["layer"], "squares"), pytest.raises(AllocationError, match="used twice"):
        model(torch.ones(2, 4, dtype=torch.long)).sum().backward()
    with ExampleScores(model, ["layer"], "squares") as scores, pytest.raises(AllocationError, match="no gradient"):
        scores.take()
    with ExampleScores(model, ["layer"], "squares"), pytest.raises(AllocationError, match="what belongs to which"):
        model(torch.ones(4, dtype=torch.long))


@pytest.mark.parametrize("score", SCORES)
def test_four_bit_base_is_scored_by_the_gradient_of_its_dequantised_weight(world, score):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    document = plan("decoder", [task_document("pick", "multiple_choice")])
    task = load_task(document["tasks"][0], world / "data")
    base = load_base_model(document["model"], [task], 0, world / "decoder")
    names = [linear.name for linear in base.shapes.linears]
    examples = encode(task, task.train[:6], base.tokenizer, 32)
    plain = copy.deepcopy(base.model)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        linear = base.model.get_submodule(name)
        quantised = bitsandbytes.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
        )
        quantised.load_state_dict(linear.state_dict())
        setattr(base.model.get_submodule(owner), leaf, quantised.to("cpu"))
        plain.get_submodule(name).weight.data.copy_(plain_weight(base.model.get_submodule(name)))
    assert base.model.get_submodule(names[0]).weight.dtype == torch.uint8
    found = measure(base.model, names, examples, "multiple_choice", 0, "cpu", 3, score=score)
    expected = measure(plain, names, examples, "multiple_choice", 0, "cpu", 3, score=score)
    assert found == pytest.approx(expected, rel=2e-3)
