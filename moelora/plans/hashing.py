"""The identity of a plan."""

import hashlib
from collections.abc import Mapping
from typing import Any

from moelora.files import canonical_json

WATCHED = "diagnostics"
"""The key of a plan that says what is watched while a run is scored; it changes no number."""


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Return the identity of a plan: SHA-256 of its canonical JSON, the first 16 hex digits.

    What is only watched is left out, so that a run can be diagnosed later without training it again.
    """
    identity = {key: value for key, value in plan.items() if key != WATCHED}
    return hashlib.sha256(canonical_json(identity).encode("utf-8")).hexdigest()[:16]
