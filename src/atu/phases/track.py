"""track: mirror every cell to MLflow, from results alone."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from atu.artifacts import Artifact, write_folder, write_json
from atu.config import Track
from atu.phases.report import FIGURES
from atu.tracking import RunRecord, flatten, mirror

PHASE = "track"
CURVE_FILES = ("trace.jsonl", "trajectory.jsonl")


def run(
    out: Path,
    section: Track,
    *,
    report: Artifact,
    cells: list[dict[str, Artifact]],
) -> None:
    """Write `runs.json`, the list of mirrored cells with their digests, after mirroring them.

    The receipt holds nothing of the store (no run ids, no times), so that it is the same wherever
    the runs went.
    """
    records = [make_record(cell, report) for cell in cells]
    inputs = {"report": report} | {
        f"{phase}/{number}": artifact
        for number, cell in enumerate(cells)
        for phase, artifact in cell.items()
    }
    with write_folder(
        out, PHASE, cell=report.cell, params=section.model_dump(), inputs=inputs
    ) as job:
        done = mirror(records, section.experiment)
        print(
            f"track: {done['made']} runs written, {done['kept']} up to date, "
            f"{done['retired']} retired",
            file=sys.stderr,
        )
        write_json(job.path("runs.json"), {r.cell: r.digest for r in records})
        job.metrics = {"track/runs/all": len(records)}


def make_record(cell: dict[str, Artifact], report: Artifact) -> RunRecord:
    """One run from a cell's folders (`align`, `unlearn`, `rephrase`, `utility`) and the figures."""
    digests = "".join(cell[phase].digest for phase in sorted(cell)) + report.digest
    keys = cell["unlearn"].cell
    params = {key: str(value) for key, value in keys.items()}
    for phase, artifact in cell.items():
        params |= dict(flatten(artifact.manifest["params"], f"{phase}."))
    return RunRecord(
        cell="/".join(str(keys[key]) for key in ("model", "target", "method", "seed")),
        name=f"{keys['method']} · {keys['target']} · {keys['model']} · seed {keys['seed']}",
        digest=hashlib.sha256(digests.encode()).hexdigest(),
        params=params,
        metrics={k: v for artifact in cell.values() for k, v in artifact.metrics().items()},
        curves=[point for name in ("align", "unlearn") for point in _curves(name, cell[name])],
        files=[report.file(name) for name in (*FIGURES, "report.html")],
    )


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
