"""Where every job's folder is: the one place that knows the layout of `results/<experiment>/`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atu.artifacts import MANIFEST, Artifact
from atu.config import Params, target_slug

CELL_PHASES = ("unlearn", "rephrase", "utility")


@dataclass(frozen=True)
class Cell:
    """One model, target, method and seed, with the target's folder name."""

    model: str
    target: str
    slug: str
    method: str
    seed: int


def grid_cells(params: Params) -> Iterator[Cell]:
    """All cells of the grid, in the order of the parameter file."""
    grid = params.grid
    for model in grid.models:
        for target in grid.targets:
            for method in grid.methods:
                for seed in grid.seeds:
                    yield Cell(model, target, target_slug(target), method, seed)


def manifest_path(results: Path, phase: str, cell: Cell) -> Path:
    """The manifest of a cell's folder in one phase."""
    parts = {
        "prepare": (cell.slug,),
        "embed": (cell.model, cell.slug),
        "align": (cell.model, cell.slug, str(cell.seed)),
    }.get(phase, (cell.model, cell.slug, cell.method, str(cell.seed)))
    return results.joinpath(phase, *parts, MANIFEST)


def open_cells(params: Params, results: Path) -> list[dict[str, Artifact]]:
    """Every cell's `align`, `unlearn`, `rephrase` and `utility` folders."""
    phases = ("align", *CELL_PHASES)
    return [
        {phase: Artifact.open(manifest_path(results, phase, cell), phase) for phase in phases}
        for cell in grid_cells(params)
    ]


def open_models(params: Params, results: Path) -> list[Artifact]:
    """The pretrained full models, and the oracles where the grid has the method `oracle`."""
    variants = ["full"]
    if any(params.unlearn.methods[m].loss == "oracle" for m in params.grid.methods):
        variants += [f"oracle-{target_slug(target)}" for target in params.grid.targets]
    return [
        Artifact.open(results / "pretrain" / model / variant / MANIFEST, "pretrain")
        for model in params.grid.models
        for variant in variants
    ]
