"""The order of the data: seeded by task and seed, the same for every method.

Batches hold examples of similar length (buckets), so that little is padded; batches of labelled texts hold one task
each, because each task has a head of its own.
"""

import random

from moelora.seeds import derive_seed
from moelora.training.encode import Encoded

BUCKET_BATCHES = 32  # a bucket of this many batches is sorted by length: random enough, and little padding


def epoch_batches(
    examples: list[Encoded], batch_size: int, seed: int, epoch: int, *, by_task: bool
) -> list[list[Encoded]]:
    """Return the batches of one epoch.

    Args:
        examples: all training examples, of all tasks.
        batch_size: examples per optimiser step; the last batch of a task may be smaller.
        seed: the run's seed.
        epoch: counted from zero; every epoch has an order of its own.
        by_task: whether a batch may hold one task only.
    """
    groups: dict[str, list[Encoded]] = {}
    for example in examples:
        groups.setdefault(example.task if by_task else "", []).append(example)
    batches = []
    for name in sorted(groups):
        group = list(groups[name])
        generator = random.Random(derive_seed("data order", name, *sorted({x.task for x in group}), seed, epoch))
        generator.shuffle(group)
        bucket = batch_size * BUCKET_BATCHES
        for start in range(0, len(group), bucket):
            part = sorted(group[start : start + bucket], key=lambda example: len(example.ids))
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    mixer = random.Random(derive_seed("batch order", *sorted(groups), seed, epoch))
    mixer.shuffle(batches)
    return batches


def all_steps(
    examples: list[Encoded],
    batch_size: int,
    seed: int,
    *,
    epochs: "float | None",
    max_steps: "int | None",
    by_task: bool,
) -> list[list[Encoded]]:
    """Return one batch per optimiser step for the whole run, by epochs or by a number of steps.

    Raises:
        ValueError: neither or both of ``epochs`` and ``max_steps`` are given.
    """
    if (epochs is None) == (max_steps is None):
        raise ValueError(f"give either epochs or max_steps, found epochs={epochs}, max_steps={max_steps}")
    steps: list[list[Encoded]] = []
    epoch = 0
    while True:
        batches = epoch_batches(examples, batch_size, seed, epoch, by_task=by_task)
        epoch += 1
        steps += batches
        wanted = max_steps if max_steps is not None else round(epochs * len(batches))
        if len(steps) >= wanted:
            return steps[:wanted]
