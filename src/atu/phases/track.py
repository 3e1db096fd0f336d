"""track: mirror every cell and the report to MLflow, from results alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atu.config.dependencies import ENTRIES, dependencies
from atu.config.sections import Track
from atu.errors import ArtifactError, visible
from atu.reporting.names import FIGURES
from atu.results.artifacts import Artifact
from atu.results.files import write_json
from atu.results.jobs import write_folder
from atu.tracking.connection import mask, tracking_uri
from atu.tracking.mirror import RunRecord, flatten, mirror

PHASE = "track"
CURVE_FILES = ("trace.jsonl", "trajectory.jsonl")


def run(
    out: Path,
    section: Track,
    *,
    report: Artifact,
    cells: list[dict[str, Artifact]],
) -> None:
    """Write `runs.json`, the list of mirrored runs with their digests, after mirroring them.

    The receipt holds nothing of the store (no run ids, no times), so that it is the same wherever
    the runs went.

    Raises:
        ArtifactError: the report was made from other folders than these, a folder is replaced while
            it is read, or another process mirrors these results; nothing is mirrored then.
        TrackingError: the store fails.
    """
    results = report.folder.parent
    inputs = {"report": report} | {
        f"{phase}/{number}": artifact
        for number, cell in enumerate(cells)
        for phase, artifact in cell.items()
    }
    params = dependencies(PHASE, section)
    with write_folder(out, PHASE, cell=report.cell, params=params, inputs=inputs) as job:
        require_reported(report, cells)
        records = [report_record(report), *map(make_record, cells)]
        done = mirror(records, section.experiment, results)
        print(
            f"track: {done['made']} runs written, {done['completed']} completed, "
            f"{done['kept']} up to date, {done['retired']} retired at {mask(tracking_uri())}",
            file=sys.stderr,
        )
        write_json(job.path("runs.json"), {r.cell: r.digest for r in records})
        job.metrics = {"track/runs/all": len(records)}


def require_reported(report: Artifact, cells: list[dict[str, Artifact]]) -> None:
    """Refuse folders that are not those the report was made from: a job has replaced one since.

    Raises:
        ArtifactError: names the folder.
    """
    known = set(report.manifest["inputs"].values())
    for cell in cells:
        for artifact in cell.values():
            if artifact.digest not in known:
                raise ArtifactError(
                    f"{artifact.folder}: not the one that {report.folder} was made from; "
                    "run `snakemake report` first"
                )


def report_record(report: Artifact) -> RunRecord:
    """The run that holds what is about all cells: figures, page, and the table as description.

    MLflow takes `[0.9, 1.0] (21)` for a link; escaped it is the interval and the number it is.
    """
    return RunRecord(
        cell=report.manifest["phase"],
        name="report",
        files=[report.file(name) for name in (*FIGURES, "report.html")],
        description=report.file("table.md").read_text(encoding="utf-8").replace("[", r"\["),
    )


def make_record(cell: dict[str, Artifact]) -> RunRecord:
    """One run from a cell's folders (`align`, `unlearn`, `rephrase`, `utility`, ...)."""
    keys = cell["unlearn"].cell
    keys = {key: visible(v) if isinstance(v, str) else v for key, v in keys.items()}
    params = {key: str(value) for key, value in keys.items()}
    for phase, artifact in cell.items():
        params |= dict(flatten(comparable(artifact.manifest), f"{phase}."))
    return RunRecord(
        cell="/".join(str(keys[key]) for key in ("model", "target", "method", "seed")),
        name=f"{keys['method']} · seed {keys['seed']} · {keys['target']} · {keys['model']}",
        params=params,
        metrics={k: v for artifact in cell.values() for k, v in artifact.metrics().items()},
        curves=[
            point
            for name in ("align", "unlearn")
            if name in cell
            for point in _curves(name, cell[name])
        ],
    )


def comparable(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's parameters; `methods.<name>.x` is `method.x`, so that what two methods have in
    common stands in one column.
    """
    values = dict(manifest["params"])
    entries = ENTRIES.get(manifest["phase"], "")
    if entries in values and len(values[entries]) == 1:
        (values[entries.removesuffix("s")],) = values.pop(entries).values()
    return values


def _curves(phase: str, artifact: Artifact) -> list[tuple[str, int, float]]:
    """Every number of the trace (by running step) and of the trajectory (by unlearning step)."""
    points: list[tuple[str, int, float]] = []
    for name in CURVE_FILES:
        if name not in artifact.manifest["artifacts"]:
            continue
        kind = name.removesuffix(".jsonl")
        for number, row in enumerate(artifact.read_jsonl(name)):
            step = row["step"] if kind == "trajectory" else number + 1
            points += [
                (f"{phase}.{kind}/{key}", int(step), float(value))
                for key, value in row.items()
                if key != "step" and isinstance(value, int | float)
            ]
    return points
