"""Cards: their memory, their peak, and the share of it that a step is taken to reach."""

import dataclasses
import subprocess
from collections.abc import Mapping
from typing import Any

from moelora.errors import ConfigError, nearest

GIB = 2**30
UTILISATION = 0.35
"""Share of the peak that a training step is taken to reach where nothing was measured; small batches reach less."""
SCORING_UTILISATION = 0.25
"""The same in scoring, whose batches are short and padded."""


@dataclasses.dataclass(frozen=True)
class Device:
    """A card.

    Attributes:
        name: As suites and the command call it.
        memory: Bytes; ``None`` where it is not known, and then nothing is refused.
        teraflops: Peak of bfloat16 products without sparsity, 10¹² operations a second.
        bandwidth: Bytes a second between memory and processor.
    """

    name: str
    memory: "int | None"
    teraflops: float
    bandwidth: float

    @property
    def usable(self) -> "int | None":
        """Return the bytes that tensors may take: 1 GiB goes to the driver, and a twentieth to gaps between tensors."""
        return None if self.memory is None else int(0.95 * self.memory) - GIB


# name: GiB, teraflops, GB/s, all as the makers' data sheets have them
_KNOWN = {
    "l4-24": (24, 121, 300),
    "rtx-3090": (24, 71, 936),
    "rtx-4090": (24, 165, 1008),
    "a6000-48": (48, 155, 768),
    "l40s-48": (48, 362, 864),
    "a100-40": (40, 312, 1555),
    "a100-80": (80, 312, 2039),
    "h100-80": (80, 989, 3350),
    "h200-141": (141, 989, 4800),
}
DEVICES = {name: Device(name, gib * GIB, peak, rate * 1e9) for name, (gib, peak, rate) in _KNOWN.items()}
DEFAULT = "a100-80"


def choose_device(asked: Mapping[str, Any]) -> Device:
    """Return the card that a suite's ``preflight`` describes.

    Args:
        asked: ``device``, ``device_memory_gib`` and ``teraflops``, each of which may be absent. Memory and peak count
            before those of the named card. Without either the memory is that of the first card here, if there is one.

    Raises:
        ConfigError: The card's name is unknown.
    """
    name = asked.get("device")
    if name is not None and name not in DEVICES:
        raise ConfigError(
            f"unknown device '{name}'{nearest(name, set(DEVICES))}; give others by device_memory_gib and teraflops"
        )
    known = DEVICES[name or DEFAULT]
    gib, peak = asked.get("device_memory_gib"), asked.get("teraflops")
    memory = int(gib * GIB) if gib else known.memory if name else find_memory()
    title = name or (f"a card of {gib:g} GiB" if gib else "the card here" if memory else "an unknown card")
    return Device(title, memory, float(peak or known.teraflops), known.bandwidth)


def find_memory() -> "int | None":
    """Return the bytes of the first card of this machine, or nothing where there is none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return int(found[0]) * 2**20 if found and found[0].isdigit() else None
