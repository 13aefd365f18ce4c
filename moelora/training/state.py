"""Training state: what a killed run needs to end with the same bits as one that was not killed.

It lies outside the declared outputs, in a folder named for the hash of the resolved plan and the fingerprint, and is
replaced atomically.
"""

import os
import random
from pathlib import Path
from typing import Any

import numpy
import torch

from moelora.errors import OutputError


def trainable_tensors(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_state(path: Path, model: torch.nn.Module, optimizer: Any, scheduler: Any, progress: dict[str, Any]) -> None:
    """Write parameters, optimiser, schedule, random generators and progress.

    Raises:
        OutputError: the folder cannot be written; an older state stays as it was.
    """
    state = {
        "parameters": {name: tensor.detach().cpu() for name, tensor in trainable_tensors(model).items()},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "progress": progress,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write the training state {path}: {error}; check permissions and disk space"
        ) from error


def load_state(path: Path, model: torch.nn.Module, optimizer: Any, scheduler: Any) -> "dict[str, Any] | None":
    """Restore a state and return its progress; ``None`` when there is none or it cannot be read (training restarts)."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        parameters = trainable_tensors(model)
        if set(state["parameters"]) != set(parameters):
            return None
    except Exception:  # a damaged state only costs the steps it held
        return None
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["torch_rng"])
    if state["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda_rng"])
    return state["progress"]


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and Python; whatever draws after this call repeats."""
    random.seed(seed)
    numpy.random.seed(seed)  # noqa: NPY002, for libraries that draw from the global generator
    torch.manual_seed(seed)
