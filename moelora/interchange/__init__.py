"""Files that other people's programs write and read: MixLoRA adapters and LoRA-SMoE's counts of experts.

Importing this package is light; torch and PEFT are imported with the function that needs them::

    from moelora.interchange import load_mixlora, save_mixlora
    model = load_mixlora(base_model, "folder of a mixlora or moe-peft adapter")
"""

import importlib
from typing import Any

_HOMES = {
    "load_mixlora": "moelora.interchange.mixlora",
    "save_mixlora": "moelora.interchange.mixlora",
    "read_expert_counts": "moelora.interchange.expert_counts",
    "write_expert_counts": "moelora.interchange.expert_counts",
}

__all__ = ["load_mixlora", "save_mixlora", "read_expert_counts", "write_expert_counts"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
