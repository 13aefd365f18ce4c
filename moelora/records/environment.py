"""What a number depends on besides its plan: versions, commit and hardware."""

import datetime
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "lm-eval", "numpy", "scikit-learn", "scipy")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that can change a number."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


@lru_cache(maxsize=1)
def commit() -> dict[str, Any]:
    """Return the commit of the checkout that runs and whether it was changed; empty outside a repository."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *words], capture_output=True, text=True, check=True, timeout=10
        ).stdout

    try:
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            for line in handle:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def now() -> str:
    """Return the time in UTC to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()


def environment(device: Any, started: str) -> dict[str, Any]:
    """Return the environment of a run on a torch device."""
    import torch

    import moelora

    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor()
    return {
        **versions(),
        **commit(),
        "moelora": moelora.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": str(torch.device(device).type),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "started": started,
        "finished": now(),
    }


def peak_memory_bytes(device: Any) -> int:
    """Return the peak memory so far: allocated on the GPU, or resident for the whole process on a CPU."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
