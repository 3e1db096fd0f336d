"""The command line's application, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Make a language model forget a concept (Align-then-Unlearn), and measure whether it did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="Parameter file.")]
Out = Annotated[Path, typer.Option("--out", help="The manifest.json to write; its folder is made.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads; part of the result.")]
Model = Annotated[str, typer.Option("--model", help="A key of pretrain.models.")]
Method = Annotated[str, typer.Option("--method", help="A key of unlearn.methods.")]
Results = Annotated[Path, typer.Option("--results", help="Folder of the experiment's results.")]
FoundResults = Annotated[
    Path | None,
    typer.Option(
        "--results",
        help="Folder of the experiment's results; results/<experiment> without it.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        min=0,
        help="Processes, each with a GPU of its own; 0 is 1. The rule's `gpu`.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of align and unlearn.")]


def input_of(phase: str) -> Any:
    """The option that names a folder of this phase by its manifest."""
    return typer.Option(help=f"manifest.json of a {phase} folder.", show_default=False)


DEFAULT_PARAMS = Path("params.yaml")
