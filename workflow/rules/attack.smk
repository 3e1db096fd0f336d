rule attack:
    input:
        attack_manifests(),


rule attack_one:
    input:
        unpack(attack_inputs),
        unlearn=rules.unlearn_one.output.manifest,
        prepare=rules.prepare_one.output.manifest,
        code=attack_sources,
    output:
        manifest=RESULTS / "attack/{model}/{target}/{method}/{seed}/{attack}" / MANIFEST,
        metrics=RESULTS
        / "attack/{model}/{target}/{method}/{seed}/{attack}/metrics.json",
    log:
        LOGS / "attack/{model}/{target}/{method}/{seed}/{attack}.log",
    benchmark:
        LOGS / "attack/{model}/{target}/{method}/{seed}/{attack}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=attack_section,
        beside=attack_options,
    message:
        JOB
    shell:
        "python -m atu attack --params {params.file} --threads {threads} --attack {wildcards.attack}"
        " --unlearn {input.unlearn} --prepare {input.prepare} {params.beside}"
        " --out {output.manifest} > {log} 2>&1"
