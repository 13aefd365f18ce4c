# How sensitive each module is to each task, from a small sample: the input of every allocation.
# One rule a model and score, because a process takes longer to start than a small model takes to be measured.

for _model, _score in [
    (model, score)
    for model in EXPANSION.allocated_models
    for score in EXPANSION.model_scores(model)
]:

    rule:
        name:
            "sensitivity_"
            + re.sub(r"\W", "_", _model if _score == "sum" else f"{_model}_{_score}")
        input:
            plans=get_sensitivity_plans(_model),
            sources=get_source_paths(_model).values(),
            preflight=get_preflight(),
        output:
            get_sensitivities(_model, _score),
        log:
            get_suite_path(layout.log("sensitivity", f"{_model}--{_score}")),
        priority: UPSTREAM
        threads: SUITE["threads"]
        resources:
            **ask_for(get_sensitivity_need(_model)),
            gpu_percent=CARD_PERCENT,
        params:
            tasks=EXPANSION.model_tasks(_model),
            examples=SUITE["sensitivity"]["examples"],
            batch_size=SUITE["sensitivity"]["batch_size"],
            seed=SUITE["sensitivity"]["seed"],
            score=_score,
            checkpointing=get_checkpointing(),
            sources=get_source_options(_model),
            fingerprint=get_command_fingerprint(
                "moelora.allocation.sensitivity_command"
            ),
        shell:
            "python -m moelora sensitivity --plan {input.plans:q} --task {params.tasks:q} --examples {params.examples} "
            "--batch-size {params.batch_size} --seed {params.seed} --score {params.score:q} {params.checkpointing} "
            "--out {output:q} {params.sources} > {log:q} 2>&1"


# How far small samples agree: for the report alone, no allocation waits for it.
for _model in EXPANSION.allocated_models if SUITE["sensitivity"]["stability"] else ():

    rule:
        name:
            "stability_" + re.sub(r"\W", "_", _model)
        input:
            plans=get_sensitivity_plans(_model),
            sources=get_source_paths(_model).values(),
            preflight=get_preflight(),
        output:
            get_stabilities(_model),
        log:
            get_suite_path(layout.log("stability", _model)),
        threads: SUITE["threads"]
        resources:
            **ask_for(get_sensitivity_need(_model)),
            gpu_percent=CARD_PERCENT,
        params:
            tasks=EXPANSION.model_tasks(_model),
            examples=",".join(map(str, SUITE["sensitivity"]["stability"]["examples"])),
            seeds=",".join(map(str, SUITE["sensitivity"]["stability"]["seeds"])),
            batch_size=SUITE["sensitivity"]["batch_size"],
            seed=SUITE["sensitivity"]["seed"],
            options=get_stability_options(_model),
            sources=get_source_options(_model),
            fingerprint=get_command_fingerprint(
                "moelora.allocation.sensitivity_command"
            ),
        shell:
            "python -m moelora sensitivity --plan {input.plans:q} --task {params.tasks:q} --stability {params.examples} "
            "--seeds {params.seeds} {params.options} --batch-size {params.batch_size} --seed {params.seed} "
            "--out {output:q} {params.sources} > {log:q} 2>&1"
