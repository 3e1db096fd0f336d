# Helpers of the rules: the checked parameters, and where each job's manifest is.
import os
import shlex

from atu import attacks, benchmarks, methods
from atu.config import cells
from atu.results.artifacts import MANIFEST
from atu.config.params import needs_alignment, oracle_method
from atu.config.roles import ORACLE, ORACLES, ORIGINAL, role_of
from atu.config.load import load_params
from atu.distributed import forkserver
from atu.benchmarks.shared.source import sources_of
from atu.probes.measures import MEASURES
from atu.errors import AtuError, visible
from atu.results.sources import PACKAGE, export_package, phase_sources
from pathlib import Path
from snakemake.exceptions import WorkflowError

PARAMS_FILE = "params.yaml"

export_package()

if config:
    raise WorkflowError(
        f"--config and --configfile are refused: jobs read {PARAMS_FILE}, so a result would carry "
        f"the wrong label. Edit {PARAMS_FILE}, or `make experiment NAME=...`."
    )
try:
    PARAMS = load_params(Path(PARAMS_FILE), across=workflow.is_main_process)
    cells.require_writable(Path("results") / PARAMS.experiment)
except AtuError as error:
    raise WorkflowError(visible(str(error))) from None

RESULTS = Path("results") / PARAMS.experiment
LOGS = Path("logs") / PARAMS.experiment
# What is printed of a job, beside why it runs: Snakemake's own text lists a hundred source files.
JOB = "{rule}\n    output: {output.manifest}\n    log: {log}"
CELLS = list(cells.grid_cells(PARAMS))
SEARCHED = [name for name in PARAMS.grid.methods if PARAMS.searched(name)]
REQUESTS = [*PARAMS.grid.requests(), *(PARAMS.search.requests() if SEARCHED else [])]
TARGETS = {target.slug: target for target in REQUESTS}


wildcard_constraints:
    model="|".join(PARAMS.grid.models),
    target="|".join(map(re.escape, TARGETS)),
    method="|".join(PARAMS.grid.methods),
    seed=r"\d+",
    attack="|".join(PARAMS.grid.attacks) or "none",


def serve_jobs():
    """Start a fork server for jobs that this Snakemake runs itself. Where GPUs compute there is
    none: a process that has used CUDA cannot be forked, and jobs there are long.
    """
    local = workflow.is_main_process and workflow.local_exec
    if local and PARAMS.compute.place.type == "cpu":
        forkserver.start()


def manifests(phase):
    """The manifests of every job of a phase that has cells, each once; none of the alignment where
    the grid needs none.
    """
    if phase in ("embed", "align") and not needs_alignment(PARAMS):
        return []
    return list(
        dict.fromkeys(cells.manifest_path(RESULTS, phase, cell) for cell in CELLS)
    )


def sources(phase, *named):
    """The source files that decide a phase's results; of what is found by name only what is `named`
    here, with `base` nothing.
    """
    return [os.path.relpath(PACKAGE / name) for name in phase_sources(phase, *named)]


def benchmark_sources():
    """The source files that decide what `prepare` makes, of all benchmarks only the chosen one."""
    return sources("prepare", PARAMS.prepare.benchmark)


def benchmark_locks():
    """The locks of the benchmark's sources, where it has any: they say what the data are."""
    return [source.lock for source in sources_of(PARAMS.prepare).values()]


def model_lock(wildcards):
    """The lock of a model that exists; none for one that is built here."""
    source = getattr(PARAMS.pretrain.models[wildcards.model], "source", None)
    return [source.lock] if source else []


def oracle_lock(wildcards):
    """The locks of a model that exists, and of the oracle that came with it for the target."""
    oracles = getattr(PARAMS.pretrain.models[wildcards.model], "oracles", {})
    source = oracles.get(TARGETS[wildcards.target].label)
    return [*model_lock(wildcards), *([source.lock] if source else [])]


def given_lock(wildcards):
    """The lock of a checkpoint that is given; none for a method that trains."""
    source = getattr(PARAMS.unlearn.methods[wildcards.method], "source", None)
    return [source.lock] if source else []


