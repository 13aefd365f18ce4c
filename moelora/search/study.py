"""A study: its identity, its sampler and pruner, and the file through which every command finds it.

``study.json`` states everything about a study: the search as the suite has it, the plan that trials vary, and what was
measured or built for it. Their digest is part of the study's name, so a changed search or a changed method begins a
new study in the same storage, and one that only asks for more trials goes on.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from moelora.errors import RecordError
from moelora.files import canonical_json, read_json
from moelora.plans.hashing import WATCHED
from moelora.search.count import count_trials
from moelora.search.leases import Leases
from moelora.search.space import Space, read_space
from moelora.search.storage import open_storage
from moelora.seeds import derive_seed

OBJECTIVES = {"score": "maximize", "trainable_parameters": "minimize", "step_seconds": "minimize"}
FREE = ("trials", "storage", "retries", "lease_seconds")
"""Keys of a search that change no trial."""


@dataclasses.dataclass(frozen=True)
class StudyFile:
    """A study's document and the folder that it lies in."""

    folder: Path
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the study's name in its storage."""
        return self.document["name"]

    @property
    def search(self) -> Mapping[str, Any]:
        """Return the search as the suite has it."""
        return self.document["search"]

    @property
    def objectives(self) -> list[str]:
        """Return what is measured, in the order of the values."""
        return list(self.search["objectives"])

    @cached_property
    def space(self) -> Space:
        """Return the space."""
        return read_space(self.search["space"], str(self.folder / "study.json"))

    @cached_property
    def leases(self) -> Leases:
        """Return the study's leases."""
        return Leases(self.folder / "leases" / self.name, self.search["lease_seconds"])

    @cached_property
    def storage(self) -> Any:
        """Return Optuna's storage, opened once."""
        return open_storage(self.search["storage"], self.folder)

    @cached_property
    def slots(self) -> int:
        """Return how many results the study is to have."""
        return count_trials(self.search, self.space)

    @cached_property
    def grid(self) -> "list[dict] | None":
        """Return the configurations of a grid by slot; ``None`` for the other samplers."""
        return self.space.shuffled_grid(self.search["seed"]) if self.search["sampler"]["name"] == "grid" else None

    def trial_seed(self, slot: int) -> int:
        """Return the seed of a slot's trials: from the study's seed and the slot, and none that a run has."""
        again = 0
        while (seed := derive_seed("search trial", self.search["seed"], slot, again)) in self.document["run_seeds"]:
            again += 1
        return seed

    def open(self, fixed: "Mapping[str, Any] | None" = None, slot: "int | None" = None) -> Any:
        """Return Optuna's study.

        Args:
            fixed: values that the next trial is to have, whatever the sampler says.
            slot: for which a trial is to be asked for.

        Raises:
            RecordError: the storage has no such study.
        """
        import optuna

        sampler: Any = slot_sampler(self.search, slot)
        if fixed is not None:
            sampler = optuna.samplers.PartialFixedSampler(dict(fixed), sampler)
        try:
            return optuna.load_study(
                study_name=self.name, storage=self.storage, sampler=sampler, pruner=make_pruner(self.search["pruner"])
            )
        except KeyError as error:
            raise RecordError(
                f"the storage '{self.search['storage']}' of {self.folder} has no study '{self.name}'; "
                "say moelora search create, which makes it"
            ) from error

    def create(self) -> None:
        """Make the study in its storage; nothing happens when it is there."""
        import optuna

        with self.leases.lock():  # two that make the tables of a new database at once break each other
            optuna.create_study(
                study_name=self.name,
                storage=self.storage,
                directions=[OBJECTIVES[name] for name in self.objectives],
                load_if_exists=True,
            )


def open_study_file(path: "Path | str") -> StudyFile:
    """Return the study that a ``study.json`` describes.

    Raises:
        RecordError: the file is missing, truncated or something else.
    """
    path = Path(path)
    document = read_json(path, "study")
    if not isinstance(document, dict) or not {"name", "search", "plan", "run_seeds"} <= document.keys():
        raise RecordError(f"{path} is no study: expected the keys name, search, plan and run_seeds; make it again")
    return StudyFile(path.parent, document)


def study_document(
    search: Mapping[str, Any],
    plan: Mapping[str, Any],
    *,
    sensitivities: list[dict[str, str]],
    sources: str,
    fingerprint: str,
) -> dict[str, Any]:
    """Return what ``study.json`` says.

    Args:
        search: ``search``, ``allocation`` and ``run_seeds`` as the suite's expansion writes them.
        plan: the plan that the trials vary.
        sensitivities: path and sum of each file that allocations are made from.
        sources: digest of built-in data and base model.
        fingerprint: of the code behind the trials.
    """
    inner = search["search"]
    identity = {
        "search": {key: value for key, value in inner.items() if key not in FREE},
        "allocation": search["allocation"],
        "plan": {key: value for key, value in plan.items() if key not in WATCHED},
        "sensitivities": sorted(entry["sha256"] for entry in sensitivities),
        "sources": sources,
        "fingerprint": fingerprint,
    }
    digest = hashlib.sha256(canonical_json(identity).encode("utf-8")).hexdigest()[:12]
    return {
        "schema": 1,
        "name": f"{plan['suite']}-{digest}",
        **search,
        "plan": plan,
        "sensitivities": sensitivities,
        "sources": sources,
        "fingerprint": fingerprint,
    }


def make_sampler(settings: Mapping[str, Any], seed: int) -> Any:
    """Return one of Optuna's samplers."""
    from optuna import samplers

    name, startup = settings["name"], settings["startup_trials"]
    if name == "tpe":
        # grouped, because parameters that only count sometimes are otherwise drawn by themselves
        return samplers.TPESampler(
            seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=settings["population"])
    if name == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)  # random; and a grid's values are fixed for each slot


def make_pruner(settings: "Mapping[str, Any] | None") -> Any:
    """Return one of Optuna's pruners; steps are optimiser steps."""
    from optuna import pruners

    if settings is None:
        return pruners.NopPruner()
    if settings["name"] == "median":
        return pruners.MedianPruner(
            n_startup_trials=settings["startup_trials"], n_warmup_steps=settings["warmup_steps"]
        )
    return pruners.SuccessiveHalvingPruner(min_resource=settings["every_steps"])


def slot_sampler(search: Mapping[str, Any], slot: "int | None") -> Any:
    """Return a sampler that is made anew for each trial, seeded by the study's seed and the trial's slot.

    A job opens the study afresh: a sampler with the study's own seed would suggest to each job what it suggested to
    the first. And a trial that is tried again has another number, but the same slot.
    """
    from optuna.samplers import BaseSampler

    class SlotSampler(BaseSampler):
        """Hands everything to a sampler of the slot's own seed."""

        def __init__(self, make: Callable[[int], Any], seed: int):
            self.make, self.seed, self.inner = make, seed, None

        def make_inner(self, trial):
            own = slot if slot is not None else trial.user_attrs.get("slot", trial.number)
            return self.make(derive_seed("search sampler", self.seed, own))

        def before_trial(self, study, trial):
            self.inner = self.make_inner(trial)
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study, trial):
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study, trial, search_space):
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(self, study, trial, param_name, param_distribution):
            return self.inner.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study, trial, state, values):
            inner = self.inner or self.make_inner(trial)
            inner.after_trial(study, trial, state, values)

    return SlotSampler(lambda seed: make_sampler(search["sampler"], seed), search["seed"])
