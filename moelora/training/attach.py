"""From a resolved plan to a model that is ready to train: base model, head, method, seed."""

import collections
import dataclasses
from pathlib import Path
from typing import Any

import torch

from moelora.errors import AdapterError, ConfigError
from moelora.methods import AttachContext, Method, get_method
from moelora.models import BaseModel, load_base_model
from moelora.seeds import derive_seed
from moelora.strangers import read_header, refuse_odd_numbers
from moelora.tasks import Task
from moelora.training.matching import Matched, match_rank
from moelora.training.state import seed_everything, trainable_tensors

HEAD_FILE = "head.safetensors"


@dataclasses.dataclass
class Attached:
    """A model with its method, and what the record says of it."""

    model: torch.nn.Module
    base: BaseModel
    method: Method
    settings: Any
    context: AttachContext
    matched: "Matched | None"

    def parameters(self) -> dict[str, Any]:
        """Return the record's parameter counts: trainable as counted, parts from the closed formula.

        Raises:
            ConfigError: the two disagree, so the page's formula is wrong.
        """
        counts = self.method.parameters(self.base.shapes, self.settings, self.context)
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        if self.method.abilities.trains and trainable != counts.trainable:
            raise ConfigError(
                f"method '{self.method.name}' trains {trainable} parameters, but its page's closed formula gives "
                f"{counts.trainable}; correct 'parameters' in moelora/methods/{self.method.name}.py"
            )
        parts = dataclasses.asdict(counts)
        if not counts.frozen:
            del parts["frozen"]
        return {
            "trainable": counts.trainable,
            "active": parts.pop("active"),
            "total": self.base.shapes.total_parameters + counts.experts + counts.router + counts.frozen,
            "parts": parts,
        }

    def layers(self) -> list[dict[str, Any]]:
        """Return what was attached: type, count and dtype of the adapter's layers."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        found: collections.Counter = collections.Counter()
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                dtypes = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.requires_grad}
                found[type(module).__name__, ",".join(sorted(dtypes)) or "none"] += 1
        return [{"type": kind, "count": count, "dtype": dtype} for (kind, dtype), count in sorted(found.items())]


def attach(
    plan: dict[str, Any], tasks: list[Task], base_dir: "Path | None", device: Any, total_steps: int = 0
) -> Attached:
    """Load the base model and attach the plan's method to it.

    The adapter's first values depend on the seed and the variant's method; the head's on task and seed alone.
    """
    base = load_base_model(plan["model"], tasks, plan["seed"], base_dir)
    method = get_method(plan["method"])
    matched = match_rank(plan["match"], base.shapes) if plan.get("match") else None
    settings = matched.settings if matched else method.make_settings(plan["settings"])
    context = AttachContext(base.shapes, base.head_modules, plan.get("allocation"), total_steps)
    return attach_method(base, method, settings, context, plan["seed"], device, matched)


def attach_method(
    base: BaseModel,
    method: Method,
    settings: Any,
    context: AttachContext,
    seed: int,
    device: Any,
    matched: "Matched | None" = None,
) -> Attached:
    """Attach a method to a loaded model; the adapter's first values come from the seed."""
    seed_everything(derive_seed("adapter", seed))
    model = method.attach(base.model, settings, context).to(device)
    return Attached(model, base, method, settings, context, matched)


def recompute_activations(model: torch.nn.Module, training: dict[str, Any]) -> None:
    """Let the blocks compute their activations again in the backward pass, where a plan's training asks for it.

    The update is the same; a step keeps the input of each block instead of all that is inside.

    Raises:
        ConfigError: the model has no gradient checkpointing.
    """
    if not training.get("checkpointing"):
        return
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(inner, "supports_gradient_checkpointing", False):
        raise ConfigError(
            f"{type(inner).__name__} has no gradient checkpointing; take 'checkpointing' out of its training"
        )
    # reentrant checkpointing would lose the gradient of balance losses
    getattr(inner, "activation_checkpointing_enable", inner.gradient_checkpointing_enable)({"use_reentrant": False})


def adapter_file(folder: Path) -> Path:
    """Return the file that holds an adapter's tensors, or the trained tensors of a method without an adapter."""
    adapter = folder / "adapter_model.safetensors"
    return adapter if adapter.is_file() else folder / "trainable.safetensors"