def measures():
    """The modules of the metrics that the benchmark's probes are scored by."""
    return [
        MEASURES[name] for name in benchmarks.get(PARAMS.prepare.benchmark).measures
    ]


def method_sources(phase):
    """The source files that decide a job's results: of all methods, of their guards, and of the
    measures of an answer only its own.
    """

    def chosen(wildcards):
        return sources(phase, loss_of(wildcards.method), *measures())

    return chosen


def attack_sources(wildcards):
    """The source files that decide an attack's results, as `method_sources`, and of all attacks
    only its own.
    """
    named = attack_kind(wildcards), loss_of(wildcards.method)
    return sources("attack", *named, *measures())


def section(phase):
    """The parameters of a phase, as its jobs depend on them."""
    return PARAMS.section(phase)


def target_options(wildcards):
    """The CLI options that name what is to be forgotten, and what was before."""
    target = TARGETS[wildcards.target]
    named = [("target", name) for name in target.new]
    named += [("earlier", name) for name in target.earlier]
    return " ".join(f"--{option} {shlex.quote(name)}" for option, name in named)


def loss_of(method):
    """The loss that a key of unlearn.methods uses."""
    return PARAMS.unlearn.methods[method].loss


def is_oracle(wildcards):
    """Whether the method is the model that never saw the target."""
    return role_of(loss_of(wildcards.method)) == ORACLE


def start_model(wildcards):
    """The model a method starts from: the original, or the one that met the request before. An
    oracle is a model of its own, and a given checkpoint one of the original's.
    """
    method, before = (
        methods.get(loss_of(wildcards.method)),
        TARGETS[wildcards.target].before,
    )
    trains_on = method.start == "full" and not method.given
    if before and trains_on:
        here = RESULTS / "unlearn" / wildcards.model / before.slug
        return here / wildcards.method / wildcards.seed / MANIFEST
    variant = "full" if method.start == "full" else f"{method.start}-{wildcards.target}"
    return RESULTS / "pretrain" / wildcards.model / variant / MANIFEST


def prepared_manifests():
    """The prepared folders of all requests."""
    return [RESULTS / "prepare" / slug / MANIFEST for slug in TARGETS]


def prepared_options(wildcards):
    """The CLI options that name `prepared_manifests`."""
    return " ".join(f"--prepare {path}" for path in prepared_manifests())


def alignment_of(model, target, seed):
    """The embed and align folders of a model, target and seed."""
    return {
        "embed": RESULTS / "embed" / model / target / MANIFEST,
        "align": RESULTS / "align" / model / target / str(seed) / MANIFEST,
    }


def as_options(inputs):
    """CLI options that name these inputs."""
    return " ".join(f"--{name} {path}" for name, path in inputs.items())


def predictor_inputs(wildcards):
    """The embed and align folders for a method that needs the predictor; no other waits for them."""
    if not needs_predictor(wildcards):
        return {}
    return alignment_of(wildcards.model, wildcards.target, wildcards.seed)


def needs_predictor(wildcards):
    """Whether the method reads an aligned predictor."""
    return methods.get(loss_of(wildcards.method)).needs_predictor


def searched_input(wildcards):
    """The search of a method that is searched; none for the others."""
    if wildcards.method not in SEARCHED:
        return []
    return RESULTS / "search" / wildcards.model / wildcards.method / MANIFEST


def searched_option(wildcards, input):
    """The CLI option that names the search, where there is one."""
    return f"--search {input.search}" if input.search else ""


def search_inputs(wildcards):
    """The prepare folders of the search's targets, and their embed and align folders with its seed
    for a method that needs them.
    """
    slugs = [target.slug for target in PARAMS.search.requests()]
    inputs = {"prepare": [RESULTS / "prepare" / slug / MANIFEST for slug in slugs]}
    if needs_predictor(wildcards):
        for slug in slugs:
            for name, path in alignment_of(
                wildcards.model, slug, PARAMS.search.seed
            ).items():
                inputs.setdefault(name, []).append(path)
    return inputs


