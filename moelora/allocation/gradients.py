"""What each example's gradient says of each frozen weight, in one backward pass a micro-batch.

No weight gradient is kept: a module's input and its output's gradient are enough (`moelora.ops.sensitivity`). The input
is saved as autograd saves tensors, so gradient checkpointing recomputes it like any other.

Notation: N examples, M modules, B examples of a micro-batch, T tokens, D input width, O output width.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moelora.errors import AllocationError
from moelora.ops import absolute_taylor, input_gram, prefers_grams, squared_gradient_norm


class _Group:
    """The modules that have one input (query, key and value), and its Gram matrix once one of them has made it."""

    def __init__(self, inputs: Tensor):
        self.inputs = weakref.ref(inputs)
        self.members = 0
        self.gram: Tensor | None = None


class _Watch(torch.autograd.Function):
    """The identity on a module's output; in backward it hands on input and gradient."""

    @staticmethod
    def forward(ctx, output, inputs, receive):
        ctx.save_for_backward(inputs)
        ctx.receive = receive
        return output.view_as(output)

    @staticmethod
    def backward(ctx, gradient):
        ctx.receive(ctx.saved_tensors[0].detach(), gradient.detach())
        return gradient, None, None


class ExampleScores:
    """Collects, while backward passes run, a score of each module for each example of the micro-batch.

    Use as ``with ExampleScores(model, modules, kind) as scores: …`` with a backward pass of a sum over examples inside,
    and ``scores.take()`` after each, (B, M) in float64.

    Args:
        model: A model whose weights are frozen; nothing in it is changed for good.
        modules: Full names of linears.
        kind: ``squares`` for ‖∂L/∂W‖²_F, ``taylor`` for Σ|W ∘ ∂L/∂W|.
    """

    def __init__(self, model: nn.Module, modules: Sequence[str], kind: str):
        self._model, self._modules, self._kind = model, list(modules), kind
        self._found: dict[str, Tensor] = {}
        self._group: _Group | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> "ExampleScores":
        # Weights are frozen, so the gradient needs somewhere to start from.
        embeddings = self._model.get_input_embeddings()
        self._handles = [embeddings.register_forward_hook(lambda *call: call[2].requires_grad_(True))]
        for name in self._modules:
            module = self._model.get_submodule(name)
            self._handles.append(module.register_forward_hook(self._watcher(name, module)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._found.clear()
        self._group = None

    def take(self) -> Tensor:
        """Return the micro-batch's scores, (B, M) in float64, and forget them.

        Raises:
            AllocationError: the loss depends on none of the modules.
        """
        if not self._found:
            raise AllocationError("no gradient reached any of the modules; expected a loss that depends on them")
        known = next(iter(self._found.values()))
        found = [self._found.get(name, torch.zeros_like(known)) for name in self._modules]
        self._found.clear()
        self._group = None
        return torch.stack(found, dim=1)

    def _watcher(self, name: str, module: nn.Module) -> Callable[..., Tensor]:
        def watch(_: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            inputs = arguments[0]
            if inputs.dim() != 3:
                raise AllocationError(
                    f"the input of '{name}' has the shape {tuple(inputs.shape)}, expected (examples, tokens, "
                    "features); what belongs to which example cannot be told"
                )
            # The same object, one call after the other: an address would do too, but is given again after checkpoints.
            if self._group is None or self._group.inputs() is not inputs:
                self._group = _Group(inputs)
            group = self._group
            group.members += 1
            return _Watch.apply(output, inputs, lambda x, g: self._add(name, module, group, x, g))

        return watch

    def _add(self, name: str, module: nn.Module, group: _Group, inputs: Tensor, gradients: Tensor) -> None:
        if name in self._found:
            raise AllocationError(
                f"'{name}' was used twice in one pass, so its gradient is a sum over uses; its sensitivity cannot be "
                "had from one of them"
            )
        if self._kind == "taylor":
            self._found[name] = absolute_taylor(inputs, gradients, plain_weight(module)).double()
            return
        shared = group.members > 1
        if shared and group.gram is None and prefers_grams(*inputs.shape[1:], gradients.shape[-1], shared=True):
            group.gram = input_gram(inputs)
        self._found[name] = squared_gradient_norm(inputs, gradients, group.gram).double()
        group.members -= 1
        if group.members == 0:
            group.gram = None


def plain_weight(module: nn.Module) -> Tensor:
    """Return a linear's weight (O, D) as numbers, that of a quantised one dequantised."""
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(module).detach()


@contextmanager
def frozen(model: nn.Module, checkpointing: bool = False):
    """Freeze a model's weights within the block, without dropout, which would make scores depend on its draw.

    Args:
        model: The model; how it stood before is restored.
        checkpointing: Recompute activations in the backward pass. Blocks do that in training mode only, so they alone
            are put into it.

    Raises:
        AllocationError: checkpointing is asked of a model that has none.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    modes = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval()
    model.requires_grad_(False)
    blocks = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if checkpointing:
        if not blocks or not getattr(model, "supports_gradient_checkpointing", False):
            raise AllocationError(f"{type(model).__name__} has no gradient checkpointing; measure without it")
        # transformers 5.23 renames the pair; 5.17 knows the older names only
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
        for block in blocks:
            block.training = True  # the block's own flag, not that of the dropout inside
    try:
        yield
    finally:
        if checkpointing:
            getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
        for module, mode in modes.items():
            module.training = mode
        for parameter, wanted in gradients.items():
            parameter.requires_grad_(wanted)
