"""track: mirror every cell and the report to MLflow, from results alone."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atu.config.dependencies import ENTRIES, dependencies
from atu.config.sections import Track
from atu.errors import ArtifactError, visible
from atu.reporting.colours import method_colours
from atu.reporting.names import FIGURES, PAGE
from atu.results.artifacts import Artifact
from atu.results.files import read_json, write_json
from atu.results.jobs import write_folder
from atu.tracking.connection import mask, tracking_uri
from atu.tracking.mirror import mirror
from atu.tracking.records import (
    HEADLINE,
    TRAJECTORY,
    RunRecord,
    flatten,
    metric_name,
    page_path,
)
from atu.tracking.registry import Model
from atu.tracking.view import view_tags

PHASE = "track"
CURVE_FILES = ("trace.jsonl", "trajectory.jsonl")
CELLS, VERDICTS = "cells.csv", "verdicts.json"
KEYS = ("model", "target", "method", "seed")
DIGITS = 3
"""Of a headline; MLflow shows every digit that there is."""
COUNT = re.compile(r"[._]n/")


def run(
    out: Path,
    section: Track,
    *,
    report: Artifact,
    cells: list[dict[str, Artifact]],
    names: Mapping[str, str],
) -> None:
    """Write `runs.json`, the list of mirrored runs with their digests, after mirroring them.

    The receipt holds nothing of the store (no run ids, no times), so that it is the same wherever
    the runs went.

    Args:
        names: what people call the methods of the grid.

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
        records = make_records(report, cells, names)
        models = models_of(section, cells)
        done = mirror(records, section.experiment, results, view_of(records), models)
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


def make_records(
    report: Artifact, cells: list[dict[str, Artifact]], names: Mapping[str, str]
) -> list[RunRecord]:
    """The report's run, and one per cell. A cell's name starts with its method; what follows are
    those of its keys that differ between cells.
    """
    keys = [cell["unlearn"].cell for cell in cells]
    differ = several(keys)
    headline = read_headline(report)
    words = read_json(report.file(VERDICTS))
    colours = method_colours(key["method"] for key in keys)
    page = report.folder / PAGE
    where = (
        f"[The page of all runs]({page_path(page)}), if `make ui` serves this; else `{page}`, or "
        f"`{PAGE}` of the run `report`."
    )
    records = [report_record(report)]
    for key, cell in zip(keys, cells, strict=True):
        verdict = words.get(f"{key['model']}.{key['method']}", {}).get("words", "")
        record = make_record(cell, headline.get(tuple(str(key[k]) for k in KEYS), {}))
        name = " · ".join([names[key["method"]], *(_said(k, key[k]) for k in differ)])
        description = "\n\n".join(filter(None, [visible(verdict), where]))
        colour = colours[key["method"]]
        records.append(replace(record, name=name, colour=colour, description=description))
    return records


def models_of(section: Track, cells: Sequence[Mapping[str, Artifact]]) -> dict[str, Model]:
    """The models to register, by cell.

    Raises:
        ArtifactError: weights are missing or differ from their manifest.
    """
    found = {}
    for unlearn in (cell["unlearn"] for cell in cells):
        method = unlearn.cell["method"]
        if method in section.registered:
            name = f"{section.experiment}.{unlearn.cell['model']}.{method}"
            folder = unlearn.subfolder("model", code=True)
            found[cell_name(unlearn.cell)] = Model(
                name, folder, unlearn.digest, section.copy_weights
            )
    return found


def cell_name(keys: Mapping[str, Any]) -> str:
    """A cell as one text."""
    return "/".join(visible(str(keys[key])) for key in KEYS)


def several(keys: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of `seed`, `target` and `model` have several values."""
    return [key for key in ("seed", "target", "model") if len({k[key] for k in keys}) > 1]


def _said(key: str, value: Any) -> str:
    return f"seed {value}" if key == "seed" else visible(value)


def read_headline(report: Artifact) -> dict[tuple[str, ...], dict[str, float]]:
    """By model, target, method and seed the few numbers that a reader asks for first; one that was
    not asked, or that is not valid, is left out.
    """
    with report.file(CELLS).open(encoding="utf-8", newline="") as file:
        return {
            tuple(row[key] for key in KEYS): {
                key: round(float(row[key]), DIGITS) for key in HEADLINE if row[key]
            }
            for row in csv.DictReader(file)
        }


def view_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """How MLflow shows these runs."""
    metrics = {name for record in records for name in record.metrics}
    curves = {name for record in records for name, _, _ in record.curves}
    params = [record.params for record in records if record.params]
    groups = {metric_name(name).rpartition("/")[0] for name in metrics | curves} - {""}
    shown = [key for key, name in HEADLINE.items() if name in metrics]
    return view_tags(shown, groups, grouped="target" in several(params))


def report_record(report: Artifact) -> RunRecord:
    """The run that holds what is about all cells: figures, page, and the table as description.

    MLflow takes `[0.9, 1.0] (21)` for a link; escaped it is the interval and the number it is.
    """
    return RunRecord(
        cell=report.manifest["phase"],
        name="report",
        files=[report.file(name) for name in (*FIGURES, PAGE)],
        description=report.file("table.md").read_text(encoding="utf-8").replace("[", r"\["),
    )


def make_record(cell: dict[str, Artifact], headline: Mapping[str, float]) -> RunRecord:
    """One run from a cell's folders (`align`, `unlearn`, `rephrase`, `utility`, ...).

    Args:
        headline: its numbers by the columns of `HEADLINE`.
    """
    keys = cell["unlearn"].cell
    keys = {key: visible(v) if isinstance(v, str) else v for key, v in keys.items()}
    params = {key: str(value) for key, value in keys.items()}
    for phase, artifact in cell.items():
        params |= dict(flatten(comparable(artifact.manifest), f"{phase}."))
    metrics = {k: v for artifact in cell.values() for k, v in artifact.metrics().items() if told(k)}
    # Every cell of a seed has its alignment; a method that reads it shows how that went.
    traced = ["align", "unlearn"] if "align" in cell["unlearn"].manifest["inputs"] else ["unlearn"]
    return RunRecord(
        cell=cell_name(keys),
        name=keys["method"],
        params=params,
        metrics={HEADLINE[key]: value for key, value in headline.items()}
        | dict(sorted(metrics.items())),
        curves=[point for phase in traced for point in _curves(phase, cell[phase])],
        items=cell["rephrase"].file("items.parquet"),
    )


def told(name: str) -> bool:
    """Whether a run shows this metric: not what the `select` split says of anything but the choice
    of the checkpoint, and no number of items, which is the same in all runs.
    """
    phase, *_, split = name.split("/")
    return not COUNT.search(name) and (split != "select" or phase == "unlearn")


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
        traced = name == CURVE_FILES[0]
        for number, row in enumerate(artifact.read_jsonl(name)):
            step = number + 1 if traced else int(row["step"])
            points += [
                (f"{phase}.trace/{key}" if traced else _on_the_way(key), step, float(value))
                for key, value in row.items()
                if key != "step" and isinstance(value, int | float)
            ]
    return points


def _on_the_way(column: str) -> str:
    return f"trajectory/{TRAJECTORY.get(column, column)}"
