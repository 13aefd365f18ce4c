"""Memory that runs out and numbers that are none, at chosen steps."""

import json
import resource
import subprocess
import sys

import pytest
import torch
from world import plan, task_document, write_plan

from moelora.cli import main
from moelora.files import sha256_file
from moelora.memory import is_out_of_memory
from moelora.training import loop
from moelora.training.identity import open_run
from moelora.training.run import carry_out

FULL = "CUDA out of memory (pretended by a test)"


def make_run(world, root, method="lora", **training):
    document = plan("encoder", [task_document("mood")], method, **{"max_steps": 8, "log_every_steps": 4, **training})
    document["settings"]["dropout"] = 0.1
    return open_run(write_plan(root, document), "test", world / "data", world / "encoder")


def tensors_sum(run):
    return sha256_file(run.folder / "adapter" / "adapter_model.safetensors")


def in_attempt(patch, number, act):
    """Let ``act`` give the losses of one attempt at a step: of model, tensors, kind and the true function."""
    one_step, summed_loss, attempts = loop.one_step, loop.summed_loss, []

    def counted(*given):
        attempts.append(1)
        return one_step(*given)

    def loss(model, tensors, kind):
        return act(model, tensors, kind, summed_loss) if len(attempts) == number else summed_loss(model, tensors, kind)

    patch.setattr(loop, "one_step", counted)
    patch.setattr(loop, "summed_loss", loss)


def no_room(model, tensors, kind, real):
    raise torch.OutOfMemoryError(FULL)


def no_room_left(model, tensors, kind, real):
    """Run out late: dropout was drawn and there are gradients."""
    (1e3 * real(model, tensors, kind)).backward()
    raise torch.OutOfMemoryError(FULL)


def test_a_halved_step_does_not_depend_on_how_far_the_failed_attempt_came(world, tmp_path, monkeypatch):
    found = []
    for name, act in (("early", no_room), ("late", no_room_left)):
        run = make_run(world, tmp_path / name)
        with monkeypatch.context() as patch:
            in_attempt(patch, 3, act)
            record = carry_out(run, evaluate=True)
        assert record["training"]["micro_batch_size"] == 4 and record["training"]["accumulation_steps"] == 2
        assert sum("out of memory at step 3: micro-batch halved to 4" in line for line in record["declarations"]) == 1
        found.append((tensors_sum(run), record["training"]["loss_curve"], record["scores"]))
    assert found[0] == found[1]


def test_a_resumed_run_keeps_the_halved_size(world, tmp_path, monkeypatch):
    def killed(*given):
        raise KeyboardInterrupt

    whole = make_run(world, tmp_path / "whole", checkpoint_every_steps=5)
    cut = make_run(world, tmp_path / "cut", checkpoint_every_steps=5)
    with monkeypatch.context() as patch:
        in_attempt(patch, 3, no_room_left)
        expected = carry_out(whole, evaluate=True)
    with monkeypatch.context() as patch:
        in_attempt(patch, 3, no_room_left)
        in_attempt(patch, 8, killed)  # in step 7, the third having been tried twice
        with pytest.raises(KeyboardInterrupt):
            carry_out(cut, evaluate=True)
    record = carry_out(cut, evaluate=True)
    assert record["training"]["resumed"] == 1 and record["training"]["micro_batch_size"] == 4
    assert record["declarations"] == expected["declarations"] and tensors_sum(cut) == tensors_sum(whole)


def test_no_room_for_good_is_a_status_and_the_others_go_on(world, tmp_path, monkeypatch):
    document = plan("encoder", [task_document("mood")], max_steps=4)
    paths = [write_plan(tmp_path, document, seed=seed) for seed in (0, 1)]
    one_step = loop.one_step
    monkeypatch.setattr(loop, "one_step", lambda model, *rest: small_card(one_step, model, *rest))
    seeds = iter([0] * 5 + [1] * 99)  # the first run is tried with 8, 4, 2 and 1 at its second step

    def small_card(real, *rest):
        if next(seeds) == 0 and real_calls.append(1) is None and len(real_calls) > 1:
            raise torch.OutOfMemoryError(FULL)
        return real(*rest)

    real_calls: list = []
    words = ["train", "--evaluate", "--plans", *map(str, paths), "--fingerprint", "test"]
    assert main([*words, "--data", str(world / "data"), "--base", str(world / "encoder")]) == 0
    first, second = (json.loads((path.parent / "record.json").read_text()) for path in paths)
    assert first["status"] == "out_of_memory" and "micro-batch of 1 did not fit" in first["reason"]
    assert first["training"]["steps"] == 1 and first["scores"] == {}
    assert second["status"] == "finished"


def test_no_room_outside_the_steps_is_the_same_status(world, tmp_path, monkeypatch):
    def full(*given, **options):
        raise torch.OutOfMemoryError(FULL)

    for name, place in (("optimiser", "torch.optim.AdamW.step"), ("model", "moelora.training.attach.attach")):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            record = carry_out(make_run(world, tmp_path / name), evaluate=True)
        assert record["status"] == "out_of_memory" and FULL in record["reason"]


