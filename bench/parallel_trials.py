"""What the cases of `bench.parallel` are made of: training alone or with the other process, and distances."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from bench.parallel_models import PAD, ROWS, TRAINING, OneProcess, make_steps
from moelora.training.attach import Attached
from moelora.training.device import make_accelerator
from moelora.training.launch import crew_of
from moelora.training.loop import LoopResult, one_step, train_loop
from moelora.training.run import balance_of
from moelora.training.state import seed_everything, trainable_tensors
from moelora.tuners.sharding import whole

KINDS = {"llama": "multiple_choice", "bert": "classification"}
HALF = len(ROWS) // 2


def accelerator() -> Any:
    """Return this process's accelerator; the first call meets the other process."""
    return make_accelerator({"training": TRAINING})


def train(attached: Attached, kind: str, with_others: bool, tasks: int = 1, **options: Any) -> LoopResult:
    """Train alone or with the other process."""
    training = {**TRAINING, **{name: options.pop(name) for name in list(options) if name in TRAINING}}
    one = accelerator() if with_others else OneProcess()
    seed_everything(crew_of(one).seed(5))
    steps = options.pop("steps", None) or make_steps(kind, tasks)
    kinds = {example.task: KINDS[kind] for batch in steps for example in batch}
    return train_loop(
        attached.model, steps, kinds, training, PAD, one, balance=balance_of(attached.method),
        hooks=attached.method.make_hooks(attached.settings), **options,
    )  # fmt: skip


def gradients(attached: Attached, kind: str, with_others: bool) -> dict[str, torch.Tensor]:
    """Return the gradients of the first batch, and forget them."""
    one = accelerator() if with_others else OneProcess()
    attached.model.train()
    hooks = attached.method.make_hooks(attached.settings)
    one_step(attached.model, make_steps(kind)[0], KINDS[kind], 4, PAD, one, balance_of(attached.method), hooks)
    found = whole({n: p.grad for n, p in trainable_tensors(attached.model).items() if p.grad is not None})
    found = {name: tensor.clone() for name, tensor in found.items()}
    attached.model.zero_grad(set_to_none=True)
    return found


def values(attached: Attached) -> dict[str, torch.Tensor]:
    """Return copies of the trained parameters, whole."""
    return {name: whole(tensor).clone() for name, tensor in trainable_tensors(attached.model).items()}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], scale: "dict | None" = None) -> float:
    """Return the largest difference as a part of the largest entry of ``scale``, of ``theirs`` by default."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"tensors of one side only: {sorted(ours.keys() ^ theirs.keys())}")
    largest = max(float(tensor.abs().max()) for tensor in (theirs if scale is None else scale).values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) / largest


def curve_distance(ours: list, theirs: list) -> float:
    """Return the largest relative difference of two curves over the same steps."""
    if [step for step, _ in ours] != [step for step, _ in theirs]:
        raise ValueError(f"curves of other steps: {ours} and {theirs}")
    return max(abs(a - b) / max(abs(b), 1e-30) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def same_in_all(tensors: dict[str, torch.Tensor]) -> bool:
    """Say whether both processes hold the same bits."""
    mine = torch.cat([tensor.flatten().double() for tensor in tensors.values()])
    theirs = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(theirs, mine)
    return all(torch.equal(theirs[0], one) for one in theirs)


@contextlib.contextmanager
def shared_folder() -> Iterator[str]:
    """Return a folder that both processes see."""
    crew = crew_of(accelerator())
    with tempfile.TemporaryDirectory() as own:
        yield crew._from(0, own)
        torch.distributed.barrier()
