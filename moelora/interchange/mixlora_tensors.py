"""The tensors of MixLoRA adapters written by mixlora and moe-peft: their names, their shapes and where they are ours.

Their names for layer i, linear p and expert e::

    mixlora.layers.{i}.self_attn.{p}.lora_A.weight                     (R, in)
    mixlora.layers.{i}.mlp.moe_gate.weight                             (E, D)
    mixlora.layers.{i}.mlp.{p}.experts.{e}.lora_A.weight               (R, in)

and ``lora_B``, (out, R), beside each ``lora_A``. Ours keep the E experts of a linear stacked: A (E * R, in) and
B (out, E * R).
Source of the names: ``mixlora`` 0.2.3 and ``moe-peft`` 2.0.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from moelora.errors import AdapterError
from moelora.interchange.mixlora_config import FEED_FORWARD, ForeignSettings
from moelora.strangers import check_place, read_header, refuse_odd_numbers
from moelora.tuners.targets import base_modules

BINARY_FILE = "adapter_model.bin"
SAFE_FILE = "adapter_model.safetensors"
LAYERS = "model.layers"
ROLES = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


@dataclass(frozen=True)
class Place:
    """Where one foreign tensor lives in ours.

    Attributes:
        module: Full name of our layer's module in the base model.
        parameter: Name of the layer's parameter dict.
        expert: Which expert's share it is; None for the whole parameter.
        shape: Shape of the foreign tensor.
    """

    module: str
    parameter: str
    expert: int | None
    shape: tuple[int, int]

    def share(self, tensor: Tensor, rank: int) -> Tensor:
        """Return a view of the rows (of A) or columns (of B) of one expert of this rank."""
        if self.expert is None:
            return tensor
        return tensor.narrow(0 if self.parameter.endswith("_A") else 1, self.expert * rank, rank)


def find_parts(base: nn.Module, targets: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the full names of all gated blocks, and the target names that the attention has.

    Raises:
        AdapterError: The model has other modules than the format speaks of.
    """
    modules = base_modules(base)
    count = len(modules.get(LAYERS, ()))
    blocks = [f"{LAYERS}.{index}.mlp" for index in range(count)]
    lacking = [f"{block}.{part}" for block in blocks for part in FEED_FORWARD if f"{block}.{part}" not in modules]
    if lacking or not blocks:
        what = f"lacks {lacking[0]!r}" if blocks else f"has no layers at {LAYERS!r}"
        raise AdapterError(
            f"{type(base).__name__} {what}; the format speaks of {LAYERS}.<i>.mlp with {list(FEED_FORWARD)}, so the "
            "base model must be one with Llama's module names"
        )
    attention = [name for name in targets if name not in FEED_FORWARD and f"{LAYERS}.0.self_attn.{name}" in modules]
    return blocks, attention


def name_tensors(base: nn.Module, settings: ForeignSettings, attention: list[str]) -> Iterator[tuple[str, Place]]:
    """Yield the foreign name of every tensor of an adapter, and its place in ours."""
    modules = base_modules(base)

    def pair(stem: str, module: str, linear: nn.Module, parameter: str, expert: int | None):
        rank = settings.r if expert is None else settings.expert_r
        for factor, shape in (("A", (rank, linear.in_features)), ("B", (linear.out_features, rank))):
            yield f"{stem}.lora_{factor}.weight", Place(module, f"{parameter}_{factor}", expert, shape)

    for index in range(len(modules[LAYERS])):
        prefix, ours = f"mixlora.layers.{index}", f"{LAYERS}.{index}"
        for name in attention:
            module = f"{ours}.self_attn.{name}"
            yield from pair(f"{prefix}.self_attn.{name}", module, modules[module], "moelora", None)
        block = f"{ours}.mlp"
        shape = (settings.experts, modules[f"{block}.gate_proj"].in_features)
        yield f"{prefix}.mlp.moe_gate.weight", Place(block, "moelora_router", None, shape)
        for name, role in ROLES.items():
            linear = modules[f"{block}.{name}"]
            for expert in range(settings.experts):
                yield from pair(f"{prefix}.mlp.{name}.experts.{expert}", block, linear, f"moelora_{role}", expert)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of an adapter folder; safetensors are preferred.

    Raises:
        AdapterError: There is no weight file, it lies elsewhere, is truncated, or holds no finite numbers.
    """
    for name in (SAFE_FILE, BINARY_FILE):
        check_place(folder, name)
    path = next((folder / name for name in (SAFE_FILE, BINARY_FILE) if (folder / name).exists()), None)
    if path is None:
        raise AdapterError(f"{folder} holds neither {SAFE_FILE} nor {BINARY_FILE}; expected one of the two")
    try:
        if path.name == SAFE_FILE:
            read_header(path)
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except AdapterError:
        raise
    except Exception as error:  # the two readers raise a dozen types, none of them documented
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise AdapterError(
            f"{path} cannot be read ({reason}); it is truncated or holds more than tensors. Copy it again"
        ) from error
    plain = isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(one, Tensor) and one.layout == torch.strided and one.device.type != "meta"
        for name, one in weights.items()
    )
    if not plain:
        raise AdapterError(f"{path} does not hold a dictionary of tensors; expected names to tensors")
    refuse_odd_numbers(weights, path)
    return weights


def check_weights(weights: dict[str, Tensor], places: dict[str, Place]) -> None:
    """Compare what a file holds with what the config and the base model ask for.

    Raises:
        AdapterError: Tensors are missing, extra or of another shape.
    """
    missing, extra = sorted(places.keys() - weights.keys()), sorted(weights.keys() - places.keys())
    wrong = [
        f"{name} is {tuple(weights[name].shape)}, expected {place.shape}"
        for name, place in places.items()
        if name in weights and tuple(weights[name].shape) != place.shape
    ]
    problems = [
        f"{len(found)} {word}: {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}"
        for word, found in (("missing", missing), ("not expected", extra), ("of another shape", wrong))
        if found
    ]
    if problems:
        raise AdapterError(
            f"the adapter's tensors do not fit its config and this base model; {'; '.join(problems)}. "
            "Use the base model that the adapter was trained on"
        )
