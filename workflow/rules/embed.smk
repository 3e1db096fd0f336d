rule embed:
    input:
        manifests("embed"),


rule embed_shared:
    input:
        prepare=prepared_manifests(),
        code=sources("embed"),
    output:
        manifest=RESULTS / "embed/shared" / MANIFEST,
        metrics=RESULTS / "embed/shared/metrics.json",
    log:
        LOGS / "embed/shared.log",
    benchmark:
        LOGS / "embed/shared.tsv"
    priority: 95
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("embed"),
        models=len(PARAMS.grid.models),
        prepare=prepared_options,
    message:
        JOB
    shell:
        "python -m atu embed --params {params.file} --threads {threads} {params.prepare}"
        " --out {output.manifest} > {log} 2>&1"


rule embed_one:
    input:
        pretrain=rules.pretrain_full.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        # It only saves time: a further target makes it anew, and no other target's embeddings.
        shared=ancient(rules.embed_shared.output.manifest),
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
    message:
        JOB
    shell:
        "python -m atu embed --params {params.file} --threads {threads}"
        " --pretrain {input.pretrain} --prepare {input.prepare} --shared {input.shared}"
        " --out {output.manifest} > {log} 2>&1"
