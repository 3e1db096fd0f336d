rule track:
    input:
        RESULTS / "track" / MANIFEST,


rule track_one:
    input:
        report=rules.report_one.output.manifest,
        align=manifests("align"),
        unlearn=manifests("unlearn"),
        rephrase=manifests("rephrase"),
        utility=manifests("utility"),
        privacy=manifests("privacy"),
        attack=attack_manifests(),
        code=sources("track"),
    output:
        manifest=RESULTS / "track" / MANIFEST,
        metrics=RESULTS / "track/metrics.json",
    log:
        LOGS / "track/track.log",
    benchmark:
        LOGS / "track/track.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("track"),
        results=RESULTS,
    message:
        JOB
    shell:
        "python -m atu track --params {params.file} --results {params.results} --out {output.manifest}"
        " > {log} 2>&1"
