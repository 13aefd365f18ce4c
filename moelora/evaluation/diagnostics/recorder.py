"""A recorder of routing: load, entropy and dead experts of each router, and the choices themselves.

It keeps sums and a capped number of first choices, never the routers' outputs, so it can watch any number of
forward passes.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy
import torch

DEAD_SHARE = 0.01
"""An expert is dead when its load is below this part of the balanced load 1 / E."""

CHOICES = 1024
"""First choices that are kept per router and task."""

ALL = "all"
"""The task of forward passes that no `task` block names."""


class RouterSums:
    """What one router did so far; tokens that the mask leaves out are never here.

    Attributes:
        experts: E.
        per_item: First choices by expert, (items, E); a token without an expert is in no column.
        owners: The task of each item.
        assigned: Task → assignments by expert, (E,).
        weighed: Task → summed weights by expert, (E,).
        dense: Whether every token used every expert so far, so that assignments say nothing.
        entropy: Task → summed entropy of the probabilities, in nats.
        tokens: Task → tokens.
        choices: Task → first choices in order, -1 for none.
    """

    def __init__(self, experts: int):
        self.experts = experts
        self.per_item: list[numpy.ndarray] = []
        self.owners: list[str] = []
        self.assigned: dict[str, numpy.ndarray] = {}
        self.weighed: dict[str, numpy.ndarray] = {}
        self.dense = True
        self.entropy: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.choices: dict[str, numpy.ndarray] = {}

    def add(self, output: Any, task: str, items: int, keep: int) -> None:
        """Add one forward pass.

        Args:
            output: A `moelora.routers.RouterOutput` of T tokens, item by item.
            task: Whose items they are.
            items: Number of items; 1 where T is no multiple of it.
            keep: First choices to keep per task.
        """
        tokens, experts = output.probabilities.shape
        items = items if items and tokens % items == 0 else 1
        mask = torch.ones(tokens, dtype=torch.bool) if output.mask is None else output.mask.cpu()
        chosen = output.chosen.cpu()
        first = first_choices(chosen).masked_fill(~mask, -1)
        item = torch.arange(tokens) // (tokens // items)
        cells = (item * experts + first)[first >= 0]
        self.per_item.extend(torch.bincount(cells, minlength=items * experts).view(items, experts).numpy())
        self.owners += [task] * items
        used = chosen[mask]
        self.dense = self.dense and chosen.shape[-1] == experts and bool((used >= 0).all())
        counts = torch.bincount(used[used >= 0], minlength=experts).double().numpy()
        self.assigned[task] = self.assigned.get(task, 0) + counts
        rows = output.weights.cpu()[mask].double()
        self.weighed[task] = self.weighed.get(task, 0) + rows.sum(0).numpy()
        entropy = torch.special.entr(output.probabilities.cpu().double()).sum(-1)[mask]
        self.entropy[task] = self.entropy.get(task, 0.0) + float(entropy.sum())
        self.tokens[task] = self.tokens.get(task, 0) + int(mask.sum())
        kept = self.choices.get(task, numpy.empty(0, dtype=numpy.int64))
        self.choices[task] = numpy.concatenate([kept, first[mask][: keep - len(kept)].numpy()])

    def loads(self) -> dict[str, numpy.ndarray]:
        """Return task → share of the routing that each expert gets, (E,), summing to 1.

        Shares of assignments; where every token uses every expert, shares of the weights.
        """
        sums = self.weighed if self.dense else self.assigned
        return {task: load / load.sum() if load.sum() > 0 else load for task, load in sorted(sums.items())}


def first_choices(chosen: torch.Tensor) -> torch.Tensor:
    """Return each token's first used expert, (T,), or -1; ``chosen`` (T, K) is -1 in unused slots."""
    used = chosen >= 0
    first = chosen.gather(-1, used.int().argmax(-1, keepdim=True)).squeeze(-1)
    return torch.where(used.any(-1), first, torch.full_like(first, -1))


