"""How far a step of MixLoRA grows, in bytes that torch allocates: no further than a step of PEFT's LoRA."""

import pytest
import torch

from bench import measure
from bench.variants import REFERENCE, Settings, build
from bench.workloads import Batch, Workload, build_base
from moelora.tuners import MixLoraFeedForward

# The widths that matter here are that of the feed-forward and the number of tokens.
WORKLOADS = {
    "block": Workload("block", "block", 256, 5632, length=512),
    "long block": Workload("block", "block", 128, 1408, length=2048),
    "model": Workload("model", "model", 384, 1024, layers=3, heads=4, batch=2, length=128),
}


@pytest.fixture(params=list(WORKLOADS))
def workload(request) -> Workload:
    return WORKLOADS[request.param]


def peak(name: str, workload: Workload, mode: str, dropout: float = 0.0, change=None) -> int:
    """Return the bytes by which a variant's step grows, after a first one."""
    base, settings = build_base(workload), Settings(dropout=dropout)
    model, trainable = build(name, base, workload, settings, training=mode == "training")
    if change is not None:
        change(model)
    batch = Batch(workload, base)

    def step():
        if mode == "inference":
            batch.infer(model)
            return
        batch.train(model)
        for one in trainable:
            one.grad = None

    step()
    found = measure.peak_bytes(step, "cpu")
    if found is None:
        pytest.skip("this torch has no memory events")
    return found


@pytest.mark.parametrize("mode", ["training", "inference"])
def test_mixlora_grows_no_further_than_lora(workload, mode):
    assert peak("mixlora", workload, mode) <= peak(REFERENCE, workload, mode)


def test_mixlora_with_dropout_grows_no_further_than_lora(workload):
    assert peak("mixlora", workload, "training", 0.05) <= peak(REFERENCE, workload, "training", 0.05)


def blocks(model) -> list[MixLoraFeedForward]:
    return [one for one in model.modules() if isinstance(one, MixLoraFeedForward)]


def test_mixlora_whose_tokens_all_choose_the_same_experts_grows_no_further_than_lora():
    workload = WORKLOADS["block"]

    def collapse(model) -> None:
        for block in blocks(model):
            router = block.moelora_router["default"]
            with torch.no_grad():  # a tie sends every token to the same experts
                router.zero_()

    assert peak("mixlora", workload, "training", change=collapse) <= peak(REFERENCE, workload, "training")


def test_smaller_chunks_need_less():
    workload = WORKLOADS["long block"]

    def cut(model) -> None:
        for block in blocks(model):
            block.chunk["default"] = 64

    for mode in ("training", "inference"):
        assert peak("mixlora", workload, mode, change=cut) < peak("mixlora", workload, mode)
