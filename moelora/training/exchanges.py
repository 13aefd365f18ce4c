"""What processes that train one model exchange: shares of a micro-batch, vectors with gradients, random generators."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed

BUCKET_BYTES = 64 * 2**20  # gradients are exchanged in pieces of this size, which bounds the memory for copies


@dataclasses.dataclass(frozen=True)
class Part:
    """A process's share of a micro-batch.

    Attributes:
        examples: What it computes, never nothing: all processes must take part in every pass.
        counts: Whether that counts; false where there were fewer examples than processes.
        length: To which all processes pad, so that none has other positions than one process would have.
    """

    examples: list
    counts: bool = True
    length: "int | None" = None

    @property
    def weight(self) -> int:
        """Return by how much its loss is multiplied."""
        return int(self.counts)


def take_part(micro_batch: list, rank: int, world: int) -> Part:
    """Return one process's share of a micro-batch."""
    own = micro_batch[rank::world]
    return Part(own or micro_batch[:1], bool(own), max(len(example.ids) for example in micro_batch))


class _Gather(torch.autograd.Function):
    """The vectors of all processes; only this process's own has a gradient."""

    @staticmethod
    def forward(ctx: Any, own: torch.Tensor) -> torch.Tensor:
        every = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(every, own.contiguous())
        return torch.stack(every)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient[torch.distributed.get_rank()]


def gather(own: torch.Tensor) -> torch.Tensor:
    """Return the vectors (S,) of all processes as (processes, S).

    Where all compute the same scalar from it, the gradients of the processes add up to the scalar's gradient.
    """
    return _Gather.apply(own)


def cut_buckets(tensors: list[torch.Tensor], size: int = BUCKET_BYTES) -> Iterator[list[torch.Tensor]]:
    """Yield tensors in lists of about ``size`` bytes, each of one dtype and device, in an order all processes share."""
    kinds: dict[tuple, list[torch.Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in kinds.values():
        bucket, filled = [], 0
        for tensor in group:
            if bucket and filled + tensor.nbytes > size:
                yield bucket
                bucket, filled = [], 0
            bucket.append(tensor)
            filled += tensor.nbytes
        yield bucket


def generators() -> dict[str, torch.Tensor]:
    """Return this process's states of torch's random generators."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def set_generators(states: dict[str, torch.Tensor]) -> None:
    """Put states of torch's random generators in place."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