class RoutingRecorder:
    """Watch the routers of a model during a ``with`` block.

    Every forward pass of the model inside the block is added, in training and evaluation. It expects one active
    adapter.

    Args:
        model: A PEFT model with our routers, or a model that holds one.
        choices: First choices to keep per router and task.
    """

    def __init__(self, model: torch.nn.Module, choices: int = CHOICES):
        self.model = model
        self.keep = choices
        self.sums: dict[str, RouterSums] = {}
        self._task = ALL
        self._stack = ExitStack()

    def __enter__(self) -> "RoutingRecorder":
        from moelora.tuners import record_routing

        self._stack.enter_context(record_routing(self.model))
        for module in watched_modules(self.model):
            handle = module.register_forward_hook(self._take, with_kwargs=True)
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Count the forward passes of the block as the task's."""
        before, self._task = self._task, name
        try:
            yield
        finally:
            self._task = before

    def _take(self, module: torch.nn.Module, args: tuple, kwargs: dict, _output: Any) -> None:
        from moelora.tuners import routing

        inputs = [kwargs.get(name) for name in ("input_ids", "inputs_embeds", "attention_mask")]
        items = next((x.shape[0] for x in (*inputs, *args) if isinstance(x, torch.Tensor) and x.dim()), 1)
        for name, output in routing(module):
            if name not in self.sums:
                self.sums[name] = RouterSums(output.experts)
            self.sums[name].add(output, self._task, items, self.keep)

    def routers(self) -> list[dict[str, Any]]:
        """Return one row per router, sorted by module.

        Returns:
            Rows with ``module``, ``layer``, ``experts``, ``load`` (task → share per expert), ``entropy`` (task → mean
            entropy of the probabilities in nats), ``entropy_share`` (the same over ln E), ``dead`` (experts whose
            load, the mean over tasks, is below `DEAD_SHARE` / E) and ``load_cv`` (standard deviation of that load over
            its mean).
        """
        return [_row(name, sums) for name, sums in sorted(self.sums.items())]

    def choices(self) -> dict[str, numpy.ndarray]:
        """Return module → first choices, task by task in the order they were seen; the largest number is "none"."""
        return {name: compact(sums) for name, sums in sorted(self.sums.items())}


def compact(sums: RouterSums) -> numpy.ndarray:
    """Return the kept choices as uint8, or as uint16 where E asks for it; the type's largest number is "none"."""
    kind = numpy.uint8 if sums.experts < 256 else numpy.uint16
    choices = numpy.concatenate(list(sums.choices.values()))
    return numpy.where(choices < 0, numpy.iinfo(kind).max, choices).astype(kind)


def layer_of(module: str) -> int:
    """Return the layer that a module's name tells, or -1."""
    found = re.search(r"\.(\d+)\.", f".{module}.")
    return int(found.group(1)) if found else -1


def watched_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the modules whose forward pass opens and closes a routing context: the models under the adapters."""
    from moelora.tuners.routing import RoutingContext

    def is_ours(hook: Any) -> bool:
        return isinstance(getattr(hook, "__self__", None), RoutingContext)

    return [module for module in model.modules() if any(map(is_ours, module._forward_hooks.values()))]


def _row(name: str, sums: RouterSums) -> dict[str, Any]:
    loads = sums.loads()
    overall = numpy.mean([load for _, load in sorted(loads.items())], axis=0)
    mean = float(overall.mean())
    entropy = {task: total / max(sums.tokens[task], 1) for task, total in sorted(sums.entropy.items())}
    return {
        "module": name,
        "layer": layer_of(name),
        "experts": sums.experts,
        "load": {task: [float(x) for x in load] for task, load in loads.items()},
        "entropy": entropy,
        "entropy_share": {task: value / numpy.log(sums.experts).item() for task, value in entropy.items()},
        "dead": int((overall < DEAD_SHARE / sums.experts).sum()),
        "load_cv": float(overall.std() / mean) if mean > 0 else 0.0,
    }
