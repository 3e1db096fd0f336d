rule privacy:
    input:
        manifests("privacy"),


rule privacy_one:
    input:
        unlearned=rules.unlearn_one.output.manifest,
        prepared=rules.prepare_one.output.manifest,
        rephrased=rules.rephrase_one.output.manifest,
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
    shell:
        "python -m atu privacy --params {params.file} --threads {threads} --unlearned {input.unlearned}"
        " --prepared {input.prepared} --rephrased {input.rephrased} {params.reference}"
        " --out {output.manifest} > {log} 2>&1"
