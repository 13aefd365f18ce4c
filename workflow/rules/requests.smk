# What jobs ask a cluster for, from the estimates of their plans: memory, minutes, and a card where the suite names one.
# Each try asks for more. On one machine these requests limit nothing, since no total of them is given there.
from moelora.preflight.requests import Requests

try:
    REQUESTS = Requests(EXPANSION, CONFIG_DIR, Path(ROOT))
except MoeloraError as error:
    raise WorkflowError(str(error)) from None


def ask_for(get_need):
    """Return the resources of a rule from a function that tells what a job of it needs."""

    def get_memory(wildcards, attempt):
        return REQUESTS.megabytes(get_need(wildcards), attempt)

    def get_minutes(wildcards, attempt):
        return REQUESTS.minutes(get_need(wildcards), attempt)

    def get_cards(wildcards):
        return REQUESTS.cards_of(get_need(wildcards)) or None

    asked = {"mem_mb": get_memory, "runtime": get_minutes}
    return {**asked, "gpu": get_cards} if REQUESTS.cards else asked


@lru_cache(maxsize=None)
def find_job_need(name, trains, scores):
    """Return what the job of this name needs to train its runs, to score them, or both."""
    runs = EXPANSION.job_by_name[name].runs
    processes = SUITE.get("processes", 1) if trains else 1
    return REQUESTS.of_runs(runs, trains=trains, scores=scores, processes=processes)


def get_training_need(wildcards):
    """Return what the training of a job needs, and its scoring where that is not apart."""
    return find_job_need(wildcards.job, True, not is_scored_apart())


def get_scoring_need(wildcards):
    """Return what scoring apart needs."""
    return find_job_need(wildcards.job, False, True)


def get_tuning_need(wildcards):
    """Return what the choice of a learning rate needs."""
    return REQUESTS.of_tuning(get_tuning_run(wildcards))


def get_sensitivity_need(model):
    """Return a function that tells what the sensitivities of one model need, whatever the wildcards."""
    return lambda wildcards: REQUESTS.of_sensitivity(model)


def get_costs_need(wildcards):
    """Return what the cost measurement of a model needs."""
    return REQUESTS.of_costs(wildcards.model)


def get_trial_need(wildcards):
    """Return what a trial of a search needs: it varies the winner's plan."""
    return REQUESTS.of_runs([get_search_run()])


def get_unknown_need(wildcards):
    """Return what is asked for work of which no file says how much it is."""
    return REQUESTS.of_unknown()
