rule embed:
    input:
        manifests("embed"),


rule embed_one:
    input:
        pretrain=rules.pretrain_full.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        code=sources("embed"),
    output:
        manifest=RESULTS / "embed/{model}/{target}" / MANIFEST,
        metrics=RESULTS / "embed/{model}/{target}/metrics.json",
    log:
        LOGS / "embed/{model}/{target}.log",
    benchmark:
        LOGS / "embed/{model}/{target}.tsv"
    priority: 90
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("embed"),
    shell:
        "python -m atu embed --params {params.file} --threads {threads}"
        " --pretrain {input.pretrain} --prepare {input.prepare} --out {output.manifest} > {log} 2>&1"
