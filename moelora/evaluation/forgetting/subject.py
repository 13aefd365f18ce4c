"""A run's model and the base that it started from."""

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch

from moelora.files import canonical_json
from moelora.models import fetch_model
from moelora.seeds import derive_seed
from moelora.training.identity import base_digest

DRAWS = 1000  # resamples behind an interval

AUTO_BATCH = 32  # examples of a forward pass where scoring chooses its own

_KEPT = 64
_kept: dict[tuple, Any] = {}


def changes_body(attached: Any) -> bool:
    """Return whether anything but a new head was trained; otherwise nothing can have been forgotten."""
    heads = set(attached.base.head_modules)
    names = (name for name, parameter in attached.model.named_parameters() if parameter.requires_grad)
    return any(not heads & set(name.split(".")) for name in names)


class Subject:
    """A run's model beside its base; what is true of the base is worked out once a process.

    Every method's adapter, switched off, is the base bit for bit (the battery holds all of them to that), so the
    runs of a process share it.
    """

    def __init__(self, attached: Any, plan: dict[str, Any], base_dir: "Path | None", device: Any):
        self.attached, self.plan, self.base_dir, self.device = attached, plan, base_dir, device
        self.model, self.tokenizer = attached.model, attached.base.tokenizer
        self.max_length, self.precision = plan["training"]["max_length"], plan["training"]["precision"]
        asked = plan["evaluation"]["batch_size"]
        self.batch_size = asked if isinstance(asked, int) else AUTO_BATCH
        self.head = plan["tasks"][0]["name"]  # one of the heads must answer, whatever it says
        identity = attached.base.identity or base_digest(plan, base_dir)
        settings = (self.max_length, self.precision, self.batch_size, str(device))
        self.key = (canonical_json(plan["model"]), identity, *settings)

    @contextlib.contextmanager
    def base(self) -> Iterator[torch.nn.Module]:
        """Give the base alone: the adapter is switched off, or the model loaded afresh where there is no adapter."""
        if self.attached.method.abilities.adapter:
            with self.model.disable_adapter():
                yield self.model
        else:
            outputs = 2 if self.plan["model"]["architecture"] == "encoder" else 0
            model, _ = fetch_model(self.plan["model"], outputs, self.base_dir)
            yield model.to(self.device).eval()

    def of_base(self, key: tuple, make: Callable[[torch.nn.Module], Any]) -> Any:
        """Return what ``make`` finds on the base, worked out once a process."""
        key = (*self.key, *key)
        if key not in _kept:
            with self.base() as model:
                _kept[key] = make(model)
            if len(_kept) > _KEPT:
                _kept.pop(next(iter(_kept)))
        return _kept[key]


@lru_cache(maxsize=16)
def resampling(count: int, *purpose: str) -> numpy.ndarray:
    """Return how often each of ``count`` things comes in each of `DRAWS` resamples, (DRAWS, count), read-only."""
    generator = numpy.random.default_rng(derive_seed("forgetting bootstrap", *purpose))
    counts = generator.multinomial(count, numpy.full(count, 1 / count), size=DRAWS).astype(float)
    counts.setflags(write=False)
    return counts


def interval(draws: "numpy.ndarray | list[float]") -> list[float]:
    """Return the ends of the middle 95 % of some draws."""
    return [float(end) for end in numpy.quantile(draws, [0.025, 0.975])]
