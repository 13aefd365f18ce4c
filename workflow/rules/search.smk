# The search over configurations: every trial is a job of its own that asks the study for values, carries them out and
# tells. The study's storage and the leases of trials are no declared outputs: Snakemake deletes those before a re-run.
# What the winner is trained with on fresh seeds, and its scores on the official split, are ordinary runs of the suite.

if SEARCH:

    rule search_study:
        input:
            search=get_suite_path(layout.SEARCH),
            plan=get_search_plan(),
            sensitivities=get_search_sensitivities(),
            sources=list(get_source_paths(SEARCH["model"]).values()),
            preflight=get_preflight(),
        output:
            get_suite_path(layout.STUDY),
        log:
            get_suite_path(layout.log("search", "study")),
        localrule: True
        params:
            sensitivities=shlex.join(["--sensitivity", *get_search_sensitivities()]),
            sources=get_source_options(SEARCH["model"]),
            fingerprint=get_search_fingerprint(),
        shell:
            "python -m moelora search create --search {input.search:q} --plan {input.plan:q} {params.sensitivities} "
            "--fingerprint {params.fingerprint:q} --out {output:q} {params.sources} > {log:q} 2>&1"

    # A job that dies is a failed trial; the next try at the same slot finds its lease and tries its values again.
    rule trial:
        input:
            study=get_suite_path(layout.STUDY),
            sources=list(get_source_paths(SEARCH["model"]).values()),
        output:
            get_suite_path(layout.trial("{slot}")),
        log:
            get_suite_path(layout.log("search", "trial-{slot}")),
        wildcard_constraints:
            slot=r"\d+",
        retries: get_retries(SEARCH["retries"])
        threads: SUITE["threads"]
        resources:
            **ask_for(get_trial_need),
            gpu_percent=CARD_PERCENT,
        params:
            sources=get_source_options(SEARCH["model"]),
        shell:
            "python -m moelora search run --study {input.study:q} --slot {wildcards.slot:q} --out {output:q} "
            "{params.sources} 2> {log:q}"

    rule search_winner:
        input:
            study=get_suite_path(layout.STUDY),
            trials=get_trials(),
        output:
            winner=get_suite_path(layout.WINNER),
            trials=get_suite_path(layout.TRIALS),
            allocation=get_searched_allocation(),
        log:
            get_suite_path(layout.log("search", "winner")),
        localrule: True
        params:
            allocation=(
                shlex.join(["--allocation", *get_searched_allocation()])
                if get_searched_allocation()
                else ""
            ),
        shell:
            "python -m moelora search choose --study {input.study:q} --trials {output.trials:q} --winner {output.winner:q} "
            "{params.allocation} > {log:q} 2>&1"
