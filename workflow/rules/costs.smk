# Step time and memory of all variants, interleaved in one process. Jobs that share a machine do not time each other
# honestly, so this one takes every core and a whole card, and computes on as many threads as any run does.

if SUITE["costs"]:

    rule costs:
        input:
            plans=get_costs_plans,
            pending=get_costs_pending,
            sources=get_model_sources,
            preflight=get_preflight(),
        output:
            get_suite_path(layout.costs("{model}")),
        log:
            get_suite_path(layout.log("costs", "{model}")),
        threads: get_all_cores
        resources:
            **ask_for(get_costs_need),
            gpu_percent=WHOLE_CARD,
        params:
            rounds=SUITE["costs"]["rounds"],
            warmup=SUITE["costs"]["warmup"],
            batch_size=SUITE["costs"]["batch_size"],
            sequence_length=SUITE["costs"]["sequence_length"],
            threads=SUITE["threads"],
            sources=get_model_source_options,
            fingerprint=get_costs_fingerprint,
        shell:
            "OMP_NUM_THREADS={params.threads} python -m moelora costs --plans {input.plans:q} --rounds {params.rounds} "
            "--warmup {params.warmup} --batch-size {params.batch_size} --sequence-length {params.sequence_length} "
            "--out {output:q} {params.sources} > {log:q} 2>&1"
