"""How often a mixture shows each of its tasks, and which of their examples come next.

The number of examples an epoch is the same for every way of mixing: as many as the tasks have together. A task that
is to be seen more often than it has examples is repeated by whole passes, each a fresh shuffle; one that is to be seen
less often goes on in the next epoch where this one stopped. So over whole epochs the examples of a task are seen
equally often, within one.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from moelora.allocation.apportionment import apportion
from moelora.allocation.budget import Budget
from moelora.seeds import derive_seed

Sampling = str | Mapping[str, float] | None


def task_counts(sizes: Mapping[str, int], sampling: Sampling = None) -> dict[str, int]:
    """Return how many examples of each task an epoch holds; together as many as the tasks have.

    Shares are n^(1/T) of tasks with n examples, by largest remainders, and at least one example of each: T = 1 is
    proportional, and T without bound is equal.

    Args:
        sizes: task → examples that there are.
        sampling: ``equal``, ``{"temperature": T}``, or ``proportional``, which is the default.

    Raises:
        ValueError: there is no such way of mixing, or T is not above zero; the schema of suites refuses both earlier.

    Source: ours in the rule of the total; the temperature is that of multilingual and multi-task training.
    """
    temperature = temperature_of(sampling)
    if temperature == 1:
        return dict(sizes)
    largest = math.log(max(sizes.values()))
    weights = {task: math.exp((math.log(size) - largest) / temperature) for task, size in sizes.items()}
    return apportion(weights, Budget(sum(sizes.values()), unit="examples", minimum=1))


def temperature_of(sampling: Sampling) -> float:
    """Return T of a way of mixing.

    Raises:
        ValueError: as :func:`task_counts` says.
    """
    named = {None: 1.0, "proportional": 1.0, "equal": math.inf}
    temperature = sampling.get("temperature", 0.0) if isinstance(sampling, Mapping) else named.get(sampling, 0.0)
    if not temperature > 0:
        raise ValueError(f"found sampling {sampling!r}, expected proportional, equal or a temperature above 0")
    return float(temperature)


def shuffled(group: Sequence[Any], name: str, tasks: Sequence[str], seed: int, number: int) -> list[Any]:
    """Return a group of examples in the order of its n-th pass, which depends on names and seed alone."""
    order = list(group)
    random.Random(derive_seed("data order", name, *tasks, seed, number)).shuffle(order)
    return order


def next_examples(group: Sequence[Any], task: str, count: int, seed: int, epoch: int) -> list[Any]:
    """Return an epoch's examples of one task: the next ``count`` of its passes, strung together.

    Args:
        group: the task's examples.
        task: its name.
        count: examples of it an epoch.
        seed: the run's seed.
        epoch: counted from zero.
    """
    size, first = len(group), epoch * count
    found: list[Any] = []
    for number in range(first // size, -(-(first + count) // size)):
        start = number * size
        found += shuffled(group, task, [task], seed, number)[max(0, first - start) : first + count - start]
    return found


def interleave(streams: Mapping[str, Sequence[Any]], seed: int, epoch: int) -> list[Any]:
    """Return streams of examples as one, each spread evenly over it and kept in its order.

    A small task's passes thus stay apart, and a batch seldom holds an example twice.
    """
    generator = random.Random(derive_seed("task order", *sorted(streams), seed, epoch))
    placed = [
        ((place + generator.random()) / len(streams[task]), example)
        for task in sorted(streams)
        for place, example in enumerate(streams[task])
    ]
    return [example for _, example in sorted(placed, key=lambda entry: entry[0])]
