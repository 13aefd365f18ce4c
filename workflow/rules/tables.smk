# All records of a suite in one table: the only thing that tables and figures are made from.


rule collect:
    input:
        manifests=get_manifests(),
        list=MANIFESTS,
    output:
        RECORDS,
    log:
        get_suite_path(layout.log("collect", "records")),
    localrule: True
    params:
        fingerprint=get_command_fingerprint("moelora.reporting.collect"),
    shell:
        "python -m moelora collect --manifests @{input.list:q} --out {output:q} > {log:q} 2>&1"
