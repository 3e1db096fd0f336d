"""What finished jobs say, as one table for a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from atu.config.cells import CELL_PHASES, finished_cells
from atu.errors import ArtifactError
from atu.reporting.items import CELL, load_items
from atu.results.artifacts import Artifact

KEYS: dict[str, Any] = {
    "model": pl.String, "target": pl.String, "method": pl.String, "seed": pl.Int64,
}  # fmt: skip


def results(folder: str | Path, *, items: bool = False) -> pl.DataFrame:
    """One row per finished model, target, method and seed, with every metric of its jobs.

    Columns are the cell's keys and the names of `metrics.json`, `phase/metric/split`; null where a
    cell's job is not finished or could not score every item. Every file is compared with its
    manifest.

    Args:
        folder: an experiment's results, such as `results/world`.
        items: one row per question instead, with answer and scores: the `report` split of
            `rephrase`.

    Raises:
        ArtifactError: nothing is finished there, or a file is not as its manifest says.
    """
    place = Path(folder)
    if items:
        return load_items(_finished(place, "rephrase"))
    return _metrics(_finished(place, *CELL_PHASES, "attack"))


def _finished(place: Path, *phases: str) -> list[Artifact]:
    artifacts = [artifact for phase in phases for artifact in finished_cells(place, phase)]
    if not artifacts:
        raise ArtifactError(
            f"{place}: holds no finished {phases[0]} job; name an experiment's folder below "
            f"results/, or run `snakemake {phases[0]}` first"
        )
    return artifacts


def _metrics(jobs: list[Artifact]) -> pl.DataFrame:
    """The jobs' metrics side by side, cells in order."""
    cells: dict[tuple[Any, ...], dict[str, float]] = {}
    for job in jobs:
        values = {name: float(value) for name, value in job.metrics().items()}
        cells.setdefault(tuple(job.cell[key] for key in CELL), {}).update(values)
    names = dict.fromkeys(name for values in cells.values() for name in values)
    rows = [
        dict(zip(CELL, cell, strict=True)) | dict.fromkeys(names) | cells[cell]
        for cell in sorted(cells)
    ]
    return pl.DataFrame(rows, schema=KEYS | dict.fromkeys(names, pl.Float64))