def search_options(wildcards):
    """The CLI options that name `search_inputs`."""
    inputs = search_inputs(wildcards).items()
    return " ".join(f"--{name} {path}" for name, paths in inputs for path in paths)


def search_manifests():
    """The search of every model and searched method."""
    return [
        RESULTS / "search" / model / method / MANIFEST
        for model in PARAMS.grid.models
        for method in SEARCHED
    ]


def finished_options(wildcards):
    """The CLI options that name `search_manifests`."""
    return " ".join(f"--search {path}" for path in search_manifests())


def search_section(wildcards):
    """The parameters of search with only this method's space."""
    return PARAMS.section("search", wildcards.method)


def predictor_options(wildcards):
    """The CLI options that name `predictor_inputs`."""
    return as_options(predictor_inputs(wildcards))


def benchmark_files():
    """The local files of further utility benchmarks: an edited one scores every model again."""
    sources = PARAMS.utility.benchmarks.values()
    return [source.path for source in sources if source.kind != "hub"]


def cell_of(method, wildcards):
    """The cell of another method with the same model, target and seed."""
    return cells.Cell(
        wildcards.model,
        TARGETS[wildcards.target].label,
        wildcards.target,
        method,
        int(wildcards.seed),
    )


def utility_before(wildcards):
    """The original model's utility, against which collapse is judged; none for itself, nor where
    nobody has the original.
    """
    if wildcards.method == ORIGINAL or ORIGINAL not in PARAMS.grid.methods:
        return []
    return cells.manifest_path(RESULTS, "utility", cell_of(ORIGINAL, wildcards))


def privacy_reference(wildcards):
    """The oracle's privacy, which all others are measured against; none for itself."""
    if is_oracle(wildcards) or oracle_method(PARAMS) is None:
        return []
    oracle = cell_of(oracle_method(PARAMS), wildcards)
    return cells.manifest_path(RESULTS, "privacy", oracle)


def reference_option(wildcards, input):
    """The CLI option that names the oracle's privacy, or says that no model has one."""
    if oracle_method(PARAMS) is None:
        return "--without-oracle"
    return f"--reference {input.reference}" if input.reference else ""


def attack_manifests():
    """The manifests of every attack on every cell."""
    return [
        cells.attack_manifest(RESULTS, cell, attack)
        for cell in CELLS
        for attack in PARAMS.grid.attacks
    ]


def attack_section(wildcards):
    """The parameters of attack with only this attack's entry."""
    return PARAMS.section("attack", wildcards.attack)


def attack_inputs(wildcards):
    """The folders that an attack needs besides the model's: the alignment; the original and the
    oracle, where the grid has them.
    """
    attack, inputs = attacks.get(attack_kind(wildcards)), {}
    pretrained = RESULTS / "pretrain" / wildcards.model
    if attack.needs_alignment:
        inputs |= alignment_of(wildcards.model, wildcards.target, wildcards.seed)
    if attack.needs_original and ORIGINAL in PARAMS.grid.methods:
        inputs["original"] = pretrained / "full" / MANIFEST
    if attack.needs_oracle and oracle_method(PARAMS) is not None:
        inputs["oracle"] = pretrained / f"oracle-{wildcards.target}" / MANIFEST
    return inputs


def attack_kind(wildcards):
    """The attack that a key of attack.attacks configures."""
    return PARAMS.attack.attacks[wildcards.attack].attack


def attack_options(wildcards):
    """The CLI options that name `attack_inputs`."""
    return as_options(attack_inputs(wildcards))


def method_section(wildcards):
    """The parameters of unlearn with only this method's entry."""
    return PARAMS.section("unlearn", wildcards.method)


def model_section(wildcards):
    """The parameters of pretrain with only this model's entry."""
    return PARAMS.section("pretrain", wildcards.model)


def oracle_manifests():
    """The oracles of every model and target; none where models come trained."""
    return [
        path
        for path in cells.model_manifests(PARAMS, RESULTS)
        if path.parent.name != "full"
    ]


def before_option(wildcards, input):
    """The CLI option that names the original model's utility, where there is one."""
    return f"--before {input.before}" if input.before else ""
