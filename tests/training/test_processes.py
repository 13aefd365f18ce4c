"""What processes of one run share and merge, without starting any."""

import contextlib
import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from moelora.errors import ConfigError
from moelora.losses import BALANCE_LOSSES
from moelora.routers import top_k
from moelora.training.exchanges import Part, cut_buckets, take_part
from moelora.training.fit import fit
from moelora.training.launch import asks_for_sharding, crew_of, join, refuse_several
from moelora.training.processes import ALONE
from moelora.tuners.routing import Balance, RoutingContext, balance_loss
from moelora.tuners.sharding import KeptState, blocks, own_part, place_tensors, whole


def texts(*lengths):
    return [SimpleNamespace(ids=(1,) * length) for length in lengths]


@pytest.mark.parametrize("world", [2, 3, 5])
def test_shares_are_the_micro_batch_and_all_pad_alike(world):
    micro = texts(3, 9, 4, 5)
    parts = [take_part(micro, rank, world) for rank in range(world)]
    counted = [example for part in parts if part.counts for example in part.examples]
    assert sorted(map(id, counted)) == sorted(map(id, micro))
    assert {part.length for part in parts} == {9}
    assert all(part.examples for part in parts), "every process must take part in every pass"
    assert [part.weight for part in parts] == [1] * min(4, world) + [0] * max(0, world - 4)


def test_one_process_has_everything_to_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")  # join() sets it
    assert join() is ALONE and crew_of(SimpleNamespace(num_processes=1)) is ALONE
    assert ALONE.part(["a"]) == Part(["a"]) and ALONE.seed(7) == 7 and ALONE.vote(True, False) == [True, False]
    said = []
    ALONE.note(said, trained_by=1, start=0)
    assert said == []
    ALONE.note(said, trained_by=2, start=10)
    assert said == ["trained by 1 process from step 11 on"]


def test_buckets_hold_every_tensor_once_and_one_kind_each():
    tensors = [torch.zeros(size, dtype=kind) for kind in (torch.float32, torch.bfloat16) for size in (5, 30, 5, 5)]
    buckets = list(cut_buckets(tensors, 80))
    assert sorted(id(one) for bucket in buckets for one in bucket) == sorted(map(id, tensors))
    assert all(len({one.dtype for one in bucket}) == 1 for bucket in buckets)
    assert all(len(bucket) == 1 or sum(one.nbytes for one in bucket) <= 80 for bucket in buckets)
    assert list(cut_buckets([])) == []


def test_what_the_launcher_asks_for_is_done_or_refused():
    assert not asks_for_sharding({}) and not asks_for_sharding({"ACCELERATE_USE_FSDP": "false", "FSDP_VERSION": "1"})
    wanted = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    assert asks_for_sharding(wanted)
    with pytest.raises(ConfigError, match="--fsdp_version 2"):
        asks_for_sharding({"ACCELERATE_USE_FSDP": "true"})
    with pytest.raises(ConfigError, match="asks for deepspeed"):
        asks_for_sharding({"ACCELERATE_USE_DEEPSPEED": "true"})
    with pytest.raises(ConfigError, match="offload"):
        asks_for_sharding({**wanted, "FSDP_OFFLOAD_PARAMS": "true"})


def test_verbs_that_cannot_share_their_work_refuse_several_processes(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    refuse_several("tune")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="'moelora tune' was started in 2 processes"):
        refuse_several("tune")


def test_a_quantised_model_is_refused_before_it_is_loaded():
    run = SimpleNamespace(plan={"model": {"name": "big-nf4", "quantisation": "nf4"}, "training": {}})
    with pytest.raises(ConfigError, match="'big-nf4' is quantised, and packed weights cannot be sharded"):
        fit(run, SimpleNamespace(sharded=True), contextlib.ExitStack())


def routed(logits, samples, mask=None):
    return replace(top_k(logits, 2), samples=samples, mask=mask, types=samples % 2)


