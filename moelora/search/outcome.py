"""What became of a trial."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from moelora.secrets import hide_secrets


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        values: objective → value, of a trial that was completed.
        pruned: whether the pruner stopped it.
        reason: why there are no values.
        called_off: whether it ended for no reason of its own (an interruption, a full disk), so that it is tried again
            without being counted as a failure.
        details: what else is worth keeping: scores, seconds, parameters.
    """

    values: "Mapping[str, float] | None" = None
    pruned: bool = False
    reason: str = ""
    called_off: bool = False
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "reason", hide_secrets(self.reason))
