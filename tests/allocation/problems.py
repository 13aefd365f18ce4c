"""Made-up modules and scores for tests of strategies."""

import random

from moelora.allocation.prices import parameter_price
from moelora.allocation.strategies import Problem
from moelora.methods import Linear

KINDS = {
    "query": ("attention", 32, 32),
    "value": ("attention", 32, 8),
    "intermediate": ("feed_forward", 32, 96),
    "output": ("feed_forward", 96, 32),
}


def make_linears(layers: int) -> tuple[Linear, ...]:
    """Return the linears of a model whose modules are of unequal size."""
    return tuple(
        Linear(f"layer.{layer}.{kind}", kind, part, layer, inputs, outputs)
        for layer in range(layers)
        for kind, (part, inputs, outputs) in KINDS.items()
    )


def make_problem(layers: int = 4, tasks: int = 3, seed: int = 0) -> Problem:
    """Return modules with scores drawn at random, and the prices of LoRA-SMoE at rank 4."""
    linears, generator = make_linears(layers), random.Random(seed)
    scores = {f"task{t}": {x.name: generator.lognormvariate(0, 2) for x in linears} for t in range(tasks)}
    return Problem(linears, scores, parameter_price("lora_smoe", {"r": 4}, linears))
