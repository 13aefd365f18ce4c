"""What the routers of one model share during a forward pass, and what they leave behind.

The context learns the attention mask from the model's own forward, so that padding never counts, and
holds the routers' outputs afterwards. Router layers report to it only while the model's
forward runs; a recomputation in the backward pass (gradient checkpointing) computes the same things but
reports nothing, so the stashed outputs keep the graph of the forward.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from moelora.errors import AdapterError
from moelora.losses import BALANCE_LOSSES, BalanceLoss, concatenate
from moelora.routers import RouterOutput


@dataclass(frozen=True)
class Balance:
    """How an adapter's balance loss is formed: its name, coefficient, scope, the z-loss beside it, types' weight."""

    loss: str
    coefficient: float
    scope: str
    z_coefficient: float = 0.0
    delta: float = 0.1

    @property
    def active(self) -> bool:
        """Whether there is a loss at all."""
        return (self.loss != "none" and self.coefficient != 0) or self.z_coefficient != 0

    @property
    def by_sample(self) -> bool:
        """Whether the loss looks at the samples that tokens belong to."""
        return self.loss != "none" and BALANCE_LOSSES[self.loss].takes_delta

    @property
    def terms(self) -> "list[tuple[float, BalanceLoss]]":
        """Return what the loss is the sum of: coefficients and forms."""
        named = [(self.coefficient, BALANCE_LOSSES[self.loss])] if self.loss != "none" and self.coefficient else []
        return named + ([(self.z_coefficient, BALANCE_LOSSES["z_loss"])] if self.z_coefficient else [])

    def statistics(self, output: RouterOutput) -> list[tuple[Tensor, ...]]:
        """Return what each term is a value of, for one group of routers."""
        return [
            form.statistics(output, self.delta) if form.takes_delta else form.statistics(output)
            for _, form in self.terms
        ]

    def value(self, statistics: list[tuple[Tensor, ...]]) -> Tensor:
        """Return coefficient times loss, plus the z-loss with its own, of one group of routers."""
        total = statistics[0][0].new_zeros(())
        for (coefficient, form), own in zip(self.terms, statistics, strict=True):
            total = total + coefficient * form.value(*own)
        return total

    def group(self, module_name: str, output: RouterOutput) -> tuple:
        """Return the key under which routers are taken together."""
        if self.scope == "module":
            return (module_name,)
        shape = (output.experts, output.chosen.shape[-1])
        if self.scope == "model":
            return shape
        block = re.match(r"(.*\.\d+)(\.|$)", module_name)
        return (block.group(1) if block else module_name, *shape)


NO_BALANCE = Balance("none", 0.0, "module")


class RoutingContext:
    """Mask and router outputs of the last forward pass of one model."""

    def __init__(self):
        self.recording = 0
        self.sample_types: Tensor | None = None
        self._reset()

    def _reset(self) -> None:
        self.running = False
        self.opened_with_gradient = False
        self.attention_mask: Tensor | None = None
        # Lists: a module that is used twice in a pass routes twice.
        self.for_loss: list[tuple[str, str, RouterOutput, Balance]] = []
        self.recorded: list[tuple[str, RouterOutput]] = []

    def __getstate__(self) -> dict:
        # Stashed outputs are inside an autograd graph, which can be neither copied nor pickled.
        return {"recording": 0}

    def __setstate__(self, state: dict) -> None:
        self.recording = state["recording"]
        self.sample_types = None
        self._reset()

    def open(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Begin a forward pass of the whole model (a forward pre-hook)."""
        self._reset()
        self.running = True
        self.opened_with_gradient = torch.is_grad_enabled()
        mask = kwargs.get("attention_mask")
        if mask is None and args:
            mask = inspect.signature(module.forward).bind_partial(*args).arguments.get("attention_mask")
        self.attention_mask = mask

    def close(self, *_ignored) -> None:
        """End the forward pass (a forward hook that also runs after an exception).

        The mask stays until the next pass: gradient checkpointing routes again in between.
        """
        self.running = False
        self.sample_types = None

    def mask_of(self, shape: torch.Size) -> Tensor | None:
        """Return which of a module's tokens count, flattened to (T,); shape is that of its input, (..., D)."""
        try:
            return token_mask(self.attention_mask, shape[:-1])
        except AdapterError:
            if self.running:
                raise
            return None  # a module called by itself: the mask is that of another input

    def report(
        self,
        module_name: str,
        adapter: str,
        output: RouterOutput,
        shape: torch.Size,
        training: bool,
        balance: Balance,
    ) -> None:
        """Take a router's output if somebody wants it.

        Args:
            module_name: Full name of the module in the base model.
            adapter: Name of the adapter.
            output: The router's output for the flattened tokens.
            shape: Shape of the module's input, (..., D).
            training: Whether the module is in training mode.
            balance: The adapter's balance loss.
        """
        wanted = training and balance.active
        if not self.running or not (wanted or self.recording):
            return
        if wanted and self.opened_with_gradient and not torch.is_grad_enabled():
            raise AdapterError(
                "a balance loss has no gradient under reentrant gradient checkpointing; "
                "pass gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        samples, types = sample_axes(shape[:-1], self.sample_types, output.logits.device)
        output = replace(output, mask=token_mask(self.attention_mask, shape[:-1]), samples=samples, types=types)
        if wanted:
            self.for_loss.append((module_name, adapter, output, balance))
        if self.recording:
            self.recorded.append((module_name, output.detach()))


def token_mask(attention_mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    """Return which of a module's tokens count, flattened to (T,).

    Args:
        attention_mask: (B, S), 1 for tokens and 0 for padding, or None.
        shape: Leading axes of the module's input: (B, S), (B, N) with the N newest tokens of a
            cached sequence, (B * S,), or (B,) for one pooled token a sequence.

    Raises:
        AdapterError: The mask has another form.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() == 2:
        batch, length = attention_mask.shape
        mask = attention_mask.bool()
        if len(shape) == 2 and shape[0] == batch and shape[1] <= length:
            # With a key-value cache the mask covers the past too; only the newest tokens are here.
            return mask[:, length - shape[1] :].reshape(-1)
        if len(shape) == 1 and shape[0] == batch * length:
            return mask.reshape(-1)
        if len(shape) == 1 and shape[0] == batch:
            return None
    raise AdapterError(
        f"an attention mask of shape {tuple(attention_mask.shape)} does not say which of the tokens "
        f"{tuple(shape)} are padding; pass a mask (batch, length) or none"
    )


def sample_axes(
    shape: torch.Size, sample_types: Tensor | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Return each token's row of the batch and that row's type, (T,) each; None where the shape does not say.

    Args:
        shape: Leading axes of a module's input, (B, S) or (B,).
        sample_types: Type of each row, (B,), or None.
        device: Where the router's output is.

    Raises:
        AdapterError: There are other numbers of types than rows.
    """
    if len(shape) != 2:
        return None, None
    samples = torch.arange(shape[0], device=device).repeat_interleave(shape[1])
    if sample_types is None:
        return samples, None
    if sample_types.shape != (shape[0],):
        raise AdapterError(
            f"there are types for {tuple(sample_types.shape)} samples, but the batch has {shape[0]}; "
            "give one type a row with set_sample_types()"
        )
    return samples, sample_types.to(device=device, dtype=torch.long).index_select(0, samples)


def set_sample_types(model: nn.Module, types: Tensor | None) -> None:
    """Say the type, 0 or 1, of each row of the next batch, (B,): what LoRAMoE's localised balance is about."""
    for context in contexts(model):
        context.sample_types = types


def contexts(model: nn.Module) -> list[RoutingContext]:
    """Return the contexts of a model's router layers, each once."""
    found: dict[int, RoutingContext] = {}
    for module in model.modules():
        # Not getattr: where a module has no such attribute that is slow, and this walk runs once a step.
        context = module.__dict__.get("routing_context")
        if isinstance(context, RoutingContext):
            found[id(context)] = context
    return list(found.values())


def balance_loss(
    model: nn.Module, gather: "Callable[[Tensor], Tensor] | None" = None, counts: bool = True
) -> Tensor | None:
    """Return the balance loss of the last forward pass in training mode, a scalar with gradient.

    It is the sum over groups of routers and over adapters of coefficient times loss. Add it to the task
    loss, divided by the number of accumulation steps where the task loss is. None when there is nothing to
    add: the method has no balance loss, or the pass was in evaluation mode.

    Args:
        model: A model with layers of ours.
        gather: From a vector of this process, (S,), to those of all, (processes, S). Then the loss is that of all
            processes' tokens together, and its gradient on each process is the part that goes through its own tokens.
        counts: With ``gather``, whether this process's tokens count: false where there were more processes than rows.
    """
    groups: dict[tuple, tuple[list[RouterOutput], Balance]] = {}
    for place, context in enumerate(contexts(model)):
        for use, (module_name, adapter, output, balance) in enumerate(context.for_loss):
            key = (place, adapter, *balance.group(module_name, output))
            if balance.by_sample:
                key = (*key, use)  # tokens of several uses cannot be told apart by sample
            groups.setdefault(key, ([], balance))[0].append(output)
    balances = [balance for _, balance in groups.values()]
    found = [balance.statistics(concatenate(outputs)) for outputs, balance in groups.values()]
    if gather is not None and found:
        found = _merged(balances, found, gather, counts)
    total = None
    for balance, statistics in zip(balances, found, strict=True):
        value = balance.value(statistics)
        total = value if total is None else total + value.to(total.device)
    return total


def _merged(
    balances: list[Balance], found: list[list[tuple[Tensor, ...]]], gather: Callable[[Tensor], Tensor], counts: bool
) -> list[list[tuple[Tensor, ...]]]:
    """Return the statistics of all processes' tokens: one exchange for all groups of routers."""
    flat = [tensor for terms in found for statistics in terms for tensor in statistics]
    device, dtype = flat[0].device, max((one.dtype for one in flat), key=lambda one: one.itemsize)
    own = torch.cat([tensor.reshape(-1).to(device, dtype) for tensor in flat])
    every = gather(own if counts else own * 0)
    parts = iter(every.split([tensor.numel() for tensor in flat], dim=1))
    return [
        [
            form.merge(
                *(next(parts).reshape(-1, *tensor.shape).to(tensor.device, tensor.dtype) for tensor in statistics)
            )
            for (_, form), statistics in zip(balance.terms, terms, strict=True)
        ]
        for balance, terms in zip(balances, found, strict=True)
    ]


@contextmanager
def record_routing(model: nn.Module) -> Iterator[None]:
    """Keep every router's output during the block, in training and evaluation, for `routing`."""
    found = contexts(model)
    for context in found:
        context.recording += 1
    try:
        yield
    finally:
        for context in found:
            context.recording -= 1


def routing(model: nn.Module) -> Iterator[tuple[str, RouterOutput]]:
    """Yield (module name, router output) of the last forward pass made under `record_routing`.

    Names are those of the base model. Outputs are detached; tokens are flattened row by row, (B, S) to T,
    and ``mask`` says which of them count. Modules without a router do not appear.
    """
    for context in contexts(model):
        yield from context.recorded
