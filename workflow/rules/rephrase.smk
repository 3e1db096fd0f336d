rule rephrase:
    input:
        manifests("rephrase"),


rule rephrase_one:
    input:
        unlearn=rules.unlearn_one.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        code=method_sources("rephrase"),
    output:
        manifest=RESULTS / "rephrase/{model}/{target}/{method}/{seed}" / MANIFEST,
        metrics=RESULTS / "rephrase/{model}/{target}/{method}/{seed}/metrics.json",
    log:
        LOGS / "rephrase/{model}/{target}/{method}/{seed}.log",
    benchmark:
        LOGS / "rephrase/{model}/{target}/{method}/{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("rephrase"),
    message:
        JOB
    shell:
        "python -m atu rephrase --params {params.file} --threads {threads} --unlearn {input.unlearn}"
        " --prepare {input.prepare} --out {output.manifest} > {log} 2>&1"
