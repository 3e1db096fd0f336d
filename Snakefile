# Align-then-Unlearn: data preparation, target embeddings, alignment, search, unlearning, rephrase
# robustness, utility, privacy, attacks, report, MLflow. One job = one `atu` call = one folder below results/.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/prepare.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/unlearn.smk"
include: "workflow/rules/rephrase.smk"
include: "workflow/rules/utility.smk"
include: "workflow/rules/privacy.smk"
include: "workflow/rules/attack.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/track.smk"


report: "workflow/report/workflow.rst"


onstart:
    serve_jobs()
    # With a limit on jobs per second the scheduler looks at the files of all ready jobs once a second
    # for every job that has ended, to the end of the run (Snakemake 9.27). Nothing here is to limit.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


# On a cluster these run where snakemake does: a queue would cost more than the work.
localrules:
    prepare_shared,
    prepare_one,
    search_shared,
    report_one,
    track_one,


rule all:
    default_target: True
    input:
        rules.prepare.input,
        rules.pretrain.input,
        rules.embed.input,
        rules.align.input,
        rules.search.input,
        rules.unlearn.input,
        rules.rephrase.input,
        rules.utility.input,
        rules.privacy.input,
        rules.attack.input,
        rules.report.input,
        rules.track.input,
