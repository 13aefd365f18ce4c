"""The identity of a plan."""

import hashlib
from collections.abc import Mapping
from typing import Any

from moelora.files import canonical_json

WATCHED = ("diagnostics", "forgetting")
"""The keys of a plan that say what is watched while a run is scored, or measured after it; they change no score."""


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Return the identity of a plan: SHA-256 of its canonical JSON, the first 16 hex digits.

    What is only watched is left out, so that a run can be watched later without training it again.
    """
    identity = {key: value for key, value in plan.items() if key not in WATCHED}
    return hashlib.sha256(canonical_json(identity).encode("utf-8")).hexdigest()[:16]
