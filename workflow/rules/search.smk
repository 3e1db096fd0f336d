rule search:
    input:
        RESULTS / "search/shared" / MANIFEST,


rule search_one:
    input:
        unpack(search_inputs),
        pretrain=rules.pretrain_full.output.manifest,
        code=method_sources("search"),
    output:
        manifest=RESULTS / "search/{model}/{method}" / MANIFEST,
        metrics=RESULTS / "search/{model}/{method}/metrics.json",
    log:
        LOGS / "search/{model}/{method}.log",
    benchmark:
        LOGS / "search/{model}/{method}.tsv"
    priority: 75
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=1,
    params:
        file=PARAMS_FILE,
        section=search_section,
        targets=search_options,
    message:
        JOB
    shell:
        "python -m atu search --params {params.file} --threads {threads}"
        " --processes {resources.gpu} --method {wildcards.method}"
        " --pretrain {input.pretrain} {params.targets} --out {output.manifest}"
        " > {log} 2>&1"


rule search_shared:
    input:
        search=search_manifests(),
        code=sources("search", "base"),
    output:
        manifest=RESULTS / "search/shared" / MANIFEST,
        metrics=RESULTS / "search/shared/metrics.json",
    log:
        LOGS / "search/shared.log",
    benchmark:
        LOGS / "search/shared.tsv"
    priority: 75
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("search"),
        search=finished_options,
    message:
        JOB
    shell:
        "python -m atu search --params {params.file} --threads {threads} {params.search}"
        " --out {output.manifest} > {log} 2>&1"
