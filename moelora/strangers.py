"""An adapter from elsewhere: looked at as a whole before a model or a folder of results is touched.

Only safetensors and JSON are read, neither of which can run code. What is looked at without torch comes first: where
the files really lie, the header of the tensors, and whether the config names code or another method.
"""

import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moelora.errors import AdapterError, show
from moelora.files import read_object
from moelora.strict_json import parse_json

TENSOR_FILES = ("adapter_model.safetensors", "trainable.safetensors", "head.safetensors")
CONFIG_FILE = "adapter_config.json"
OTHER_FILES = (CONFIG_FILE, "identity.json")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill")
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Kinds of numbers that an adapter may be stored in, and their bytes."""

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of safetensors itself."""

MEANING = (
    "peft_type", "r", "lora_alpha", "alpha", "use_rslora", "use_dora", "dora", "bias", "lora_bias", "fan_in_fan_out",
    "alpha_pattern", "router", "experts", "num_experts", "experts_per_token", "top_p", "expert_capacity", "expert_r",
    "expert_alpha", "shared_a", "feed_forward_layout", "target_r", "init_r",
)  # fmt: skip
"""Keys of an adapter's config that say what it computes; shapes alone do not tell alpha, for example."""

_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_.:-]{0,499}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_LIBRARIES = ("transformers", "torch", "peft", "moelora")


def inspect(folder: Path) -> dict[str, Any]:
    """Return an adapter's config after a look at all of its files; empty where it has none.

    Args:
        folder: of the adapter.

    Raises:
        AdapterError: a file lies elsewhere or is none, there are only pickles, the tensors' header is damaged or names
            what is no weight, or the config names code. The message says what was found and what was expected.
        RecordError: the config is no JSON object.
    """
    for name in (*TENSOR_FILES, *OTHER_FILES):
        check_place(folder, name)
    _refuse_pickles(folder)
    for name in TENSOR_FILES:
        if (folder / name).is_file():
            read_header(folder / name)
    if not (folder / CONFIG_FILE).is_file():
        return {}
    config = read_object(folder / CONFIG_FILE, "adapter config", {})
    refuse_code(config, folder / CONFIG_FILE)
    return config


def check_place(folder: Path, name: str) -> None:
    """Refuse what is no ordinary file, or a link that leads out of the folder; the hub's cache links to its blobs."""
    path = folder / name
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise AdapterError(f"{path} is a link to nothing; expected a file") from None
        return
    except OSError as error:  # a link to itself, no permission
        raise AdapterError(f"{path} cannot be read: {error.strerror}; expected a file") from error
    if not stat.S_ISREG(kind):
        raise AdapterError(f"{path} is no file; expected one")
    root, target = folder.resolve(), path.resolve()
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else None
    if not target.is_relative_to(root) and target.parent != blobs:
        raise AdapterError(
            f"{path} is a link to {target}, outside of its folder; expected the file itself, copy it there"
        )


