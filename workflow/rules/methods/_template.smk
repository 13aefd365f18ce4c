# METHOD_NAME: what this rule makes before training, in one sentence. Only methods that need such a step have a file
# here; it is found by its name. `moelora new-method NAME --rule` copies this one and puts the name in.


rule allocate_METHOD_NAME:
    input:
        get_allocation_sensitivities,
    output:
        get_suite_path(layout.allocation("{model}", "{variant}")),
    log:
        get_suite_path(layout.log("allocate", "{model}--{variant}")),
    wildcard_constraints:
        variant=get_variant_pattern("METHOD_NAME"),
    priority: UPSTREAM
    localrule: True
    params:
        options=get_allocation_options,
        fingerprint=get_command_fingerprint(
            "moelora.allocation.command", "moelora.methods.METHOD_NAME"
        ),
    shell:
        "python -m moelora allocate {params.options} --sensitivity {input:q} --out {output:q} > {log:q} 2>&1"
