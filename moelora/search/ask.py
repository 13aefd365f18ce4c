"""Asking: which slots of a study still want a result, and the next trial for one of them.

A slot is one of the results that a study is to have; a trial is one try at it. A trial that was pruned, or that failed
for a reason of its own, is a result. One whose worker died is tried again with the same values, as often as the search
allows; the last of them is the result then.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from moelora.search.study import StudyFile

SLOT, LEASE, SEED, FINAL, REASON, CALLED_OFF, DETAILS = (
    "slot", "lease", "seed", "final", "reason", "called_off", "details",
)  # fmt: skip
"""User attributes of a trial."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A trial to carry out: Optuna's trial, its values, and the seed that everything in it derives from."""

    trial: Any
    slot: int
    seed: int
    values: Mapping[str, Any]

    @property
    def number(self) -> int:
        """Return the trial's number in the study."""
        return self.trial.number


def tries(trials: Iterable[Any], slot: int) -> list[Any]:
    """Return the trials of a slot, by number."""
    return sorted((t for t in trials if t.user_attrs.get(SLOT) == slot), key=lambda trial: trial.number)


def result(trials: Iterable[Any], slot: int, retries: int) -> "Any | None":
    """Return the trial that is a slot's result, or ``None`` while there is none.

    Args:
        trials: of the study.
        slot: which result.
        retries: how often a trial whose worker died is tried again.
    """
    from optuna.trial import TrialState

    died = 0
    for trial in tries(trials, slot):
        failed = trial.state == TrialState.FAIL
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or (failed and trial.user_attrs.get(FINAL)):
            return trial
        died += failed and not trial.user_attrs.get(CALLED_OFF)
        if died > retries:
            return trial
    return None


def open_slots(trials: list[Any], study: StudyFile) -> list[int]:
    """Return the slots without a result."""
    return [slot for slot in range(study.slots) if result(trials, slot, study.search["retries"]) is None]


def ask(study: StudyFile, slot: int, token: str) -> Asked:
    """Return a new trial for a slot.

    The values are those of the slot's last try where its worker died, those of the grid where there is one, and else
    what the sampler suggests. A worker may have died while it asked; then the sampler is asked again.

    Args:
        study: the study.
        slot: a slot without a result, on which the caller has a lease.
        token: of that lease; it is the first thing that the trial says, so that a sweep knows whose it is.
    """
    fixed = study.grid[slot] if study.grid is not None else None
    earlier = [trial for trial in tries(trials_of(study.open()), slot) if study.space.is_complete(trial.params)]
    if earlier:
        fixed = earlier[-1].params
    opened = study.open(fixed, slot)
    trial = opened.ask()
    trial.set_user_attr(LEASE, token)
    trial.set_user_attr(SLOT, slot)
    seed = study.trial_seed(slot)
    trial.set_user_attr(SEED, seed)
    return Asked(trial, slot, seed, study.space.suggest(trial))


def trials_of(opened: Any) -> list[Any]:
    """Return all trials of an opened study as they are in the storage now."""
    return opened.get_trials(deepcopy=False)