def frozen_head(attached: Attached) -> dict[str, torch.nn.Parameter]:
    """Return the tensors of a head that the method leaves at its random first values, by their names in the base."""
    if attached.method.abilities.trains_head:
        return {}
    found = {}
    for name, parameter in attached.model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if not parameter.requires_grad and plain.startswith(tuple(f"{head}." for head in attached.base.head_modules)):
            found[plain] = parameter
    return found


def save_adapter(attached: Attached, folder: Path) -> None:
    """Write the adapter in PEFT's format; a method without an adapter writes the tensors it trained.

    PEFT keeps target lists in sets, so its JSON is rewritten with sorted lists: equal runs write equal bytes. A head
    that stays at its random first values is written beside the adapter: PEFT's file would not say what it was.
    """
    import json

    from safetensors.torch import save_file

    from moelora.files import atomic_write_json

    folder.mkdir(parents=True, exist_ok=True)
    if not attached.method.abilities.adapter:
        tensors = {name: p.detach().cpu().contiguous() for name, p in trainable_tensors(attached.model).items()}
        save_file(tensors, folder / "trainable.safetensors")
        return
    if head := frozen_head(attached):
        save_file({name: p.detach().cpu().contiguous() for name, p in head.items()}, folder / HEAD_FILE)
    attached.model.save_pretrained(folder, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in config.items():
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            config[key] = sorted(value)
    config["base_model_name_or_path"] = attached.base.model.config.name_or_path or None
    atomic_write_json(path, config)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card template says nothing about this run


def load_adapter(attached: Attached, folder: Path) -> None:
    """Load trained tensors into a freshly attached model, which stays as it is unless all of them fit.

    Raises:
        AdapterError: the file is missing, truncated, or its tensors are not those of this model and method.
    """
    path = adapter_file(folder)
    tensors = read_tensors(path)
    head = frozen_head(attached)
    head_tensors = read_tensors(folder / HEAD_FILE) if head else {}
    check_tensors(head_tensors, head, folder / HEAD_FILE, attached)
    if attached.method.abilities.adapter:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        expected = dict(get_peft_model_state_dict(attached.model, save_embedding_layers=False))
        check_tensors(tensors, expected, path, attached)
        set_peft_model_state_dict(attached.model, tensors)
    else:
        own = trainable_tensors(attached.model)
        check_tensors(tensors, own, path, attached)
        copy_tensors(tensors, own)
    copy_tensors(head_tensors, head)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in a file.

    Raises:
        AdapterError: the file is missing or truncated, or its header says what cannot be.
    """
    from safetensors.torch import load_file

    try:
        read_header(path)
        return load_file(path)
    except AdapterError:
        raise
    except Exception as error:  # safetensors raises its own types for truncated headers and data
        raise AdapterError(
            f"adapter {path} cannot be read ({error}); delete its run's train.json and train again"
        ) from error


def check_tensors(tensors: dict, expected: dict, path: Path, attached: Attached) -> None:
    """Refuse tensors whose names or shapes are not those of the attached model, or which hold what is no number.

    Raises:
        AdapterError: as said.
    """
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    own = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if found != own:
        raise AdapterError(
            f"adapter {path} does not fit method '{attached.method.name}' on this model: {_differences(found, own)}. "
            "It belongs to another base model, method or setting"
        )
    refuse_odd_numbers(tensors, path)


def _differences(found: dict[str, tuple], own: dict[str, tuple]) -> str:
    """Return in words which tensors are missing, too many or of another shape."""
    wrong = [
        f"{name} is {found[name]}, expected {own[name]}"
        for name in sorted(own.keys() & found)
        if found[name] != own[name]
    ]
    kinds = (
        ("missing", sorted(own.keys() - found.keys())),
        ("not expected", sorted(found.keys() - own.keys())),
        ("of another shape", wrong),
    )
    return "; ".join(
        f"{len(names)} {word}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for word, names in kinds
        if names
    )


def copy_tensors(tensors: dict, own: "dict[str, torch.nn.Parameter]") -> None:
    """Copy tensors into parameters of the same names."""
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])
