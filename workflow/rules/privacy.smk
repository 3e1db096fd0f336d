rule privacy:
    input:
        manifests("privacy"),


rule privacy_one:
    input:
        unlearn=rules.unlearn_one.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        rephrase=rules.rephrase_one.output.manifest,
        reference=privacy_reference,
        code=method_sources("privacy"),
    output:
        manifest=RESULTS / "privacy/{model}/{target}/{method}/{seed}" / MANIFEST,
        metrics=RESULTS / "privacy/{model}/{target}/{method}/{seed}/metrics.json",
    log:
        LOGS / "privacy/{model}/{target}/{method}/{seed}.log",
    benchmark:
        LOGS / "privacy/{model}/{target}/{method}/{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("privacy"),
        reference=reference_option,
    message:
        JOB
    shell:
        "python -m atu privacy --params {params.file} --threads {threads} --unlearn {input.unlearn}"
        " --prepare {input.prepare} --rephrase {input.rephrase} {params.reference}"
        " --out {output.manifest} > {log} 2>&1"
