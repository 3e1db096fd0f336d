rule report:
    input:
        RESULTS / "report" / MANIFEST,


rule report_one:
    input:
        pretrain=rules.pretrain.input,
        search=rules.search.input,
        align=manifests("align"),
        unlearn=manifests("unlearn"),
        rephrase=manifests("rephrase"),
        utility=manifests("utility"),
        privacy=manifests("privacy"),
        attack=attack_manifests(),
        code=sources("report"),
    output:
        manifest=RESULTS / "report" / MANIFEST,
        metrics=RESULTS / "report/metrics.json",
        tables=RESULTS / "report/table.csv",
        page=report(
            RESULTS / "report/report.html",
            caption="../report/page.rst",
            category="Report",
        ),
        scatter=report(
            RESULTS / "report/forget_retain.svg",
            caption="../report/forget_retain.rst",
            category="Figures",
        ),
        forms=report(
            RESULTS / "report/leakage_by_form.svg",
            caption="../report/leakage_by_form.rst",
            category="Figures",
        ),
        robustness=report(
            RESULTS / "report/robustness.svg",
            caption="../report/robustness.rst",
            category="Figures",
        ),
        trajectories=report(
            RESULTS / "report/trajectories.svg",
            caption="../report/trajectories.rst",
            category="Figures",
        ),
    log:
        LOGS / "report/report.log",
    benchmark:
        LOGS / "report/report.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        file=PARAMS_FILE,
        section=section("report"),
        results=RESULTS,
    message:
        JOB
    shell:
        "python -m atu report --params {params.file} --results {params.results} --out {output.manifest}"
        " > {log} 2>&1"
