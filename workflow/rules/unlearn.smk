rule unlearn:
    input:
        manifests("unlearn"),


rule unlearn_one:
    input:
        unpack(predictor_inputs),
        pretrain=start_model,
        prepare=rules.prepare_one.output.manifest,
        search=searched_input,
        lock=given_lock,
        code=method_sources("unlearn"),
    output:
        manifest=RESULTS / "unlearn/{model}/{target}/{method}/{seed}" / MANIFEST,
        metrics=RESULTS / "unlearn/{model}/{target}/{method}/{seed}/metrics.json",
    log:
        LOGS / "unlearn/{model}/{target}/{method}/{seed}.log",
    benchmark:
        LOGS / "unlearn/{model}/{target}/{method}/{seed}.tsv"
    priority: 70
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=1,
    params:
        file=PARAMS_FILE,
        section=method_section,
        predictor=predictor_options,
        search=searched_option,
    message:
        JOB
    shell:
        "python -m atu unlearn --params {params.file} --threads {threads}"
        " --processes {resources.gpu} --method {wildcards.method}"
        " --seed {wildcards.seed} --pretrain {input.pretrain} --prepare {input.prepare}"
        " {params.predictor} {params.search} --out {output.manifest}"
        " > {log} 2>&1"
