# LoRA-SMoE: experts per module from the sensitivities of all tasks that the model meets in the suite.


rule allocate_lora_smoe:
    input:
        get_model_sensitivities,
    output:
        get_suite_path(layout.allocation("{model}", "{variant}")),
    log:
        get_suite_path(layout.log("allocate", "{model}--{variant}")),
    wildcard_constraints:
        variant=get_variant_pattern("lora_smoe"),
    params:
        strategy=SUITE["allocation"]["strategy"],
        percentile=SUITE["allocation"]["percentile"],
        pool=SUITE["allocation"]["pool"],
        fingerprint=get_command_fingerprint("moelora.allocation.command"),
    shell:
        "python -m moelora allocate --strategy {params.strategy} --percentile {params.percentile} --pool {params.pool} "
        "--sensitivity {input} --out {output} > {log} 2>&1"
