rule unlearn:
    input:
        manifests("unlearn"),


rule unlearn_one:
    input:
        lm=start_model,
        prepared=rules.prepare_one.output.manifest,
        embedded=rules.embed_one.output.manifest,
        aligned=rules.align_one.output.manifest,
        code=sources("unlearn"),
    output:
        manifest=RESULTS / "unlearn/{model}/{target}/{method}/{seed}" / MANIFEST,
        metrics=RESULTS / "unlearn/{model}/{target}/{method}/{seed}/metrics.json",
    params:
        file=PARAMS_FILE,
        section=method_section,
    log:
        LOGS / "unlearn/{model}/{target}/{method}/{seed}.log",
    benchmark:
        LOGS / "unlearn/{model}/{target}/{method}/{seed}.tsv"
    threads: 1
    priority: 70
    shell:
        "atu unlearn --params {params.file} --threads {threads} --method {wildcards.method}"
        " --seed {wildcards.seed} --lm {input.lm} --prepared {input.prepared}"
        " --embedded {input.embedded} --aligned {input.aligned} --out {output.manifest}"
        " > {log} 2>&1"
