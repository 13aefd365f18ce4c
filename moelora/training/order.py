"""The order of the data: seeded by task and seed, the same for every method.

Batches hold examples of similar length (buckets), so that little is padded; batches of labelled texts hold one task
each, because each task has a head of its own.
"""

import collections
import random
from collections.abc import Mapping

from moelora.seeds import derive_seed
from moelora.training.encode import Encoded
from moelora.training.mixing import Sampling, interleave, next_examples, shuffled, task_counts

BUCKET_BATCHES = 32  # a bucket of this many batches is sorted by length: random enough, and little padding


def epoch_batches(
    examples: list[Encoded],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    by_task: bool,
    counts: "Mapping[str, int] | None" = None,
) -> list[list[Encoded]]:
    """Return the batches of one epoch.

    Args:
        examples: all training examples, of all tasks.
        batch_size: examples per optimiser step; the last batch of a task may be smaller.
        seed: the run's seed.
        epoch: counted from zero; every epoch has an order of its own.
        by_task: whether a batch may hold one task only.
        counts: task → examples of it; by default all, each once.
    """
    groups: dict[str, list[Encoded]] = {}
    for example in examples:
        groups.setdefault(example.task if by_task or counts else "", []).append(example)
    if counts is None:
        ordered = {
            name: shuffled(group, name, sorted({x.task for x in group}), seed, epoch) for name, group in groups.items()
        }
    else:
        ordered = {task: next_examples(group, task, counts[task], seed, epoch) for task, group in groups.items()}
        ordered = ordered if by_task else {"": interleave(ordered, seed, epoch)}
    batches = []
    for name in sorted(ordered):
        group = ordered[name]
        bucket = batch_size * BUCKET_BATCHES
        for start in range(0, len(group), bucket):
            part = sorted(group[start : start + bucket], key=lambda example: len(example.ids))
            batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    mixer = random.Random(derive_seed("batch order", *sorted(ordered), seed, epoch))
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
    sampling: Sampling = None,
) -> list[list[Encoded]]:
    """Return one batch per optimiser step for the whole run, by epochs or by a number of steps.

    Args:
        examples: all training examples, of all tasks.
        batch_size: examples per optimiser step.
        seed: the run's seed.
        epochs: length in passes; an epoch has as many examples as the tasks have, however they are mixed.
        max_steps: length in steps.
        by_task: whether a batch may hold one task only.
        sampling: how often each task of a mixture is seen (see :mod:`moelora.training.mixing`).

    Raises:
        ValueError: neither or both of ``epochs`` and ``max_steps`` are given.
    """
    if (epochs is None) == (max_steps is None):
        raise ValueError(f"give either epochs or max_steps, found epochs={epochs}, max_steps={max_steps}")
    sizes = dict(collections.Counter(example.task for example in examples))
    counts = task_counts(sizes, sampling)
    steps: list[list[Encoded]] = []
    epoch = 0
    while True:
        batches = epoch_batches(
            examples, batch_size, seed, epoch, by_task=by_task, counts=None if counts == sizes else counts
        )
        epoch += 1
        steps += batches
        wanted = max_steps if max_steps is not None else round(epochs * len(batches))
        if len(steps) >= wanted:
            return steps[:wanted]
