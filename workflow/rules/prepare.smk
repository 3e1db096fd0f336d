rule prepare:
    input:
        RESULTS / "prepare/shared" / MANIFEST,
        manifests("prepare"),


rule prepare_shared:
    input:
        locks=benchmark_locks(),
        code=benchmark_sources(),
    output:
        manifest=RESULTS / "prepare/shared" / MANIFEST,
        metrics=RESULTS / "prepare/shared/metrics.json",
    log:
        LOGS / "prepare/shared.log",
    benchmark:
        LOGS / "prepare/shared.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("prepare"),
    message:
        JOB
    shell:
        "python -m atu prepare --params {params.file} --threads {threads} --out {output.manifest} > {log} 2>&1"


rule prepare_one:
    input:
        shared=rules.prepare_shared.output.manifest,
        locks=benchmark_locks(),
        code=benchmark_sources(),
    output:
        manifest=RESULTS / "prepare/{target}" / MANIFEST,
        metrics=RESULTS / "prepare/{target}/metrics.json",
    log:
        LOGS / "prepare/{target}.log",
    benchmark:
        LOGS / "prepare/{target}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("prepare"),
        target=target_options,
    message:
        JOB
    shell:
        "python -m atu prepare --params {params.file} --threads {threads} {params.target}"
        " --shared {input.shared} --out {output.manifest} > {log} 2>&1"
