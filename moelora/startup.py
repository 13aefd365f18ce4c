"""What a process of the command line does to begin soon: it leaves things unimported, and imports the rest quickly.

PEFT and transformers import bitsandbytes wherever it is installed, and it imports torch's compiler: about two seconds
of processor time before a run's first step. A process whose base models are not quantised runs as if it were absent.

Half a million objects come with the libraries, and while they come the garbage collector goes through all of them
again and again, and later whenever much else has come: about a second and a half of a run of minutes.
"""

import contextlib
import gc
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def leave_out_bitsandbytes(plans: Iterable[Path]) -> bool:
    """Hide bitsandbytes from this process unless a plan's base model needs it or may need it.

    Only a process that carries out these plans and nothing else may call this, before it imports PEFT.

    Args:
        plans: files of plans; without any, or with one that cannot be read, nothing is hidden.

    Returns:
        Whether it was hidden.
    """
    try:
        models = [json.loads(Path(path).read_text(encoding="utf-8"))["model"] for path in plans]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # the verb itself says what is wrong with the plan
    if not models or "bitsandbytes" in sys.modules or any(may_be_quantised(model) for model in models):
        return False
    sys.modules["bitsandbytes"] = None  # for the import system: not to be had
    return True


@contextlib.contextmanager
def quick_imports(alone: bool = True) -> Iterator[None]:
    """Import without the garbage collector, and keep it from what was imported for good.

    Args:
        alone: whether the process ends with its verb; nothing is done in another, where garbage of before would stay.
    """
    if not (alone and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def may_be_quantised(model: dict[str, Any]) -> bool:
    """Return whether a base model is quantised here or by its checkpoint; true where its config is not at hand yet."""
    source = model["source"]
    if model.get("quantisation"):
        return True
    if "hub" not in source:
        return False
    from huggingface_hub import try_to_load_from_cache

    folder = Path(source["hub"])
    path = folder / "config.json"
    if not folder.is_dir():
        path = try_to_load_from_cache(source["hub"], "config.json", revision=source.get("revision"))
    try:
        return "quantization_config" in json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return True
