# What the suite makes itself before anything is trained: data from a generator, base models from a seed.


rule data:
    output:
        directory(get_suite_path(layout.DATA)),
    log:
        get_suite_path(layout.log("data", "data")),
    localrule: True
    params:
        fingerprint=get_command_fingerprint("moelora.tasks.builtin.data"),
    shell:
        "python -m moelora data --suite-task-source tiny --out {output:q} > {log:q} 2>&1"


rule base:
    input:
        data=get_suite_path(layout.DATA),
        model=get_model_file,
    output:
        directory(get_suite_path(layout.base("{model}"))),
    log:
        get_suite_path(layout.log("base", "{model}")),
    threads: 1
    resources:
        **ask_for(get_unknown_need),
        gpu_percent=CARD_PERCENT,
    params:
        fingerprint=get_command_fingerprint("moelora.tasks.builtin.models"),
    shell:
        "python -m moelora base --model {input.model:q} --data {input.data:q} --out {output:q} > {log:q} 2>&1"
