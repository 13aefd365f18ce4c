"""What a suite expands to: runs, the jobs that carry them, and the files that say so."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from moelora.files import pretty_json, write_if_different
from moelora.fingerprint import variant_fingerprint
from moelora.plans import layout
from moelora.plans.printing import print_plans
from moelora.plans.variants import Variant, is_untrained

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Run:
    """One plan, where it lies, and the axes that a reader looks for. Paths are relative to the suite's folder."""

    plan: Mapping[str, Any]
    folder: str
    model: str
    task: str
    variant: Variant
    label: str
    regime: str
    seed: int
    transfer: bool = False

    @property
    def parent(self) -> "str | None":
        """Return the folder of the run whose adapter this one starts from."""
        return self.plan["pending"].get("parent", {}).get("run")

    @property
    def plan_path(self) -> str:
        """Return where the plan is written."""
        return layout.plan(self.folder)

    @property
    def pending_files(self) -> list[str]:
        """Return the files that must exist before the plan can be resolved."""
        pending = self.plan["pending"]
        files = [
            pending.get("allocation"),
            pending.get("learning_rate"),
            pending.get("match", {}).get("allocation"),
            pending.get("search"),
        ]
        return [path for path in files if path]


@dataclasses.dataclass(frozen=True)
class Job:
    """Runs that share one process, so that its start-up is paid once."""

    name: str
    runs: tuple[Run, ...]

    @property
    def model(self) -> str:
        """Return the model that all runs of the job share."""
        return self.runs[0].model

    @property
    def manifest(self) -> str:
        """Return what the finished job leaves, relative to the suite's folder."""
        return layout.manifest(self.name)

    @property
    def pending_files(self) -> list[str]:
        """Return the files that its plans wait for, sorted."""
        return sorted({path for run in self.runs for path in run.pending_files})


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One file of experts per module: whose, on which model, and the tasks whose sensitivities it is made from."""

    model: str
    variant: Variant
    tasks: tuple[str, ...]

    @property
    def sensitivities(self) -> list[str]:
        """Return the files that it is made from."""
        score = self.variant.allocation["score"]
        return [layout.sensitivity(self.model, task, score) for task in self.tasks]


@dataclasses.dataclass(frozen=True)
class Expansion:
    """Everything that a suite asks for: documents, runs and jobs.

    ``planned`` are the runs of the whole grid, ``runs`` those that the suite's filter ``tasks`` leaves: a filter
    must not change what the other tasks contribute to an allocation, or it would change numbers.
    """

    suite: Mapping[str, Any]
    models: Mapping[str, dict]
    tasks: Mapping[str, dict]
    variants: tuple[Variant, ...]
    planned: tuple[Run, ...]
    runs: tuple[Run, ...]
    jobs: tuple[Job, ...]
    search: "Mapping[str, Any] | None" = None

    @cached_property
    def job_by_name(self) -> dict[str, Job]:
        """Return the jobs by name."""
        return {job.name: job for job in self.jobs}

    @cached_property
    def methods(self) -> list[str]:
        """Return the methods in use, sorted."""
        return sorted({variant.method for variant in self.variants})

    @cached_property
    def _runs_by_model(self) -> dict[str, list[Run]]:
        found: dict[str, list[Run]] = {}
        for run in self.planned:
            if not run.transfer:
                found.setdefault(run.model, []).append(run)
        return found

    def model_runs(self, model: str) -> list[Run]:
        """Return the planned runs on a model that start from the model itself."""
        return self._runs_by_model.get(model, [])

    @cached_property
    def _manifest_by_folder(self) -> dict[str, str]:
        return {run.folder: job.manifest for job in self.jobs for run in job.runs}

    def work(self, job: Job) -> int:
        """Return how long a job lasts beside the others, in rough parts: trained runs, those of a mixture twice."""
        trained = [run for run in job.runs if not is_untrained(run.variant, self.models[run.model])]
        return sum(2 if run.variant.abilities.mixture else 1 for run in trained)

    def parent_manifests(self, job: Job) -> list[str]:
        """Return what the jobs leave that train the adapters which a job's runs start from, sorted."""
        return sorted({self._manifest_by_folder[run.parent] for run in job.runs if run.parent})

    @cached_property
    def used_models(self) -> list[str]:
        """Return the models that have runs, in grid order."""
        return list(dict.fromkeys(run.model for run in self.runs))

    @cached_property
    def _tasks_by_model(self) -> dict[str, list[str]]:
        return {
            model: sorted({task["name"] for run in runs for task in run.plan["tasks"]})
            for model, runs in self._runs_by_model.items()
        }

    @cached_property
    def allocated_models(self) -> list[str]:
        """Return the models on which some variant's experts are allocated, in grid order."""
        return [m for m in self.used_models if any(run.variant.allocated for run in self.model_runs(m))]

    @cached_property
    def allocations(self) -> dict[str, Allocation]:
        """Return every allocation of the grid by its file."""
        found: dict[str, Allocation] = {}
        for run in self.planned:
            if run.variant.allocated and not run.transfer:
                own = run.variant.allocation["tasks"] == "own"
                tasks = sorted(task["name"] for task in run.plan["tasks"]) if own else self.model_tasks(run.model)
                path = run.plan["pending"]["allocation"]
                found.setdefault(path, Allocation(run.model, run.variant, tuple(tasks)))
        return found

    def model_scores(self, model: str) -> list[str]:
        """Return the kinds of sensitivity that allocations on a model are made from, sorted."""
        return sorted({a.variant.allocation["score"] for a in self.allocations.values() if a.model == model})

    def model_tasks(self, model: str) -> list[str]:
        """Return the tasks that a model meets, alone or in a mixture, sorted."""
        return self._tasks_by_model.get(model, [])

    def sensitivity_run(self, model: str, task: str) -> Run:
        """Return the run whose plan describes how a model is scored for sensitivity to a task.

        The first run of an allocated variant that has the task, alone rather than in a mixture.
        """
        runs = [
            run
            for run in self.model_runs(model)
            if run.variant.allocated and task in [document["name"] for document in run.plan["tasks"]]
        ]
        return min(runs, key=lambda run: len(run.plan["tasks"]))

    @cached_property
    def _first_runs(self) -> dict[tuple[str, str, str], Run]:
        found: dict[tuple[str, str, str], Run] = {}
        for run in self.planned:
            found.setdefault((run.model, run.task, run.label), run)
        return found

    def tuning_run(self, model: str, task: str, label: str) -> Run:
        """Return the first run of a tuned variant on a task: its plan is what the trials vary."""
        return self._first_runs[model, task, label]

    def costs_runs(self, model: str) -> list[Run]:
        """Return one run per variant that trains: the first of each, preferably one whose learning rate is given."""
        chosen: dict[str, Run] = {}
        for run in sorted(self.model_runs(model), key=lambda run: "learning_rate" in run.plan["pending"]):
            if not is_untrained(run.variant, self.models[model]):
                chosen.setdefault(run.variant.name, run)
        order = {variant.name: position for position, variant in enumerate(self.variants)}
        return sorted(chosen.values(), key=lambda run: order[run.variant.name])

    def documents(self) -> dict[str, str]:
        """Return the text of every file that a suite consists of, by path relative to the suite's folder."""
        return dict(self._documents())

    def _documents(self) -> Iterator[tuple[str, str]]:
        yield from print_plans((run.plan_path, run.plan) for run in self.planned)
        if self.search is not None:
            yield layout.SEARCH, pretty_json(self.search)
        yield layout.SUITE, pretty_json(self.suite_document())

    def suite_document(self) -> dict:
        """Return the suite as the report reads it: the checked YAML, and what it expanded to."""
        moved = {"results", "reports"}  # where the files lie is no part of what they say
        return {
            **{key: value for key, value in self.suite.items() if key not in moved},
            "schema": SCHEMA,
            # of the source as it is now: the report lists records that are older
            "fingerprints": {variant.name: variant_fingerprint(variant) for variant in self.variants},
            "expanded": {
                "variants": [
                    {
                        "name": variant.name,
                        "method": variant.method,
                        "settings": variant.settings,
                        "match": variant.match.name if variant.match else None,
                        "allocation": variant.allocation,
                        "placement": variant.placement,
                        "control": variant.control,
                        "sweep": variant.sweep,
                    }
                    for variant in self.variants
                ],
                "models": self.models,
                "tasks": self.tasks,
                "runs": len(self.runs),
                "jobs": len(self.jobs),
            },
        }

    def write(self, root: "Path | str") -> list[str]:
        """Write plans and ``suite.json`` under the suite's folder, each only where its content differs.

        Returns:
            The paths that were written, relative to the suite's folder.
        """
        root = Path(root)
        return [path for path, text in self._documents() if write_if_different(root / path, text)]
