"""The training state: noticed damage, and how often it is saved."""

import io
import itertools
import random

import pytest
import torch
from world import plan, task_document, write_plan

from moelora.files import sha256_file
from moelora.training.identity import open_run
from moelora.training.loop import make_optimizer
from moelora.training.outputs import state_path
from moelora.training.run import carry_out
from moelora.training.state import SHARE, SUM_BYTES, Pace, load_state, save_state

TRAINING = {"weight_decay": 0.0, "learning_rate": 1e-2, "warmup_steps": 0, "scheduler": "linear"}


def subject(width: int = 4):
    torch.manual_seed(0)
    model = torch.nn.Linear(width, 3)
    return model, *make_optimizer(model, TRAINING, 10)


@pytest.fixture
def saved(tmp_path):
    model, optimizer, scheduler = subject()
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    save_state(tmp_path / "key.pt", model, optimizer, scheduler, {"step": 5, "curve": [[5, 0.25]]})
    return tmp_path / "key.pt", model


def test_a_state_comes_back_with_its_generators(saved):
    path, model = saved
    following = torch.rand(3)
    other, optimizer, scheduler = subject()
    assert load_state(path, other, optimizer, scheduler) == {"step": 5, "curve": [[5, 0.25]]}
    assert torch.equal(other.weight, model.weight) and scheduler.last_epoch == 1
    model, optimizer, scheduler = subject()
    load_state(path, model, optimizer, scheduler)
    assert torch.equal(torch.rand(3), following)


def test_every_flipped_bit_of_a_state_is_noticed_though_torch_would_take_many(saved, heard):
    path, _ = saved
    data, chance, unnoticed = path.read_bytes(), random.Random(0), 0
    model, optimizer, scheduler = subject()
    before = model.weight.clone()
    for place in sorted(chance.sample(range(len(data)), 60)):
        damaged = data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        path.write_bytes(damaged)
        heard.clear()
        assert load_state(path, model, optimizer, scheduler) is None
        assert len(heard) == 1 and "its bytes are not those that were written" in heard[0]
        try:
            torch.load(io.BytesIO(damaged[:-SUM_BYTES]), weights_only=True)
            unnoticed += 1
        except Exception:
            continue
    assert unnoticed  # the reason for a sum of our own
    assert torch.equal(model.weight, before)


def test_a_cut_or_foreign_state_costs_its_steps_only(saved, heard):
    path, _ = saved
    model, optimizer, scheduler = subject(width=5)
    assert load_state(path, model, optimizer, scheduler) is None
    assert "it holds other parameters than the model trains" in heard[-1]
    model, optimizer, scheduler = subject()
    data = path.read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert load_state(path, model, optimizer, scheduler) is None
    path.unlink()
    heard.clear()
    assert load_state(path, model, optimizer, scheduler) is None and not heard


def test_a_run_whose_state_is_damaged_ends_with_the_same_bytes(world, tmp_path, monkeypatch):
    from moelora.training import loop

    document = plan("encoder", [task_document("mood")], max_steps=10, checkpoint_every_steps=4)
    document["settings"]["dropout"] = 0.1
    whole = open_run(write_plan(tmp_path / "whole", document), "test", world / "data", world / "encoder")
    carry_out(whole, evaluate=False)
    run = open_run(write_plan(tmp_path / "cut", document), "test", world / "data", world / "encoder")
    one_step, steps = loop.one_step, []

    def fails_late(*arguments):
        steps.append(1)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return one_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", fails_late)
        with pytest.raises(KeyboardInterrupt):
            carry_out(run, evaluate=False)
    state = state_path(run)
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 4
    state.write_bytes(data)
    carry_out(run, evaluate=False)
    assert run.done("train.json")["training"]["resumed"] == 0 and not state.parent.exists()
    name = "adapter/adapter_model.safetensors"
    assert sha256_file(run.folder / name) == sha256_file(whole.folder / name)


class Clock:
    """A clock that a test winds on."""

    now = 1e9

    def __call__(self):
        return self.now


def test_saving_takes_its_share_of_the_time_and_no_more():
    for step_seconds, save_seconds in ((0.01, 0.004), (1.0, 30.0), (0.1, 0.0)):
        clock = Clock()
        pace, saves = Pace(5, clock), []
        for done in range(1, 10_001):
            clock.now += step_seconds
            if pace.due(done):
                with pace.saving():
                    clock.now += save_seconds
                saves.append(done)
        assert len(saves) > 2 and saves[0] == 5
        assert save_seconds * len(saves) <= SHARE * 10_000 * step_seconds
        if step_seconds * 5 >= save_seconds / SHARE:  # cheap enough for every one that was asked for
            assert saves == list(range(5, 10_001, 5))
        else:  # as many as the share allows, give or take one step in each
            apart = [later - earlier for earlier, later in itertools.pairwise(saves)]
            assert max(apart[1:]) <= save_seconds / SHARE / step_seconds + 2


def test_without_a_wish_nothing_is_saved():
    assert not any(Pace(None).due(done) for done in range(1, 100))


def test_a_slower_disk_is_waited_for():
    clock = Clock()
    pace = Pace(1, clock)
    assert pace.due(1)
    with pace.saving():
        clock.now += 2.0
    clock.now += 199.0
    assert not pace.due(2)
    clock.now += 1.5
    assert pace.due(3)  # put off from step 2, not forgotten
