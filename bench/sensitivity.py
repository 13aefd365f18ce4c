"""Squared-gradient sensitivity of all modules, ours in one pass and block by block, beside a LoRA's training step.

The steps take the same sequences. Ours gives each example's own squares; block by block gives the squares of the
micro-batch's gradient, one forward and backward pass for each decoder layer, as LoRA-SMoE's procedure has it.
"""

from collections.abc import Callable

from torch import nn

from bench.workloads import FEED_FORWARD, Batch, Workload, share

ONE_PASS, BLOCK_BY_BLOCK = "sensitivity", "block-by-block"
TITLES = {
    ONE_PASS: "sensitivity of all linears, one pass",
    BLOCK_BY_BLOCK: "the same block by block",
}
PEERS = {BLOCK_BY_BLOCK: ONE_PASS}


def linears(model: nn.Module, workload: Workload) -> list[list[str]]:
    """Return the names of the linear layers, a list for each decoder layer."""
    endings = tuple(workload.attention) + FEED_FORWARD
    names = [name for name, _ in model.named_modules() if name.endswith(endings)]
    return [[name for name in names if f"layers.{layer}." in name] for layer in range(workload.layers)]


def one_pass(model: nn.Module, workload: Workload, batch: Batch) -> Callable[[], dict[str, float]]:
    """Return `moelora.allocation.sensitivity.measure` on the batch."""
    from moelora.allocation.sensitivity import measure
    from moelora.training.encode import Encoded

    names = [name for layer in linears(model, workload) for name in layer]
    # The loss counts from the token ``label`` on; from the second it is the language model's.
    examples = [Encoded("bench", row, tuple(ids), (), 1) for row, ids in enumerate(batch.ids.tolist())]

    def step() -> dict[str, float]:
        return measure(model, names, examples, "multiple_choice", 0, workload.device, workload.batch)

    return step


def block_by_block(model: nn.Module, workload: Workload, batch: Batch) -> Callable[[], dict[str, float]]:
    """Return a step that makes one decoder layer's weights require a gradient after the other."""
    layers = linears(model, workload)

    def step() -> dict[str, float]:
        found = {}
        for names in layers:
            weights = {name: model.get_submodule(name).weight for name in names}
            for weight in weights.values():
                weight.requires_grad_(True)
            model(input_ids=batch.ids, labels=batch.ids).loss.backward()
            for name, weight in weights.items():
                found[name] = float(weight.grad.double().square().sum())
                weight.grad = None
                weight.requires_grad_(False)  # the weights are those of all other variants too
        return found

    return step


def lora_step(model: nn.Module, batch: Batch) -> Callable[[], None]:
    """Return an ordinary training step from token ids, which is what the two are compared with."""

    def step() -> None:
        model(input_ids=batch.ids, labels=batch.ids).loss.backward()

    return step


def make_step(name: str, base: nn.Module, workload: Workload, batch: Batch) -> Callable[[], object]:
    """Return the step of one of the two measurements, on modules of its own around the shared weights."""
    make = one_pass if name == ONE_PASS else block_by_block
    return make(share(base).eval(), workload, batch)
