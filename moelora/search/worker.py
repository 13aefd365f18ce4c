"""Working on a study: claim a slot, ask, carry out, tell. Any number of workers may do so at once."""

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from moelora.errors import AllocationError, ConfigError, MoeloraError, TargetModulesError, first_line
from moelora.progress import logger
from moelora.search.ask import Asked, ask, open_slots, result, trials_of
from moelora.search.outcome import Outcome
from moelora.search.storage import refuse_parallel
from moelora.search.study import StudyFile
from moelora.search.tell import sweep, tell

Objective = Callable[[Asked], Outcome]

OF_THE_TRIAL = (AllocationError, ConfigError, TargetModulesError)
"""What a trial's own values can cause; other errors that moelora raises on purpose are the surroundings'."""


def work(study: StudyFile, objective: Objective, slots: "Sequence[int] | None" = None, wait: float = 2.0) -> list[Any]:
    """Carry out trials until every slot has its result, those of other workers included; return the results.

    Args:
        study: the study.
        objective: carries out a trial.
        slots: the slots to care for; all by default.
        wait: seconds between looks while only other workers are busy.

    Raises:
        ConfigError: the storage is for one worker, and another is at work.
        MoeloraError: data, model or disk stand in the way; the trial is open to be tried again.
    """
    wanted = list(range(study.slots)) if slots is None else list(slots)
    while True:
        if died := sweep(study):
            logger.warning("trials %s failed: their workers ended without a word", died)
        trials = trials_of(study.open())
        left = [slot for slot in open_slots(trials, study) if slot in wanted]
        if not left:
            return [result(trials, slot, study.search["retries"]) for slot in wanted]
        if not any(_try_slot(study, objective, slot) for slot in left):
            time.sleep(wait)


def _try_slot(study: StudyFile, objective: Objective, slot: int) -> bool:
    """Carry out a trial for a slot; return whether it was free."""
    lease = study.leases.claim(slot)
    if lease is None:
        return False
    with lease:
        others = {token for token, alive in study.leases.tokens().items() if alive} - {lease.token}
        if others:
            refuse_parallel(study.search["storage"], str(study.folder / "study.json"))
        # between our look and our claim another worker may have finished the slot
        if result(trials_of(study.open()), slot, study.search["retries"]) is None:
            carry_out(study, objective, ask(study, slot, lease.token))
    return True


def carry_out(study: StudyFile, objective: Objective, asked: Asked) -> None:
    """Carry out a trial and tell what became of it.

    Raises:
        MoeloraError: the surroundings stand in the way, not the trial's values; it is told as called off.
        KeyboardInterrupt: the worker is stopped; the trial is told as called off.
    """
    logger.info("trial %d for slot %d: %s", asked.number, asked.slot, _say(asked.values))
    try:
        outcome = objective(asked)
    except OF_THE_TRIAL as error:
        outcome = Outcome(reason=f"{type(error).__name__}: {error}")
    except (MoeloraError, KeyboardInterrupt) as error:
        reason = str(error) if isinstance(error, MoeloraError) else "interrupted"
        tell(study, asked.number, Outcome(reason=reason, called_off=True))
        raise
    except Exception as error:
        logger.error("trial %d failed:\n%s", asked.number, "".join(traceback.format_exception(error)))
        outcome = Outcome(reason=f"{type(error).__name__}: {first_line(error)}")
    if not tell(study, asked.number, outcome):
        logger.warning(
            "trial %d was failed by a sweep while it was in work: this worker did not renew its lease for more than "
            "%g s; its result does not count",
            asked.number,
            study.search["lease_seconds"],
        )


def _say(values: Any) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
