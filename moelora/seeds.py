"""Seeds derived from declared axes.

A component names the axes that it may vary with; whatever it does not name cannot change it. The order of the data
names task and seed and never the method, so every method sees the same examples in the same order.
"""

import hashlib


def derive_seed(purpose: str, *axes: "str | int") -> int:
    """Return a 31-bit seed that depends on the purpose and the axes alone.

    Args:
        purpose: what the seed is for, such as ``"data order"``.
        axes: the axes that it varies with, such as the task's name and the run's seed.
    """
    text = "\x1f".join([purpose, *map(str, axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF
