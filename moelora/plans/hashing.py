"""The identity of a plan."""

import hashlib
from collections.abc import Mapping
from typing import Any

from moelora.files import canonical_json


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Return the identity of a plan: SHA-256 of its canonical JSON, the first 16 hex digits."""
    return hashlib.sha256(canonical_json(plan).encode("utf-8")).hexdigest()[:16]
