"""Commands that look at results: what is done, what came out, and where a number is from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atu.cli.options import DEFAULT_PARAMS, AsJson, FoundResults, ParamsFile, app
from atu.cli.starting import quiet_libraries, results_of


def _folder(results: Path | None, params: Path) -> Path:
    """The folder of the results: that of the parameter file's experiment unless it is given."""
    if results is not None:
        return results
    from atu.config.load import experiment_name

    return Path("results") / experiment_name(params)


@app.command()
def status(
    params: ParamsFile = DEFAULT_PARAMS,
    results: FoundResults = None,
    everything: Annotated[bool, typer.Option("--all", help="List every job.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is done of the grid, what is running, stale, failed or missing, and why.

    The exit code is 0 if every job is done, 1 if not, and 2 if that cannot be said.
    """
    from atu.config.load import load_grid
    from atu.terminal.printing import print_json
    from atu.terminal.status import job_states, print_status

    loaded = load_grid(params)
    states = job_states(loaded, results_of(results, loaded.experiment))
    if as_json:
        print_json(states)
    else:
        print_status(states, everything)
    if any(job.state != "done" for job in states):
        raise typer.Exit(1)


@app.command()
def show(
    params: ParamsFile = DEFAULT_PARAMS,
    results: FoundResults = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every column of the report's main table.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what every method forgot, and what it cost: the report's first table."""
    from atu.terminal.headline import headline, print_headline
    from atu.terminal.printing import print_json

    shown = headline(_folder(results, params), everything)
    if as_json:
        print_json(shown)
    else:
        print_headline(shown)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A key of unlearn.methods.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    params: ParamsFile = DEFAULT_PARAMS,
    results: FoundResults = None,
    as_json: AsJson = False,
) -> None:
    """Print A minus B, item by item, with intervals and a verdict, of what both have finished."""
    from atu.config.load import load_grid
    from atu.terminal.compare import comparison, print_comparison
    from atu.terminal.printing import print_json

    loaded = load_grid(params)
    found = comparison(loaded, results_of(results, loaded.experiment), first, second)
    if as_json:
        print_json(found)
    else:
        print_comparison(found)


@app.command()
def explain(
    metric: Annotated[str, typer.Argument(help="A key of metrics.json, or a part of one.")],
    run: Annotated[
        str | None,
        typer.Option(
            help="The job: words of its model, target, method, seed or folder, with / between "
            "them, such as atu/0. Not needed where one job alone has the number.",
            show_default=False,
        ),
    ] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    results: FoundResults = None,
    as_json: AsJson = False,
) -> None:
    """Print what made a number: formula, file, items, parameters, code, and the command."""
    from atu.terminal.explain import explanation, print_explanation
    from atu.terminal.printing import print_json

    found = explanation(_folder(results, params), metric, run)
    if as_json:
        print_json(found)
    else:
        print_explanation(found)


@app.command()
def answers(
    role: Annotated[str, typer.Option(help="target, neighbour, other, general, ...")],
    method: Annotated[str, typer.Option(help="A key of unlearn.methods.")],
    target: Annotated[
        str | None, typer.Option(help="Name, or its folder's.", show_default=False)
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="question, cloze, ...", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="Probes at most.")] = 10,
    params: ParamsFile = DEFAULT_PARAMS,
    results: FoundResults = None,
    as_json: AsJson = False,
) -> None:
    """Print probes with the gold answer, the original's, the method's and the oracle's."""
    from atu.terminal.answers import Wanted, print_answers
    from atu.terminal.answers import answers as find
    from atu.terminal.printing import print_json

    found = find(_folder(results, params), Wanted(role, method, target, form, seed), limit)
    if as_json:
        print_json(found)
    else:
        print_answers(found)


@app.command()
def ui(
    params: ParamsFile = DEFAULT_PARAMS,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    opened: Annotated[bool, typer.Option("--open", help="Open the runs in a browser.")] = False,
) -> None:
    """Serve MLflow's UI, and print the addresses of the experiment's runs, charts and answers, and
    of the report.
    """
    from atu.config.load import load_grid

    loaded = load_grid(params)
    quiet_libraries()
    from atu.reporting.names import PAGE
    from atu.tracking.ui import serve

    page = results_of(None, loaded.experiment) / "report" / PAGE
    serve(loaded.track.experiment, page, host, port, opened)
