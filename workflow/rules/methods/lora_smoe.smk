# LoRA-SMoE: experts per module from the sensitivities of all tasks that the model meets in the suite, or of the run's own.


rule allocate_lora_smoe:
    input:
        get_allocation_sensitivities,
    output:
        get_suite_path(layout.allocation("{model}", "{variant}")),
    log:
        get_suite_path(layout.log("allocate", "{model}--{variant}")),
    wildcard_constraints:
        variant=get_variant_pattern("lora_smoe"),
    priority: UPSTREAM
    localrule: True
    params:
        options=get_allocation_options,
        fingerprint=get_command_fingerprint(
            "moelora.allocation.command", "moelora.methods.lora_smoe"
        ),
    shell:
        "python -m moelora allocate {params.options} --sensitivity {input:q} --out {output:q} > {log:q} 2>&1"