@pytest.mark.parametrize("name", sorted(BALANCE_LOSSES))
@pytest.mark.parametrize("idle", [False, True])
def test_parts_of_a_batch_have_the_loss_and_gradient_of_the_batch(name, idle):
    torch.manual_seed(0)
    logits = torch.randn(12, 4, dtype=torch.float64, requires_grad=True)
    samples = torch.arange(3).repeat_interleave(4)
    mask = torch.rand(12) > 0.3
    form = BALANCE_LOSSES[name]
    expected = form.function(routed(logits, samples, mask))
    (gradient,) = torch.autograd.grad(expected, logits)
    cuts = [(slice(0, 4), samples[:4]), (slice(4, 12), samples[:8])]  # a part counts its own rows from 0
    outputs = [replace(routed(logits[cut], own, mask[cut]), types=samples[cut] % 2) for cut, own in cuts]
    statistics = [
        form.statistics(output) if not form.takes_delta else form.statistics(output, 0.1) for output in outputs
    ]
    if idle:
        statistics.append(tuple(one * 0 for one in statistics[0]))
    found = form.value(*form.merge(*(torch.stack(parts) for parts in zip(*statistics, strict=True))))
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)
    (ours,) = torch.autograd.grad(found, logits)
    assert torch.allclose(ours, gradient, rtol=1e-10, atol=1e-14)


class Routing(torch.nn.Module):
    """A model whose only content is what its routers said."""

    def __init__(self, entries):
        super().__init__()
        self.routing_context = RoutingContext()
        self.routing_context.for_loss = entries


def test_one_exchange_serves_all_routers_and_both_losses():
    torch.manual_seed(0)
    balance = Balance("switch", 0.5, "module", z_coefficient=0.1)
    logits = {name: torch.randn(8, experts, dtype=torch.float64) for name, experts in (("a", 4), ("b", 3))}

    def part(rows):
        return Routing([(name, "default", top_k(one[rows], 2), balance) for name, one in logits.items()])

    vectors = []
    for rows in (slice(0, 3), slice(3, 8)):  # first only what each process would send
        balance_loss(part(rows), lambda own: vectors.append(own) or own.unsqueeze(0))
    assert len(vectors) == 2
    whole_batch = balance_loss(part(slice(0, 8)))
    found = balance_loss(part(slice(0, 3)), lambda own: torch.stack([own, vectors[1]]))
    assert torch.allclose(found, whole_batch, rtol=1e-12)
    without = balance_loss(part(slice(0, 3)), lambda own: torch.stack([own, vectors[1]]), counts=False)
    assert torch.allclose(without, balance_loss(part(slice(3, 8))), rtol=1e-12)
    assert balance_loss(Routing([]), gather=None) is None


def test_blocks_are_the_larger_members_of_outermost_lists():
    def block():
        inner = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
        return torch.nn.ModuleDict({"experts": inner, "out": torch.nn.Linear(2, 2)})

    layers, heads = torch.nn.ModuleList([block(), block()]), torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    model = torch.nn.ModuleDict({"body": torch.nn.ModuleDict({"layers": layers}), "heads": heads})
    assert blocks(model) == list(layers)
    assert blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))) == []


def test_a_state_of_whole_tensors_goes_into_a_model_and_its_optimiser():
    def trained():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer

    def step(model, optimizer):
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    (first, one), (second, other) = trained(), trained()
    step(first, one)
    kept = KeptState()
    kept.load_state_dict(copy.deepcopy(whole(one.state_dict())))  # it comes from a file
    place_tensors(second, other, {name: whole(p) for name, p in first.named_parameters()}, kept.state)
    assert torch.equal(first.weight, second.weight) and torch.equal(own_part(first.bias, second.bias), first.bias)
    step(first, one)
    step(second, other)
    assert torch.equal(first.weight, second.weight), "the second step depends on the optimiser's state"
