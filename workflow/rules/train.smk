# Training, and before it the choice of a learning rate where the suite tunes.
# A run's adapter and its training state are no declared outputs: Snakemake deletes those before a re-run and after
# a failure, and an interrupted run must find its state to resume. What a job declares is its manifest, written last.


rule tune:
    input:
        plan=get_tuning_plan,
        pending=get_tuning_pending,
        sources=get_model_sources,
        preflight=get_preflight(),
    output:
        get_suite_path(layout.tuning("{model}", "{task}", "{label}")),
    log:
        get_suite_path(layout.log("tune", "{model}--{label}--{task}")),
    priority: UPSTREAM
    threads: SUITE["threads"]
    resources:
        **ask_for(get_tuning_need),
        gpu_percent=CARD_PERCENT,
    params:
        tune=get_tuning_settings,
        sources=get_model_source_options,
        fingerprint=get_tuning_fingerprint,
    shell:
        "python -m moelora tune --plan {input.plan:q} --tune {params.tune:q} --out {output:q} {params.sources} > {log:q} 2>&1"


rule train:
    input:
        plans=get_job_plans,
        requirements=get_job_requirements,
    output:
        TRAINED if is_scored_apart() else SCORED,
    log:
        get_suite_path(layout.log("train", "{job}")),
    priority: get_training_priority
    threads: SUITE["threads"] * SUITE["processes"]
    resources:
        **ask_for(get_training_need),
        gpu_percent=CARD_PERCENT * SUITE["processes"],
    params:
        evaluate="" if is_scored_apart() else "--evaluate",
        sources=get_job_source_options,
        fingerprint=get_job_fingerprint,
    shell:
        "{LAUNCH} -m moelora train --plans {input.plans:q} --manifest {output:q} {params.evaluate} "
        "--fingerprint {params.fingerprint:q} {params.sources} > {log:q} 2>&1"
