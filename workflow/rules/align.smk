rule align:
    input:
        manifests("align"),


rule align_one:
    input:
        pretrain=rules.pretrain_full.output.manifest,
        embed=rules.embed_one.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        code=sources("align"),
    output:
        manifest=RESULTS / "align/{model}/{target}/{seed}" / MANIFEST,
        metrics=RESULTS / "align/{model}/{target}/{seed}/metrics.json",
    log:
        LOGS / "align/{model}/{target}/{seed}.log",
    benchmark:
        LOGS / "align/{model}/{target}/{seed}.tsv"
    priority: 80
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=1,
    params:
        file=PARAMS_FILE,
        section=section("align"),
    message:
        JOB
    shell:
        "python -m atu align --params {params.file} --threads {threads}"
        " --processes {resources.gpu} --seed {wildcards.seed}"
        " --pretrain {input.pretrain} --embed {input.embed} --prepare {input.prepare}"
        " --out {output.manifest} > {log} 2>&1"
