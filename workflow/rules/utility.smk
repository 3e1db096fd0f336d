rule utility:
    input:
        manifests("utility"),


rule utility_one:
    input:
        unlearn=rules.unlearn_one.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        before=utility_before,
        benchmarks=benchmark_files(),
        code=method_sources("utility"),
    output:
        manifest=RESULTS / "utility/{model}/{target}/{method}/{seed}" / MANIFEST,
        metrics=RESULTS / "utility/{model}/{target}/{method}/{seed}/metrics.json",
    log:
        LOGS / "utility/{model}/{target}/{method}/{seed}.log",
    benchmark:
        LOGS / "utility/{model}/{target}/{method}/{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("utility"),
        before=before_option,
    message:
        JOB
    shell:
        "python -m atu utility --params {params.file} --threads {threads} --unlearn {input.unlearn}"
        " --prepare {input.prepare} {params.before} --out {output.manifest} > {log} 2>&1"
