"""The stopwatch and the two measures of memory.

One process; every round times one step of each contender, in another order each round; a ratio is taken within a round.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

Step = Callable[[], None]


class Stopwatch:
    """Reads several clocks around a step.

    ``cpu`` is the process's time on all its cores, ``wall`` the time that passed, and on a GPU ``device`` the time
    between two CUDA events.
    """

    def __init__(self, device: str):
        self.cuda = torch.device(device).type == "cuda"
        self.clocks = ("cpu", "wall", "device") if self.cuda else ("cpu", "wall")

    def time(self, step: Step) -> dict[str, float]:
        """Return the seconds of a step by clock."""
        if self.cuda:
            torch.cuda.synchronize()
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        wall, cpu = time.perf_counter(), time.process_time()
        if self.cuda:
            marks[0].record()
        step()
        if self.cuda:
            marks[1].record()
            torch.cuda.synchronize()
        taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        if self.cuda:
            taken["device"] = marks[0].elapsed_time(marks[1]) / 1000
        return taken


def order(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: a row of a Williams square, which rotates the names.

    A step leaves its successor a cache and a heap, so no variant may always follow the same one. After n rounds of an
    even number n of names (2 n of an odd one) each has stood in each place equally often, and has followed each other
    one equally often.

    Source: E. J. Williams, Australian Journal of Scientific Research A 2 (1949), 149-168.
    """
    count = len(names)
    cycle, turn = divmod(number, count)
    # 0, 1, n - 1, 2, n - 2, ...: the differences of neighbours are all different.
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) for place in range(count)]
    turned = [names[(place + turn) % count] for place in zigzag]
    return turned[::-1] if cycle % 2 else turned


def time_rounds(
    steps: dict[str, Step], rounds: int, warmup: int, stopwatch: Any, report: Callable[[int], None] | None = None
) -> dict[str, dict[str, list[float]]]:
    """Return seconds by name, clock and round, after ``warmup`` rounds that are not counted."""
    found = {name: {clock: [] for clock in stopwatch.clocks} for name in steps}
    names = list(steps)
    collected = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds + warmup):
            for name in order(names, number):
                taken = stopwatch.time(steps[name])
                if number >= warmup:
                    for clock in stopwatch.clocks:
                        found[name][clock].append(taken[clock])
            gc.collect()
            if report is not None:
                report(number + 1)
    finally:
        if collected:
            gc.enable()
    return found


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def saved_bytes(step: Step, left_out: Iterable[torch.Tensor]) -> int:
    """Return the bytes that autograd keeps for the backward pass of a step; a storage counts once.

    Args:
        step: Forward and backward.
        left_out: Tensors that are there anyway: frozen weights and adapters.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in left_out}
    kept: dict[int, int] = {}
    held = []  # so that no storage is freed and its address counted as the one before

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def peak_bytes(step: Step, device: str) -> int | None:
    """Return how far a step's tensors grow beyond what was allocated before it.

    On a GPU from the caching allocator's own count, on a CPU from the allocations and releases that torch's profiler
    sees, so that it does not depend on what the process did before. Work space inside matrix libraries is not in it.
    None where this torch has no such events.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    try:
        events = profiler.profiler.kineto_results.events()
        changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    except AttributeError:
        return None
    level = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        level += size
        peak = max(peak, level)
    return peak if changes else None
