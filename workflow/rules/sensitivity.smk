# How sensitive each module is to each task, from a small sample: the input of every allocation.
# One rule a model, because a process takes longer to start than a small model takes to be measured.

for _model in EXPANSION.allocated_models:

    rule:
        name:
            "sensitivity_" + re.sub(r"\W", "_", _model)
        input:
            plans=get_sensitivity_plans(_model),
            sources=get_source_paths(_model).values(),
        output:
            get_sensitivities(_model),
        log:
            get_suite_path(layout.log("sensitivity", _model)),
        threads: SUITE["threads"]
        resources:
            gpu_percent=CARD_PERCENT,
        params:
            tasks=EXPANSION.model_tasks(_model),
            examples=SUITE["sensitivity"]["examples"],
            batch_size=SUITE["sensitivity"]["batch_size"],
            seed=SUITE["sensitivity"]["seed"],
            sources=get_source_options(_model),
            fingerprint=get_command_fingerprint("moelora.allocation.sensitivity"),
        shell:
            "python -m moelora sensitivity --plan {input.plans} --task {params.tasks} --examples {params.examples} "
            "--batch-size {params.batch_size} --seed {params.seed} --out {output} {params.sources} > {log} 2>&1"