@pytest.mark.parametrize("most", [5, 0])
def test_scoring_halves_its_batches_until_they_fit(world, tmp_path, monkeypatch, most):
    from moelora.evaluation import labelled

    expected = carry_out(make_run(world, tmp_path / "roomy"), evaluate=True)
    collate = labelled.collate

    def small_card(examples, *rest):
        if len(examples) > most:
            raise torch.OutOfMemoryError(FULL)
        return collate(examples, *rest)

    run = make_run(world, tmp_path / "small")
    with monkeypatch.context() as patch:
        patch.setattr(labelled, "collate", small_card)
        record = carry_out(run, evaluate=True)
    assert run.done("train.json")["status"] == "finished"
    if most:
        assert record["scores"] == expected["scores"]
    else:  # not even one item: training is not lost, and once the record is deleted only scoring is tried again
        assert record["status"] == "out_of_memory" and FULL in record["reason"]
        (run.folder / "record.json").unlink()
        assert carry_out(run, evaluate=True)["scores"] == expected["scores"]


def test_lm_eval_halves_a_given_batch_size(world, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    document = plan("decoder", [task_document("pick", "multiple_choice")], "base")
    expected = carry_out(
        open_run(write_plan(tmp_path / "roomy", document), "test", world / "data", world / "decoder"), evaluate=True
    )
    call, sizes = HFLM._model_call, []

    def small_card(self, inputs, *rest, **options):
        sizes.append(len(inputs))
        if len(inputs) > 4:
            raise torch.OutOfMemoryError(FULL)
        return call(self, inputs, *rest, **options)

    monkeypatch.setattr(HFLM, "_model_call", small_card)
    run = open_run(write_plan(tmp_path / "small", document), "test", world / "data", world / "decoder")
    assert carry_out(run, evaluate=True)["scores"] == expected["scores"]
    assert sizes[0] > 4 and sizes.count(4) > 1 and max(sizes[2:]) == 4


REAL = """
import resource, torch
from moelora.memory import is_out_of_memory
torch.zeros(1)
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
for amount in (2**34, 2**36):
    try:
        torch.empty(amount, dtype=torch.uint8)
    except RuntimeError as error:
        print(is_out_of_memory(error), type(error).__name__)
try:
    torch.zeros(2) @ torch.zeros(3)
except RuntimeError as error:
    print(is_out_of_memory(error))
"""


def test_what_torch_says_on_a_cpu_without_room_is_understood():
    process = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True)
    said = process.stdout.splitlines()
    assert [line.split()[0] for line in said] == ["True", "True", "False"], process.stderr
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("out of memory"))
    assert resource.RLIM_INFINITY  # the limit above is the child's own


def not_a_number(model, tensors, kind, real):
    return real(model, tensors, kind) * float("nan")


def bad_gradients(model, tensors, kind, real):
    """Return a loss that is a number, and whose gradients are none."""
    loss = real(model, tensors, kind)
    loss.register_hook(lambda gradient: gradient * float("nan"))
    return loss


@pytest.mark.parametrize(
    ("step", "act", "reason"),
    [
        (6, not_a_number, "the loss is nan within steps 5–8"),  # in the middle of a logged interval
        (6, bad_gradients, "the loss is nan within steps 5–8"),
        (8, bad_gradients, "is not finite after the last step"),  # no loss comes after it that would show it
    ],
)
def test_a_run_that_leaves_the_numbers_diverged_and_the_next_goes_on(world, tmp_path, monkeypatch, step, act, reason):
    document = plan("encoder", [task_document("mood")], max_steps=8, log_every_steps=4, checkpoint_every_steps=2)
    paths = [write_plan(tmp_path, document, seed=seed) for seed in (0, 1)]
    in_attempt(monkeypatch, step, act)
    words = ["train", "--evaluate", "--plans", *map(str, paths), "--fingerprint", "test"]
    assert main([*words, "--data", str(world / "data"), "--base", str(world / "encoder")]) == 0
    first, second = (json.loads((path.parent / "record.json").read_text()) for path in paths)
    assert first["status"] == "diverged" and reason in first["reason"] and first["scores"] == {}
    assert first["training"]["steps"] == 8 and not (paths[0].parent / "adapter").exists()
    assert second["status"] == "finished" and second["scores"]


def test_a_balance_loss_that_is_no_number_is_a_reason_of_its_own(world, tmp_path, monkeypatch):
    from moelora.training import run as running

    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(running, "balance_of", lambda method: lambda model: nan)
    zero = loop.one_step

    def only_said(model, *rest):  # it is logged, and what is trained is not touched
        loss, extra = zero(model, *rest[:5], None, *rest[6:])
        return loss, extra + nan

    monkeypatch.setattr(loop, "one_step", only_said)
    record = carry_out(make_run(world, tmp_path, "mixlora"), evaluate=True)
    assert record["status"] == "diverged" and record["reason"].startswith("the balance loss is nan within steps 1–4")
