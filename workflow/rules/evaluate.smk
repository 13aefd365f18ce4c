# Scoring as a job of its own, for suites that ask for it (evaluation: {separate_job: true}); others score where they train.

if is_scored_apart():

    rule evaluate:
        input:
            trained=TRAINED,
            plans=get_job_plans,
            requirements=get_job_requirements,
        output:
            SCORED,
        log:
            get_suite_path(layout.log("evaluate", "{job}")),
        threads: SUITE["threads"]
        resources:
            **ask_for(get_scoring_need),
            gpu_percent=CARD_PERCENT,
        params:
            sources=get_job_source_options,
            fingerprint=get_job_fingerprint,
        shell:
            "python -m moelora evaluate --plans {input.plans:q} --manifest {output:q} --fingerprint {params.fingerprint:q} "
            "{params.sources} > {log:q} 2>&1"
