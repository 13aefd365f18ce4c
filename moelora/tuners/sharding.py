"""FSDP2 with our layers: which modules are sharded together, and how whole tensors are had again.

Our layers compute with the weights of modules inside them without calling those modules, and keep such weights for the
backward pass. So a unit of FSDP must hold a layer of ours whole: its parameters are gathered when the unit is called,
forward and backward, and not when a linear inside it is. The blocks of a transformer are such units; a unit for each
linear is not, and our layers then say so.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from moelora.errors import ConfigError


def shard(model: nn.Module, mesh: Any, reshard_after_forward: bool = True) -> int:
    """Shard a model's parameters in place, frozen and trained ones together: a unit a block, and one for the rest.

    Gradients are summed over the processes of the mesh, not averaged: divide the loss by what all of them count.

    Args:
        model: A model with or without adapters, on any device.
        mesh: A device mesh of one axis.
        reshard_after_forward: Whether a block's parameters are given up between forward and backward pass.

    Returns:
        The number of blocks.

    Raises:
        ConfigError: The model is quantised.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    packed = sorted(name for name, one in model.named_parameters() if not one.is_floating_point())
    if packed:
        raise ConfigError(
            f"{packed[0]} is quantised, and its packed weights and their constants cannot be sharded; launch "
            "without FSDP (every process then holds the quantised base model), or take the model whole"
        )
    found = blocks(model)
    for block in found:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo can only sum
    return len(found)


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a transformer: the members, with two linears or more, of the outermost lists of modules."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                members = [one for one in child if sum(hasattr(part, "in_features") for part in one.modules()) > 1]
                found.extend(members)
            else:
                look(child)

    look(model)
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Say whether a tensor is a process's part of a larger one."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(thing: Any) -> Any:
    """Return tensors, also within dicts and lists, as whole ones on the CPU; all processes must ask together."""
    if isinstance(thing, dict):
        return {key: whole(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [whole(value) for value in thing]
    if not isinstance(thing, Tensor):
        return thing
    tensor = thing.detach()
    return (tensor.full_tensor() if is_sharded(tensor) else tensor).cpu()


def own_part(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as its process's part where ``like`` is sharded, on the same device."""
    if not is_sharded(like):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    on_device = tensor.to(like.device_mesh.device_type)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


def trained(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trainable parameters of a model with their names."""
    yield from ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def place_tensors(model: nn.Module, optimizer: Any, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Put whole trained tensors, and an optimiser's state in whole tensors, into a model and its optimiser."""
    with torch.no_grad():
        for name, parameter in trained(model):
            parameter.copy_(own_part(tensors[name], parameter))
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [one for group in state["param_groups"] for one in group["params"]]
    parts = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state["state"]:
            parts[number] = {
                key: own_part(value, parameter) if getattr(value, "shape", ()) == parameter.shape else value
                for key, value in state["state"][number].items()
            }
    optimizer.load_state_dict({**state, "state": parts})


class WholeModel:
    """What is saved of a sharded model: its trained parameters, whole. Making one is for all processes together."""

    def __init__(self, model: nn.Module):
        self._tensors = {name: whole(parameter).requires_grad_() for name, parameter in trained(model)}

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and whole tensors."""
        yield from self._tensors.items()


class WholeOptimizer:
    """What is saved of the optimiser of a sharded model. Making one is for all processes together."""

    def __init__(self, optimizer: Any):
        self._state = whole(optimizer.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state in whole tensors."""
        return self._state


class EmptyModel:
    """Whole tensors in the shapes of a model's trained parameters, for a state to be read into."""

    def __init__(self, model: nn.Module):
        self._tensors = {
            name: torch.empty(parameter.shape, dtype=parameter.dtype).requires_grad_()
            for name, parameter in trained(model)
        }

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield names and whole tensors."""
        yield from self._tensors.items()

    @property
    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {name: tensor.detach() for name, tensor in self._tensors.items()}


class KeptState:
    """Stands in for an optimiser or a schedule that a state is read for, and keeps what it is given."""

    def __init__(self):
        self.state: dict[str, Any] = {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep the state."""
        self.state = state
