"""Where everything of a suite lies, relative to its own folder ``<results>/<suite>``.

A path says what a person looks for (model, task, variant, seed) and no more; the rest is in the plan.
"""

DATA = "data"
SUITE = "suite.json"
PREFLIGHT = "preflight.json"
RECORDS = "records.parquet"
MANIFESTS = "manifests.txt"
SEARCH = "search/search.json"
STUDY = "search/study.json"
WINNER = "search/winner.json"
SEARCHED_ALLOCATION = "search/allocation.json"
TRIALS = "search/trials.json"


def label(variant: str, regime: str, regimes: int) -> str:
    """Return the folder name of a variant: with its regime where the suite has more than one."""
    return variant if regimes == 1 else f"{variant}@{regime}"


def transfer(entry) -> str:
    """Return the task name of an entry of ``transfer``: scored as it is (to), or trained further (then)."""
    return f"{entry['from']}-{'then' if entry.get('continue') else 'to'}-{entry['to']}"


def run_folder(model: str, task: str, variant_label: str, seed: int) -> str:
    """Return the folder of one run."""
    return f"{model}/{task}/{variant_label}/seed{seed}"


def plan(folder: str) -> str:
    """Return the plan of the run in this folder."""
    return f"{folder}/plan.json"


def base(model: str) -> str:
    """Return the folder of a base model that the suite builds itself."""
    return f"{model}/base"


def sensitivity(model: str, task: str, score: str = "sum") -> str:
    """Return the sensitivities of a model's modules to one task, by one kind of score."""
    return f"{model}/sensitivity/{task}.json" if score == "sum" else f"{model}/sensitivity/{score}/{task}.json"


def stability(model: str, task: str) -> str:
    """Return how the sensitivities to one task agree between samples."""
    return f"{model}/stability/{task}.json"


def allocation(model: str, variant: str, task: "str | None" = None) -> str:
    """Return the experts per module of a variant on a model: from all tasks, or from those of one task or mixture."""
    return f"{model}/allocation/{variant}.json" if task is None else f"{model}/allocation/{task}/{variant}.json"


def tuning(model: str, task: str, variant_label: str) -> str:
    """Return the trials that chose the learning rate of a variant on a task."""
    return f"{model}/{task}/{variant_label}/tuning.json"


def costs(model: str) -> str:
    """Return the interleaved cost measurement of a model."""
    return f"{model}/costs.json"


def manifest(job: str) -> str:
    """Return what a finished job leaves."""
    return f"jobs/{job}.json"


def trial(slot: "int | str") -> str:
    """Return what one trial of a search leaves."""
    return f"search/trials/{slot}.json"


def log(stage: str, name: str) -> str:
    """Return the log of one workflow job."""
    return f"logs/{stage}/{name}.log"
