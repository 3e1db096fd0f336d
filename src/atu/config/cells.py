"""Where every job's folder is: the one place that knows the layout of `results/<experiment>/`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu import methods
from atu.config.params import Params, needs_alignment
from atu.config.roles import ORACLES
from atu.errors import ArtifactError, ConfigError
from atu.results.artifacts import MANIFEST, Artifact

CELL_PHASES = ("unlearn", "rephrase", "utility", "privacy")


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
        for target in grid.requests():
            for method in grid.methods:
                for seed in grid.seeds:
                    yield Cell(model, target.label, target.slug, method, seed)


def cell_of(params: Params, row: Mapping[str, Any]) -> Cell:
    """The cell that a row of a table is about, by its model, target, method and seed."""
    slugs = {target.label: target.slug for target in params.grid.requests()}
    target = row["target"]
    return Cell(row["model"], target, slugs[target], row["method"], row["seed"])


def manifest_path(results: Path, phase: str, cell: Cell) -> Path:
    """The manifest of a cell's folder in one phase."""
    parts = {
        "prepare": (cell.slug,),
        "embed": (cell.model, cell.slug),
        "align": (cell.model, cell.slug, str(cell.seed)),
    }.get(phase, (cell.model, cell.slug, cell.method, str(cell.seed)))
    return results.joinpath(phase, *parts, MANIFEST)


def attack_manifest(results: Path, cell: Cell, attack: str) -> Path:
    """The manifest of one attack on a cell's model."""
    return manifest_path(results, "attack", cell).parent / attack / MANIFEST


def pretrained_manifest(results: Path, model: str, variant: str = "full") -> Path:
    """The manifest of a model before unlearning; the variant is `full`, `oracle-<slug>` or
    `second_oracle-<slug>`.
    """
    return results / "pretrain" / model / variant / MANIFEST


def finished_cells(results: Path, phase: str) -> list[Artifact]:
    """Every finished folder of a phase that has cells, whatever grid it was made for."""
    depth = 5 if phase == "attack" else 4
    return [
        Artifact.open(path, phase)
        for path in sorted(results.glob("/".join([phase, *"*" * depth, MANIFEST])))
        if not any(part.startswith(".") for part in path.relative_to(results).parts)
    ]


def require_writable(results: Path) -> None:
    """Refuse a results folder that no job could write.

    Raises:
        ConfigError: the folder, or the nearest one above it that exists, is a file or not writable.
    """
    place = next(path for path in (results, *results.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ConfigError("results", str(results), f"{place} is a file; move it away")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError("results", str(results), f"{place} cannot be written; change its mode")


def cell_manifests(params: Params, results: Path, cell: Cell) -> dict[str, Path]:
    """A cell's `align` (where the grid needs it), `unlearn`, `rephrase`, `utility` and `privacy`
    manifests, and those of its attacks as `attack/<name>`.
    """
    phases = (*(["align"] if needs_alignment(params) else []), *CELL_PHASES)
    return {phase: manifest_path(results, phase, cell) for phase in phases} | {
        f"attack/{name}": attack_manifest(results, cell, name) for name in params.grid.attacks
    }


def open_cells(params: Params, results: Path) -> list[dict[str, Artifact]]:
    """The folders of `cell_manifests`, of every cell."""
    return [
        {
            name: Artifact.open(path, name.partition("/")[0])
            for name, path in cell_manifests(params, results, cell).items()
        }
        for cell in grid_cells(params)
    ]


def damaged_models(params: Params, results: Path) -> list[Path]:
    """The manifests of `unlearn` folders with a missing or altered file. Every file is read.

    Folders without a manifest are not among them: Snakemake sees for itself that they are missing.
    """
    manifests = []
    for cell in grid_cells(params):
        path = manifest_path(results, "unlearn", cell)
        if path.exists():
            try:
                Artifact.open(path, "unlearn").check()
            except ArtifactError:
                manifests.append(path)
    return manifests


def model_manifests(params: Params, results: Path) -> list[Path]:
    """Those of the pretrained full models and the oracles."""
    oracles, requests = set(ORACLES).intersection(params.grid.methods), params.grid.requests()
    variants = ["full", *(f"{key}-{target.slug}" for key in sorted(oracles) for target in requests)]
    return [
        pretrained_manifest(results, model, variant)
        for model in params.grid.models
        for variant in variants
    ]


def open_models(params: Params, results: Path) -> list[Artifact]:
    """The pretrained full models and the oracles."""
    return [Artifact.open(path, "pretrain") for path in model_manifests(params, results)]


def job_folders(params: Params, results: Path) -> set[Path]:
    """The folders of all jobs that the grid needs: those of a clean run."""
    grid, searched = params.grid, [name for name in params.grid.methods if params.searched(name)]
    sought = [target.slug for target in params.search.requests()]
    folders = {results / phase / "shared" for phase in ("prepare", "search")}
    folders |= {results / "report", results / "track"}
    folders |= {path.parent for path in model_manifests(params, results)}
    for cell in grid_cells(params):
        phases = ("prepare", "embed") if needs_alignment(params) else ("prepare",)
        folders |= {manifest_path(results, phase, cell).parent for phase in phases}
        folders |= {path.parent for path in cell_manifests(params, results, cell).values()}
    if searched:
        folders |= {results / "prepare" / slug for slug in sought}
    for model in grid.models:
        folders |= {results / "search" / model / method for method in searched}
        if any(methods.get(params.unlearn.methods[m].loss).needs_predictor for m in searched):
            folders |= {results / "embed" / model / slug for slug in sought}
            seed = str(params.search.seed)
            folders |= {results / "align" / model / slug / seed for slug in sought}
    if any(results / "embed" in folder.parents for folder in folders):
        folders.add(results / "embed" / "shared")
    return folders


def collected(params: Params, results: Path) -> dict[Path, list[Path]]:
    """The folders that read whatever the grid has of some jobs, with the manifests of these."""
    cells = [
        path
        for cell in grid_cells(params)
        for path in cell_manifests(params, results, cell).values()
    ]
    folders = sorted(job_folders(params, results))
    single = {
        phase: [
            folder / MANIFEST
            for folder in folders
            if results / phase in folder.parents and folder != results / phase / "shared"
        ]
        for phase in ("prepare", "search")
    }
    searches = results / "search" / "shared"
    report = [*model_manifests(params, results), searches / MANIFEST, *cells]
    return {
        results / "embed" / "shared": single["prepare"],
        searches: single["search"],
        results / "report": report,
        results / "track": [results / "report" / MANIFEST, *cells],
    }
