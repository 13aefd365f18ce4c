# What the suite takes and whether it can work, before anything is fetched, measured or trained: for suites that ask for it.

if SUITE["preflight"] is not None:

    rule preflight:
        input:
            SUITE_JSON,
        output:
            PREFLIGHT,
        log:
            get_suite_path(layout.log("preflight", "preflight")),
        localrule: True
        params:
            config_dir=os.path.relpath(CONFIG_DIR.path),
            fingerprint=get_command_fingerprint("moelora.preflight.command"),
        shell:
            "python -m moelora preflight {input:q} --config-dir {params.config_dir:q} "
            '--results "$(dirname "$(dirname {input:q})")" --out {output:q} > {log:q} 2>&1'
