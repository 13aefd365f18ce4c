# What the rules of sensitivities and allocations read and are told.


def get_sensitivity_plans(model):
    """Return, task by task, the plans whose model and task are scored for sensitivity."""
    tasks = EXPANSION.model_tasks(model)
    return [
        get_suite_path(EXPANSION.sensitivity_run(model, task).plan_path)
        for task in tasks
    ]


def get_sensitivities(model, score):
    """Return the sensitivities of a model, by one score, to all tasks that it meets in the suite."""
    tasks = EXPANSION.model_tasks(model)
    return [get_suite_path(layout.sensitivity(model, task, score)) for task in tasks]


def get_stabilities(model):
    """Return how a model's sensitivities agree between samples, task by task, where the suite asks for it."""
    if not SUITE["sensitivity"]["stability"]:
        return []
    tasks = EXPANSION.model_tasks(model)
    return [get_suite_path(layout.stability(model, task)) for task in tasks]


def get_suite_stabilities():
    """Return what the report shows of the sensitivities' stability."""
    return [
        path for model in EXPANSION.allocated_models for path in get_stabilities(model)
    ]


def get_stability_options(model):
    """Return by which score and votes samples are compared: the suite's, else those of the model's first allocation."""
    first = next(
        a.variant.allocation for a in EXPANSION.allocations.values() if a.model == model
    )
    # as_coded changes weights while it measures, so its samples cannot be compared
    score = "sum" if first["score"] == "as_coded" else first["score"]
    votes = {key: first[key] for key in ("percentile", "pool")}
    votes |= {
        key: SUITE["sensitivity"]["stability"][key]
        for key in votes
        if key in SUITE["sensitivity"]["stability"]
    }
    return f"--score {shlex.quote(score)} --votes {shlex.quote(json.dumps(votes))} {get_checkpointing()}"


def get_checkpointing():
    """Return the option that lets sensitivities be measured with less memory, where the suite asks for it."""
    return "--checkpointing" if SUITE["sensitivity"]["checkpointing"] else ""


def get_allocation(wildcards):
    """Return the allocation that a rule makes."""
    return EXPANSION.allocations[layout.allocation(wildcards.model, wildcards.variant)]


def get_allocation_sensitivities(wildcards):
    """Return the sensitivities that an allocation is made from."""
    return [get_suite_path(path) for path in get_allocation(wildcards).sensitivities]


def get_allocation_options(wildcards):
    """Return the options of `moelora allocate` that say how experts are placed, and what an expert costs."""
    variant = get_allocation(wildcards).variant
    documents = (variant.allocation, variant.settings)
    settings, method_settings = (
        shlex.quote(json.dumps(one, sort_keys=True)) for one in documents
    )
    return f"--settings {settings} --method {shlex.quote(variant.method)} --method-settings {method_settings}"


def get_variant_pattern(method):
    """Return a wildcard constraint for the allocations of one method: the variant, or task and variant; or none."""
    folder = layout.allocation("{model}", "").removesuffix(".json")
    names = {
        path.removeprefix(folder.format(model=allocation.model)).removesuffix(".json")
        for path, allocation in EXPANSION.allocations.items()
        if allocation.variant.method == method and path != layout.SEARCHED_ALLOCATION
    }
    return "|".join(map(re.escape, sorted(names))) or "(?!)"
