# How sensitive each module is to each task, from a small sample: the input of every allocation.


rule sensitivity:
    input:
        plan=get_sensitivity_plan,
        sources=get_model_sources,
    output:
        get_suite_path(layout.sensitivity("{model}", "{task}")),
    log:
        get_suite_path(layout.log("sensitivity", "{model}--{task}")),
    threads: SUITE["threads"]
    resources:
        gpu_percent=CARD_PERCENT,
    params:
        examples=SUITE["sensitivity"]["examples"],
        batch_size=SUITE["sensitivity"]["batch_size"],
        seed=SUITE["sensitivity"]["seed"],
        sources=get_model_source_options,
        fingerprint=get_command_fingerprint("moelora.allocation.sensitivity"),
    shell:
        "python -m moelora sensitivity --plan {input.plan} --task {wildcards.task} --examples {params.examples} "
        "--batch-size {params.batch_size} --seed {params.seed} --out {output} {params.sources} > {log} 2>&1"
