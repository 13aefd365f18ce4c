"""Before a large suite begins: what will be run, what it takes, and what cannot work. Nothing here needs torch."""

from moelora.preflight.estimate import estimate

__all__ = ["estimate"]
