"""Where a process computes."""

import os
from typing import Any

import torch


def choose_device() -> Any:
    """Return the device of this process: the GPU where there is one, unless MOELORA_DEVICE says otherwise."""
    return torch.device(os.environ.get("MOELORA_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))


def make_accelerator(plan: dict[str, Any]) -> Any:
    """Return the accelerator of this process for the plan's precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = {"fp32": "no", "bf16": "bf16"}[plan["training"]["precision"]]
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=choose_device().type == "cpu")
