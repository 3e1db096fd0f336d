rule pretrain:
    input:
        expand(RESULTS / "pretrain/{model}/full" / MANIFEST, model=PARAMS.grid.models),
        oracle_manifests(),


rule pretrain_full:
    input:
        shared=rules.prepare_shared.output.manifest,
        lock=model_lock,
        code=sources("pretrain"),
    output:
        manifest=RESULTS / "pretrain/{model}/full" / MANIFEST,
        metrics=RESULTS / "pretrain/{model}/full/metrics.json",
    log:
        LOGS / "pretrain/{model}/full.log",
    benchmark:
        LOGS / "pretrain/{model}/full.tsv"
    priority: 100
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=model_section,
    message:
        JOB
    shell:
        "python -m atu pretrain --params {params.file} --threads {threads} --model {wildcards.model}"
        " --shared {input.shared} --out {output.manifest} > {log} 2>&1"


rule pretrain_oracle:
    input:
        shared=rules.prepare_shared.output.manifest,
        oracle=rules.prepare_one.output.manifest,
        lock=oracle_lock,
        code=sources("pretrain"),
    output:
        manifest=RESULTS / "pretrain/{model}/{start}-{target}" / MANIFEST,
        metrics=RESULTS / "pretrain/{model}/{start}-{target}/metrics.json",
    log:
        LOGS / "pretrain/{model}/{start}-{target}.log",
    benchmark:
        LOGS / "pretrain/{model}/{start}-{target}.tsv"
    wildcard_constraints:
        start="|".join(ORACLES),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=model_section,
        second=lambda wildcards: "" if wildcards.start == ORACLE else "--second",
    message:
        JOB
    shell:
        "python -m atu pretrain --params {params.file} --threads {threads} --model {wildcards.model}"
        " --shared {input.shared} --oracle {input.oracle} {params.second} --out {output.manifest} > {log} 2>&1"
