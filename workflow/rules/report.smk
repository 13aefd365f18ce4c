# Tables, figures and the pages.


rule claims:
    input:
        records=RECORDS,
        costs=get_costs(),
        claims=get_claim_files(),
    output:
        part=REPORT_CLAIMS,
        page=report(
            f"{REPORT}/claims/claims.html",
            caption="../report/claims.rst",
            category="Report",
        ),
    log:
        get_suite_path(layout.log("report", "claims")),
    localrule: True
    params:
        fingerprint=get_command_fingerprint("moelora.reporting.claims_page"),
        config=str(CONFIG_DIR.path),
    shell:
        "python -m moelora claims --records {input.records:q} --costs {input.costs:q} --config-dir {params.config:q} "
        '--out "$(dirname {output.page:q})" > {log:q} 2>&1'


rule report:
    input:
        records=RECORDS,
        costs=get_costs(),
        speed=get_speed_records(),
        stability=get_suite_stabilities(),
        search=get_search_trials(),
        claims=get_claims(),
        suite=SUITE_JSON,
    output:
        page=report(REPORT_PAGE, caption="../report/page.rst", category="Report"),
        tables=report(
            directory(REPORT_TABLES),
            patterns=["{name}.csv"],
            caption="../report/tables.rst",
            category="Tables",
        ),
        figures=report(
            directory(REPORT_FIGURES),
            patterns=["{name}.svg"],
            caption="../report/figures.rst",
            category="Figures",
        ),
    log:
        get_suite_path(layout.log("report", "report")),
    localrule: True
    threads: 4
    params:
        title=SUITE["title"],
        fingerprint=get_command_fingerprint("moelora.reporting.command"),
        unproven=get_unproven(),
    shell:
        "python -m moelora report --records {input.records:q} --costs {input.costs:q} --stability {input.stability:q} "
        "--speed {input.speed:q} --search {input.search:q} --claims {input.claims:q} --suite {input.suite:q} --title {params.title:q} "
        '--workers {threads} --out "$(dirname {output.page:q})" > {log:q} 2>&1'
