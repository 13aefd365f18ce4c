# What rules need to know: the suite's expansion, and functions that look things up in it. Rule bodies hold no logic.
import json
import os
import re
import shlex
import shutil
import time
from functools import lru_cache

from snakemake.exceptions import WorkflowError

from moelora import turns
from moelora.config import load_yaml
from moelora.errors import MoeloraError
from moelora.fingerprint import fingerprint, method_fingerprint, variant_fingerprint
from moelora.methods._proven import read_proven, trouble
from moelora.plans import expand, layout
from moelora.reading import read_words
from moelora.search.space import read_space
from moelora.search.storage import refuse_parallel
from moelora.search.count import count_trials


def load_expansion():
    """Return the expanded suite; what cannot be meant ends Snakemake with one message instead of a traceback."""
    files = [str(path) for path in workflow.configfiles]
    try:
        given = {
            key: read_words(config[key], "--config")
            for key in workflow.config_settings.config
        }
        suite = {
            key: value for key, value in {**config, **given}.items() if key != "suite"
        }
        for path in files:
            # Snakemake's own loader would keep the last of two equal keys, silently.
            load_yaml(path)
        return expand(
            suite, CONFIG_DIR, source=", ".join(os.path.relpath(path) for path in files)
        )
    except MoeloraError as error:
        raise WorkflowError(str(error)) from None


EXPANSION = load_expansion()
SUITE = EXPANSION.suite
SEARCH = EXPANSION.search and EXPANSION.search["search"]
ROOT = f"{SUITE['results']}/{SUITE['name']}"
REPORT = f"{SUITE['reports']}/{SUITE['name']}"
RECORDS = f"{ROOT}/{layout.RECORDS}"
MANIFESTS = f"{ROOT}/{layout.MANIFESTS}"
SUITE_JSON = f"{ROOT}/{layout.SUITE}"
PREFLIGHT = f"{ROOT}/{layout.PREFLIGHT}"
REPORT_PAGE = f"{REPORT}/index.html"
REPORT_TABLES = f"{REPORT}/tables"
REPORT_FIGURES = f"{REPORT}/figures"
REPORT_CLAIMS = f"{REPORT}/claims/claims.json"
TRAINED = f"{ROOT}/{layout.manifest('{job}.trained')}"
SCORED = f"{ROOT}/{layout.manifest('{job}')}"

# The interpreter that runs Snakemake runs the commands too: no environment needs to be activated.
shell.prefix(
    f'PATH={shlex.quote(os.path.dirname(sys.executable))}:"$PATH"; '
    f"export {turns.VARIABLE}={shlex.quote(f'{ROOT}/{turns.JOBS}')}; "
)


wildcard_constraints:
    model="[^/]+",
    task="[^/]+",
    label="[^/]+",
    variant="[^/]+",
    job="[^/]+",


def get_method_rules():
    """Return the rule files of methods, sorted; the template is not one."""
    folder = Path(workflow.basedir) / "workflow" / "rules" / "methods"
    return [
        f"workflow/rules/methods/{path.name}"
        for path in sorted(folder.glob("[!_]*.smk"))
    ]


def get_suite_path(path):
    """Return a path of the suite's layout below the results."""
    return f"{ROOT}/{path}"


@lru_cache(maxsize=None)
def get_source_paths(model):
    """Return what a model's runs need besides plans: built-in data and a base model that the suite builds."""
    uses_data = any(
        "builtin" in EXPANSION.tasks[task]["source"]
        for task in EXPANSION.model_tasks(model)
    )
    paths = {}
    if uses_data or is_built(model):
        paths["data"] = get_suite_path(layout.DATA)
    if is_built(model):
        paths["base"] = get_suite_path(layout.base(model))
    return paths


def is_built(model):
    """Return whether the suite builds the base model itself."""
    return "builtin" in EXPANSION.models[model]["source"]


def is_scored_apart():
    """Return whether scoring is a job of its own."""
    return SUITE["evaluation"]["separate_job"]


def get_model_sources(wildcards):
    """Return the files that `get_source_options` points to."""
    return list(get_source_paths(wildcards.model).values())


def get_source_options(model):
    """Return ``--data`` and ``--base`` of a command about one model."""
    return " ".join(
        f"--{kind} {shlex.quote(path)}"
        for kind, path in get_source_paths(model).items()
    )


def get_model_source_options(wildcards):
    """Return ``--data`` and ``--base`` of a rule about one model."""
    return get_source_options(wildcards.model)


def get_job_source_options(wildcards):
    """Return ``--data`` and ``--base`` of a job."""
    return " ".join(
        f"--{kind} {shlex.quote(path)}"
        for kind, path in get_source_paths(get_job(wildcards).model).items()
    )


def get_job(wildcards):
    """Return the job that a manifest belongs to."""
    return EXPANSION.job_by_name[wildcards.job]


def get_job_plans(wildcards):
    """Return the plans that a job carries out."""
    return [get_suite_path(run.plan_path) for run in get_job(wildcards).runs]


def get_preflight():
    """Return the estimate that must pass first, where the suite asks for one; a newer one re-runs nothing."""
    return [] if SUITE["preflight"] is None else [ancient(PREFLIGHT)]


