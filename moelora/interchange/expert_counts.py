"""Read and write LoRA-SMoE's file of experts per module: one JSON object from module name to count.

A module without experts is left out of the file. Names are those of weights in some of its files, with ``.weight`` at
the end. Source: ``test_expert_num.json`` and the notebook of EMLS-ICTCAS/LoRA-SMoE.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moelora.errors import AllocationError, nearest
from moelora.files import atomic_write_json, read_json

if TYPE_CHECKING:
    from torch import nn

SUFFIX = ".weight"


def read_expert_counts(path: "Path | str", model: "nn.Module") -> dict[str, int]:
    """Return the experts of each module of a model that a file names; the value of `MixtureConfig.experts`.

    Args:
        path: The file. A name may end in ``.weight`` and may lack leading parts ("layers.0.self_attn.q_proj") or have
            PEFT's ("base_model.model."), as long as it means exactly one linear module.
        model: The base model.

    Returns:
        Full module name → count, in the order of the file; modules of count 0 are absent.

    Raises:
        AllocationError: The file is no such object, a count is not a whole number, a name means no linear module of the
            model or several, or two names mean the same one.
        RecordError: The file is missing or not JSON.
    """
    from moelora.tuners.targets import base_modules, is_linear

    return read_counts(path, [name for name, module in base_modules(model).items() if is_linear(module)])


def read_counts(path: "Path | str", linear: list[str]) -> dict[str, int]:
    """Return the experts of each module that a file names, as `read_expert_counts` does, from names alone.

    Args:
        path: The file.
        linear: Full names of the linear modules that the model has.
    """
    document = read_json(path, "counts of experts")
    if not isinstance(document, dict):
        raise AllocationError(f"{path} holds a {type(document).__name__}; expected an object from module name to count")
    counts: dict[str, int] = {}
    for name, count in document.items():
        _check_count(name, count, path)
        full = _full_name(name, linear, path)
        if full in counts:
            raise AllocationError(f"{path} names {full} twice, the second time as {name!r}; keep one")
        counts[full] = count
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        raise AllocationError(f"{path} gives no module an expert; expected at least one positive count")
    return counts


def write_expert_counts(path: "Path | str", counts: dict[str, int]) -> None:
    """Write module name → count in LoRA-SMoE's form: no suffix, and no modules of count 0.

    Raises:
        AllocationError: A count is not a whole number from 0, or there is no positive one.
        OutputError: The file cannot be written.
    """
    for name, count in counts.items():
        _check_count(name, count, path)
    kept = {name.removesuffix(SUFFIX): count for name, count in counts.items() if count}
    if not kept:
        raise AllocationError(f"no module has an expert, so {path} would say nothing; expected a positive count")
    atomic_write_json(path, kept)


def _check_count(name: str, count: Any, path: "Path | str") -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise AllocationError(f"{path}: the count of {name!r} is {count!r}; expected a whole number from 0")


def _full_name(name: str, linear: list[str], path: "Path | str") -> str:
    """Return the one linear module that a name means."""
    stem = name.removesuffix(SUFFIX).removeprefix("base_model.model.")
    hits = [one for one in linear if one == stem] or [one for one in linear if one.endswith(f".{stem}")]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise AllocationError(f"{path}: {name!r} could mean any of {hits[:3]}; write the full name")
    raise AllocationError(
        f"{path}: {name!r} is no linear module of the model{nearest(stem, set(_same_layer(stem, linear)))}"
    )


def _same_layer(stem: str, linear: list[str]) -> list[str]:
    """Return the modules of the layer that a name speaks of, or one layer's when it has no such."""
    numbers = re.findall(r"\.(\d+)\.", stem) or ["0"]
    return [one for one in linear if f".{numbers[0]}." in one] or [one for one in linear if ".0." in one] or linear
