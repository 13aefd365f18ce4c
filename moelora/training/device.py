"""Where a process computes."""

import os
from typing import Any

import torch


def choose_device() -> Any:
    """Return the device of this process: its GPU where there is one, unless MOELORA_DEVICE says otherwise."""
    if named := os.environ.get("MOELORA_DEVICE"):
        return torch.device(named)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # several processes of a machine have a GPU each, which accelerate has made the current one
    return torch.device("cuda", torch.cuda.current_device()) if "LOCAL_RANK" in os.environ else torch.device("cuda")


def make_accelerator(plan: dict[str, Any]) -> Any:
    """Return the accelerator of this process for the plan's precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    precision = {"fp32": "no", "bf16": "bf16"}[plan["training"]["precision"]]
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision, cpu=choose_device().type == "cpu")