def get_job_requirements(wildcards):
    """Return what a job's plans wait for: allocations, learning rates, parents, built-in data and a built base model."""
    job = get_job(wildcards)
    return [
        *map(get_suite_path, job.pending_files),
        *map(get_suite_path, EXPANSION.parent_manifests(job)),
        *get_source_paths(job.model).values(),
        *get_preflight(),
    ]


def get_training_priority(wildcards):
    """Return the work in a job, roughly, for the scheduler: the longest first, so that no core is idle for long last."""
    return EXPANSION.work(get_job(wildcards))


def get_job_fingerprint(wildcards):
    """Return the fingerprint of the code behind a job's numbers."""
    return variant_fingerprint(get_job(wildcards).runs[0].variant)


def get_command_fingerprint(*modules):
    """Return the fingerprint of a command that does not depend on a method."""
    return fingerprint(modules)


def get_unproven():
    """Return what the report says of methods that have not passed the battery: it changes when the battery has run."""
    proven = read_proven()
    return [f"{method}: {trouble(method, proven)}" for method in EXPANSION.methods]


def get_model_file(wildcards):
    """Return the file that describes a model."""
    return os.path.relpath(CONFIG_DIR.file("model", wildcards.model))


def get_tuning_run(wildcards):
    """Return the run whose learning rate is chosen."""
    return EXPANSION.tuning_run(wildcards.model, wildcards.task, wildcards.label)


def get_tuning_plan(wildcards):
    """Return the plan that the trials vary."""
    return get_suite_path(get_tuning_run(wildcards).plan_path)


def get_tuning_pending(wildcards):
    """Return the allocation that a tuned variant needs, if it needs one."""
    own = layout.tuning(wildcards.model, wildcards.task, wildcards.label)
    return [
        get_suite_path(path)
        for path in get_tuning_run(wildcards).pending_files
        if path != own
    ]


def get_tuning_settings(wildcards):
    """Return the trials as JSON."""
    return json.dumps(
        SUITE["regimes"][get_tuning_run(wildcards).regime]["tune"], sort_keys=True
    )


def get_tuning_fingerprint(wildcards):
    """Return the fingerprint of tuning a variant."""
    return variant_fingerprint(
        get_tuning_run(wildcards).variant, command=("moelora.training.tune",)
    )


def get_costs_plans(wildcards):
    """Return one plan per variant that trains."""
    return [
        get_suite_path(run.plan_path) for run in EXPANSION.costs_runs(wildcards.model)
    ]


def get_costs_pending(wildcards):
    """Return the allocations that the measured variants need; the learning rate costs nothing."""
    tunings = {
        run.plan["pending"].get("learning_rate")
        for run in EXPANSION.costs_runs(wildcards.model)
    }
    files = {
        path
        for run in EXPANSION.costs_runs(wildcards.model)
        for path in run.pending_files
    }
    return [get_suite_path(path) for path in sorted(files - tunings)]


def get_costs_fingerprint(wildcards):
    """Return the fingerprint of the cost measurement."""
    return method_fingerprint(*EXPANSION.methods, command=("moelora.costs",))


def get_costs():
    """Return the cost measurements of a suite: one per model, or none where the suite wants none."""
    return (
        [get_suite_path(layout.costs(model)) for model in EXPANSION.used_models]
        if SUITE["costs"]
        else []
    )


def get_speed_records():
    """Return the records of the bench that the suite shows; their paths are relative to the checkout."""
    return [Path(workflow.basedir) / path for path in SUITE["speed"]]


def get_claims():
    """Return what published claims say of the suite's records, where it asks for that."""
    return [REPORT_CLAIMS] if SUITE["claims"] else []


def get_claim_files():
    """Return the files of claims."""
    return sorted(
        os.path.relpath(path) for path in CONFIG_DIR.path.glob("claims/*.yaml")
    )


def get_manifests():
    """Return what all jobs leave."""
    return [get_suite_path(job.manifest) for job in EXPANSION.jobs]


def get_cores():
    """Return the cores that jobs share; none on a cluster, which is told how many jobs instead."""
    try:
        return None if workflow.remote_exec else workflow.cores
    except WorkflowError:
        return None


def get_all_cores(wildcards):
    """Return every core of the run: a job that takes them all has the machine to itself. On a cluster, its threads."""
    return get_cores() or SUITE["threads"]


def get_retries(retries):
    """Return how often a job is tried again; inside a cluster's job not at all, since a try is a job of its own."""
    return 0 if workflow.remote_exec else retries


# What other jobs wait for goes before all training, which goes by its work.
UPSTREAM = 1_000_000
HAS_CARD = shutil.which("nvidia-smi") is not None
# Hundredths of a GPU that a run asks for: the suite's share where there is a GPU, else none.
CARD_PERCENT = SUITE["card_share"] if HAS_CARD else 0
WHOLE_CARD = 100 if HAS_CARD else 0
# What starts the processes that train one run. No parameter of a rule: they change no number beyond rounding and the
# draws of dropout, so another number of them re-runs nothing.
LAUNCH = (
    f"python -m torch.distributed.run --standalone --nproc-per-node {SUITE['processes']}"
    if SUITE["processes"] > 1
    else "python"
)
