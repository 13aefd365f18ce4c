# What the rules of a search read and are told.


def get_search_run():
    """Return the winner's first run: its plan is what trials vary."""
    return next(run for run in EXPANSION.planned if run.variant.name == SEARCH["name"])


def get_search_plan():
    """Return the plan that trials vary."""
    return get_suite_path(get_search_run().plan_path)


def get_search_sensitivities():
    """Return the sensitivities that trials allocate experts from, where they allocate any."""
    allocation = EXPANSION.allocations.get(layout.SEARCHED_ALLOCATION)
    return list(map(get_suite_path, allocation.sensitivities)) if allocation else []


def get_searched_allocation():
    """Return where the winner's experts per module go, where they are allocated."""
    allocated = get_search_run().variant.allocated
    return [get_suite_path(layout.SEARCHED_ALLOCATION)] if allocated else []


def get_search_fingerprint():
    """Return the fingerprint of the code behind a trial's number."""
    return variant_fingerprint(
        get_search_run().variant,
        command=("moelora.search.trial", "moelora.allocation.command"),
    )


def get_trials():
    """Return what the trials of the search leave; a storage for one worker is refused where several would share it."""
    try:
        slots = count_trials(SEARCH, read_space(SEARCH["space"], "the search"))
        if (workflow.nodes or (get_cores() or 1) // SUITE["threads"]) > 1:
            refuse_parallel(SEARCH["storage"], f"suite '{SUITE['name']}'")
    except MoeloraError as error:
        raise WorkflowError(str(error)) from None
    return [get_suite_path(layout.trial(slot)) for slot in range(slots)]


def get_search_trials():
    """Return the trials of the search as the report reads them: one file, or none where nothing is searched."""
    return [get_suite_path(layout.TRIALS)] if SEARCH else []
