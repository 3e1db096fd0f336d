"""One command per phase, each writing one folder: what Snakemake calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from atu.cli.options import (
    DEFAULT_PARAMS,
    Method,
    Model,
    Out,
    ParamsFile,
    Processes,
    Results,
    Seed,
    Threads,
    app,
    input_of,
)
from atu.cli.starting import choose, open_input, quiet_libraries, start, takes_part, used
from atu.distributed import launch
from atu.errors import ConfigError


@app.command()
def prepare(
    out: Out,
    shared: Annotated[Path | None, input_of("shared prepare")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Prepare this target from --shared; several: at once.")
    ] = None,
    earlier: Annotated[
        list[str] | None, typer.Option(help="A target that earlier requests were about.")
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """Corpora and probes: the whole benchmark, or with --target and --shared one target's."""
    section = start(params, "prepare", threads).prepare
    from atu.phases import prepare as phase
    from atu.untrusted.targets import Target

    if bool(target) != (shared is not None):
        raise ConfigError("--target", target, "give --target and --shared together, or neither")
    if not target or shared is None:
        phase.run_shared(out, section)
    else:
        wanted = Target(tuple(target), tuple(earlier or ()))
        phase.run_target(out, section, wanted, open_input(shared, "prepare"))


@app.command()
def pretrain(
    out: Out,
    model: Model,
    shared: Annotated[Path, input_of("shared prepare")],
    oracle: Annotated[Path | None, input_of("target's prepare")] = None,
    second: Annotated[bool, typer.Option(help="Train the oracle from another seed.")] = False,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """A causal LM, trained or pinned; with --oracle one that never sees that target."""
    loaded = start(params, "pretrain", threads)
    from atu.phases import pretrain as phase
    from atu.resources.fit import fitting

    section = loaded.pretrain
    choose(section.models, model, "--model")
    texts = open_input(shared, "prepare")
    prepare = open_input(oracle, "prepare") if oracle else None
    with fitting("pretrain", loaded, name=model):
        phase.run(out, section, loaded.compute, model, texts, prepare, second)


@app.command()
def embed(
    out: Out,
    prepare: Annotated[list[Path], input_of("target's prepare")],
    pretrain: Annotated[Path | None, input_of("pretrain")] = None,
    shared: Annotated[Path | None, input_of("shared embed")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """Target embeddings: the concept's and every window's; without --pretrain the windows of the
    texts that several of these targets, or several models, read.
    """
    loaded = start(params, "embed", threads)
    from atu.phases import embed as phase

    section, compute = loaded.embed, loaded.compute
    prepared = [open_input(path, "prepare") for path in prepare]
    if pretrain is None:
        if shared is not None:
            raise ConfigError("--shared", shared, "give --pretrain too, or leave it out")
        phase.run_shared(out, section, compute, prepared, len(loaded.grid.models))
        return
    if len(prepared) > 1:
        raise ConfigError("--prepare", prepare[1], "give one target with --pretrain")
    lm = open_input(pretrain, "pretrain")
    windows = None if shared is None else open_input(shared, "embed")
    phase.run(out, section, compute, lm, prepared[0], windows)


@app.command()
def align(
    out: Out,
    seed: Seed,
    pretrain: Annotated[Path, input_of("pretrain")],
    embed: Annotated[Path, input_of("embed")],
    prepare: Annotated[Path, input_of("target's prepare")],
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
    processes: Processes = 1,
) -> None:
    """Alignment training of the embedding predictor."""
    loaded = start(params, "align", threads)
    if not takes_part(loaded, launch.rank_count(processes)):
        return
    from atu.phases import align as phase
    from atu.resources.fit import fitting

    model, windows = open_input(pretrain, "pretrain"), open_input(embed, "embed")
    texts = open_input(prepare, "prepare")
    with fitting("align", loaded, model=model):
        phase.run(out, loaded.align, loaded.compute, seed, model, windows, texts)


@app.command()
def search(
    out: Out,
    method: Annotated[str | None, typer.Option(help="Search this key of search.spaces.")] = None,
    pretrain: Annotated[Path | None, input_of("pretrain")] = None,
    prepare: Annotated[list[Path] | None, input_of("each target's prepare, in order,")] = None,
    embed: Annotated[list[Path] | None, input_of("each target's embed")] = None,
    align: Annotated[list[Path] | None, input_of("each target's align")] = None,
    search: Annotated[list[Path] | None, input_of("method's search")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
    processes: Processes = 1,
) -> None:
    """A method's settings by trials on `select` questions; or a table of --search folders."""
    loaded = start(params, "search", threads)
    from atu.phases import search as phase
    from atu.resources.fit import fitting

    section = loaded.search

    if method is None:
        phase.run_shared(out, section, [open_input(path, "search") for path in search or []])
        return
    choose(section.spaces, method, "--method")
    if pretrain is None:
        raise ConfigError("--method", method, "needs --pretrain")
    inputs = [
        _unlearn_inputs(pretrain, *folders)
        for folders in zip(
            _of_each("--prepare", section.targets, prepare),
            _of_each("--embed", section.targets, embed, needed=bool(align)),
            _of_each("--align", section.targets, align, needed=bool(embed)),
            strict=True,
        )
    ]
    settings = loaded.unlearn.methods[method]
    count = used(settings, loaded.unlearn, method, processes)
    if section.relearn and count > 1:
        raise ConfigError(
            "--processes", count, "search.relearn fine-tunes in one process; give the rule "
            "search_one `gpu: 1` (cluster/config.yaml, set-resources), or set search.relearn: null",
        )  # fmt: skip
    if not takes_part(loaded, count):
        return
    with fitting("search", loaded, model=inputs[0].pretrain, name=method, settings=settings):
        phase.run(out, section, loaded.compute, loaded.unlearn, method, inputs)


def _of_each(
    option: str, targets: list[str], given: list[Path] | None, needed: bool = True
) -> list[Any]:
    """One folder for every target; for each none where none is given, nor needed.

    Raises:
        ConfigError: there are more or fewer.
    """
    if not given and not needed:
        return [None] * len(targets)
    if len(given or []) != len(targets):
        raise ConfigError(
            option, [str(path) for path in given or []],
            f"must be given once for each of search.targets, in their order: {', '.join(targets)}",
        )  # fmt: skip
    return given or []


def _unlearn_inputs(pretrain: Path, prepare: Path, embed: Path | None, align: Path | None) -> Any:
    from atu.results.artifacts import Artifact
    from atu.unlearning.engine import UnlearnInputs

    return UnlearnInputs(
        pretrain=Artifact.open(pretrain, "pretrain", "unlearn"),
        prepare=open_input(prepare, "prepare"),
        embed=open_input(embed, "embed") if embed else None,
        align=open_input(align, "align") if align else None,
    )


@app.command()
def unlearn(
    out: Out,
    method: Method,
    seed: Seed,
    pretrain: Annotated[Path, input_of("pretrain (or earlier unlearn)")],
    prepare: Annotated[Path, input_of("target's prepare")],
    embed: Annotated[Path | None, input_of("embed")] = None,
    align: Annotated[Path | None, input_of("align")] = None,
    search: Annotated[Path | None, input_of("method's search")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
    processes: Processes = 1,
) -> None:
    """Unlearn with one method; with --search, at the settings that a search chose."""
    loaded = start(params, "unlearn", threads)
    from atu.phases import unlearn as phase
    from atu.resources.fit import fitting

    section = loaded.unlearn
    choose(section.methods, method, "--method")
    inputs = _unlearn_inputs(pretrain, prepare, embed, align)
    searched = open_input(search, "search") if search else None
    settings = phase.settings_of(section, method, searched)
    if not takes_part(loaded, used(settings, section, method, processes)):
        return
    with fitting("unlearn", loaded, model=inputs.pretrain, name=method, settings=settings):
        phase.run(out, section, loaded.compute, method, seed, inputs, searched)


@app.command()
def rephrase(
    out: Out,
    unlearn: Annotated[Path, input_of("unlearn")],
    prepare: Annotated[Path, input_of("target's prepare")],
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """Rephrase robustness: greedy answers to every probe in every form."""
    loaded = start(params, "rephrase", threads)
    from atu.phases import rephrase as phase
    from atu.resources.fit import fitting

    model, texts = open_input(unlearn, "unlearn"), open_input(prepare, "prepare")
    with fitting("rephrase", loaded, model=model):
        phase.run(out, loaded.rephrase, loaded.compute, model, texts)


@app.command()
def utility(
    out: Out,
    unlearn: Annotated[Path, input_of("unlearn")],
    prepare: Annotated[Path, input_of("target's prepare")],
    before: Annotated[Path | None, input_of("original model's utility")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """Utility benchmarks by lm-eval, fluency, and the COLLAPSED flag against --before."""
    loaded = start(params, "utility", threads)
    from atu.phases import utility as phase
    from atu.resources.fit import fitting

    model, texts = open_input(unlearn, "unlearn"), open_input(prepare, "prepare")
    original = open_input(before, "utility") if before else None
    with fitting("utility", loaded, model=model):
        phase.run(out, loaded.utility, loaded.compute, model, texts, original)


@app.command()
def privacy(
    out: Out,
    unlearn: Annotated[Path, input_of("unlearn")],
    prepare: Annotated[Path, input_of("target's prepare")],
    rephrase: Annotated[Path, input_of("rephrase")],
    reference: Annotated[Path | None, input_of("oracle's privacy")] = None,
    without_oracle: Annotated[
        bool, typer.Option(help="No oracle exists: leave out every number that needs one.")
    ] = False,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """Memorisation and membership inference against --reference, the oracle."""
    loaded = start(params, "privacy", threads)
    from atu.phases import privacy as phase
    from atu.resources.fit import fitting

    model, texts = open_input(unlearn, "unlearn"), open_input(prepare, "prepare")
    answers = open_input(rephrase, "rephrase")
    oracle = open_input(reference, "privacy") if reference else None
    with fitting("privacy", loaded, model=model):
        phase.run(
            out, loaded.privacy, loaded.compute, model, texts, answers, oracle, without_oracle
        )


@app.command()
def attack(
    out: Out,
    name: Annotated[str, typer.Option("--attack", help="A key of attack.attacks.")],
    unlearn: Annotated[Path, input_of("unlearn")],
    prepare: Annotated[Path, input_of("target's prepare")],
    embed: Annotated[Path | None, input_of("embed")] = None,
    align: Annotated[Path | None, input_of("align")] = None,
    original: Annotated[Path | None, input_of("original's pretrain")] = None,
    oracle: Annotated[Path | None, input_of("oracle's pretrain")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    threads: Threads = 1,
) -> None:
    """One attack: relearning, quantisation, sampling, in-context, logit lens, depth, fresh
    predictor.
    """
    loaded = start(params, "attack", threads)
    from atu.phases import attack as phase
    from atu.resources.fit import fitting

    choose(loaded.attack.attacks, name, "--attack")
    model, texts = open_input(unlearn, "unlearn"), open_input(prepare, "prepare")
    beside = [
        open_input(folder, written_by) if folder else None
        for folder, written_by in (
            (embed, "embed"), (align, "align"), (original, "pretrain"), (oracle, "pretrain"),
        )
    ]  # fmt: skip
    settings = loaded.attack.attacks[name]
    with fitting("attack", loaded, model=model, name=name, settings=settings):
        phase.run(out, loaded.attack, loaded.compute, name, model, texts, *beside)


@app.command()
def report(out: Out, results: Results, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Tables, figures and one HTML page from every cell of the grid."""
    from atu.config.cells import open_cells, open_models
    from atu.config.load import load_params

    loaded = load_params(params)
    from atu.phases import report as phase

    cells = open_cells(loaded, results)
    column = {name: [cell[name] for cell in cells] for name in cells[0]}
    inputs = phase.ReportInputs(
        rephrase=column["rephrase"],
        utility=column["utility"],
        privacy=column["privacy"],
        unlearn=column["unlearn"],
        align=list({a.digest: a for a in column.get("align", [])}.values()),
        pretrain=open_models(loaded, results),
        attack=[cell[f"attack/{name}"] for cell in cells for name in loaded.grid.attacks],
        search=[open_input(results / "search" / "shared" / "manifest.json", "search")],
    )
    phase.run(out, loaded, inputs)


@app.command()
def track(out: Out, results: Results, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Mirror every cell of the grid to MLflow (MLFLOW_TRACKING_URI, else mlflow/mlflow.db)."""
    from atu.config.cells import open_cells
    from atu.config.load import load_grid
    from atu.config.params import method_names

    loaded = load_grid(params)
    quiet_libraries()
    from atu.phases import track as phase

    report = open_input(results / "report" / "manifest.json", "report")
    cells, names = open_cells(loaded, results), method_names(loaded)
    phase.run(out, loaded.track, report=report, cells=cells, names=names)