def _refuse_pickles(folder: Path) -> None:
    if any((folder / name).is_file() for name in TENSOR_FILES[:2]) or not folder.is_dir():
        return
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if pickles:
        raise AdapterError(
            f"{folder} holds {show(pickles[0])}, a pickle, which can run code when it is read; expected "
            f"{TENSOR_FILES[0]}. Whoever trained the adapter can save it so (save_pretrained of PEFT does)"
        )


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the kind of numbers and the shape of every tensor in a safetensors file, checked, without reading any.

    Raises:
        AdapterError: the header is longer than the file, no JSON, or does not describe the file's bytes; or a tensor
            has no plain name, or holds no floating-point numbers.
    """
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise AdapterError(
                f"adapter {path} cannot be read: its header is said to have {length} bytes, expected at most "
                f"{max(0, min(size - 8, LONGEST_HEADER))}; it is truncated or no safetensors file"
            )
        raw = handle.read(length)
    try:
        header = parse_json(raw.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError(f"found a {type(header).__name__}, expected an object")
    except ValueError as error:
        raise AdapterError(f"adapter {path} cannot be read: its header is no JSON ({error})") from error
    header.pop("__metadata__", None)
    found, ranges = {}, []
    for name, entry in header.items():
        if not _NAME.fullmatch(name):
            raise AdapterError(f"adapter {path} has a tensor called {show(name)}; expected names like those of modules")
        try:
            kind, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            count = math.prod(shape)
            whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
        except (KeyError, TypeError, ValueError) as error:
            raise AdapterError(
                f"adapter {path}: its header does not describe the tensor '{name}' ({error!r})"
            ) from error
        if kind not in FLOATS:
            raise AdapterError(
                f"adapter {path}: tensor '{name}' is of {show(kind)}, expected one of {', '.join(FLOATS)}"
            )
        if not whole or end - start != count * FLOATS[kind]:
            raise AdapterError(
                f"adapter {path}: tensor '{name}' of shape {list(shape)} has bytes {start!r:.40} to {end!r:.40}; "
                f"expected {count * FLOATS[kind]} of them"
            )
        found[name] = kind, shape
        ranges.append((start, end))
    end = 0
    for start, stop in sorted(ranges):
        if start != end:
            raise AdapterError(f"adapter {path} cannot be read: its tensors overlap or leave gaps at byte {end}")
        end = stop
    if end != size - 8 - length:
        raise AdapterError(
            f"adapter {path} cannot be read: it holds {size - 8 - length} bytes of tensors, expected {end}; "
            "it is truncated"
        )
    return found


def refuse_code(config: Mapping[str, Any], path: Path) -> None:
    """Refuse a config that names code of its own, or modules to import.

    Raises:
        AdapterError: as said.
    """
    for key in ("auto_map", "trust_remote_code", "custom_modules", "custom_module", "megatron_config"):
        if config.get(key):
            raise AdapterError(
                f"{path}: '{key}' is {show(config[key])}, which names code; expected none, nothing is run"
            )
    mapping = config.get("auto_mapping") or {}
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    named = {"megatron_core": config.get("megatron_core"), "auto_mapping.parent_library": library}
    for key, module in named.items():
        known = (*_LIBRARIES, "megatron") if key == "megatron_core" else _LIBRARIES
        if module is not None and (not isinstance(module, str) or module.partition(".")[0] not in known):
            raise AdapterError(f"{path}: '{key}' is {show(module)}, expected a module of {', '.join(known)}")


def refuse_other_base(config: Mapping[str, Any], model: Mapping[str, Any], folder: Path) -> None:
    """Refuse an adapter whose config names another model of the hub than the plan; local folders cannot be compared.

    Raises:
        AdapterError: names both.
    """
    theirs, ours = config.get("base_model_name_or_path"), model.get("source", {}).get("hub")
    ids = [one for one in (theirs, ours) if isinstance(one, str) and _HUB_ID.fullmatch(one) and not Path(one).is_dir()]
    if len(ids) == 2 and ids[0].rpartition("/")[2].lower() != ids[1].rpartition("/")[2].lower():
        raise AdapterError(
            f"adapter {folder} belongs to another base model: it is of {theirs}, this run is of {ours}; give "
            "an adapter of the same base model"
        )


def refuse_other_meaning(config: Mapping[str, Any], own: Mapping[str, Any], folder: Path) -> None:
    """Refuse an adapter whose config computes something else than the one that was attached, where both say a key.

    Args:
        config: the adapter's.
        own: that of the attached model.
        folder: of the adapter.

    Raises:
        AdapterError: names the key and both values.
    """
    for key in MEANING:
        ours = getattr(own.get(key), "value", own.get(key))  # PEFT has an enumeration of types
        if key in config and key in own and not _same(config[key], ours):
            raise AdapterError(
                f"adapter {folder} belongs to another {key}: it is of {key} {show(config[key])}, this run is of {key} "
                f"{show(ours)}; give an adapter of the same method and settings"
            )


def _same(theirs: Any, ours: Any) -> bool:
    empty = (None, {}, [], "none", False)
    return theirs == ours or (theirs in empty and ours in empty)


def refuse_odd_numbers(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse tensors with NaN or infinity.

    Raises:
        AdapterError: names the first such tensor and how many of its numbers are.
    """
    for name, tensor in sorted(tensors.items()):
        if not tensor.is_floating_point():
            raise AdapterError(f"adapter {path}: tensor '{name}' is of {tensor.dtype}, expected floating-point numbers")
        if odd := tensor.numel() - int(tensor.isfinite().sum()):
            raise AdapterError(
                f"adapter {path}: {odd} of the {tensor.numel()} numbers of tensor '{name}' are NaN or infinite, "
                "expected none; the training that left it diverged, or the file is damaged"
            )
