"""report: tables with intervals, three figures and one HTML page, from every cell's results."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from atu.artifacts import Artifact, Job, write_folder
from atu.config import Report
from atu.errors import ArtifactError
from atu.reporting import figures, tables

PHASE = "report"
FIGURES = ("forget_retain.png", "leakage_by_form.png", "trajectories.png")
EXAMPLES = 8


@dataclass(frozen=True)
class Inputs:
    """The folders of every cell, in the same order, and those of the shared phases."""

    rephrase: list[Artifact]
    utility: list[Artifact]
    unlearn: list[Artifact]
    align: list[Artifact]
    pretrain: list[Artifact]


def run(out: Path, section: Report, experiment: str, inputs: Inputs) -> None:
    """Write CSV tables, `table.md`, PNG figures and `report.html`."""
    require_same_cells(inputs)
    named = {
        f"{phase}/{number}": artifact
        for phase, artifacts in vars(inputs).items()
        for number, artifact in enumerate(artifacts)
    }
    with write_folder(
        out, PHASE, cell={"experiment": experiment}, params=section.model_dump(), inputs=named
    ) as job:
        methods = list(dict.fromkeys(a.cell["method"] for a in inputs.rephrase))
        items = tables.load_items(inputs.rephrase)
        rows = tables.main_table(items, section, methods)
        forms = tables.form_table(items, section, methods)
        points = tables.trajectory_table(inputs.unlearn)
        utility = tables.utility_means(inputs.utility)
        _write_tables(job, rows, forms, points, utility)
        _write_figures(job, rows, forms, points, experiment)
        _write_page(job, section, experiment, inputs, rows, forms, utility, items, methods)
        job.metrics = _metrics(rows, utility)


def _write_tables(job: Job, rows: Any, forms: Any, points: Any, utility: Any) -> None:
    wide = [dict(row) | dict(utility[row["model"], row["method"]]) for row in rows]
    tables.flatten(wide).write_csv(job.path("table.csv"))
    tables.flatten(forms).write_csv(job.path("forms.csv"))
    points.write_csv(job.path("trajectories.csv"))
    job.path("table.md").write_text(tables.markdown_table(rows, utility), encoding="utf-8")


def _write_figures(job: Job, rows: Any, forms: Any, points: Any, experiment: str) -> None:
    figures.forget_retain(job.path(FIGURES[0]), rows, f"{experiment}: forgetting and its cost")
    figures.leakage_by_form(job.path(FIGURES[1]), forms, f"{experiment}: what still leaks")
    figures.trajectories(job.path(FIGURES[2]), points, f"{experiment}: on the way")


def _metrics(
    rows: Sequence[Mapping[str, Any]], utility: Mapping[tuple[str, str], Mapping[str, float]]
) -> dict[str, float]:
    metrics = {}
    for row in rows:
        cell = f"{row['model']}.{row['method']}"
        for key in tables.COLUMNS:
            metrics[f"report/{cell}.{key}_exact_match/report"] = row[key].mean
        scores = utility[row["model"], row["method"]]
        for key in ("generate", "choice", "fluency", "collapsed"):
            metrics[f"report/{cell}.{key}/report"] = scores[key]
    return metrics


def headline(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per model and method: did it forget, and what did it cost?"""
    sentences = []
    for row in rows:
        if row["method"] in figures.SPECIAL:
            continue
        same = {r["method"]: r for r in rows if r["model"] == row["model"]}
        before, oracle = same["none"], same.get("oracle")
        text = (
            f"{row['method']}: held-out questions about the target {before['target'].mean:.2f} → "
            f"{row['target'].mean:.2f}"
        )
        text += f" (oracle {oracle['target'].mean:.2f})" if oracle else ""
        text += (
            f"; in the worst form {before['worst_form'].mean:.2f} → {row['worst_form'].mean:.2f}"
            f"; neighbours {before['neighbour'].mean:.2f} → {row['neighbour'].mean:.2f}"
            f"; other people {before['other'].mean:.2f} → {row['other'].mean:.2f}"
        )
        sentences.append(text)
    return sentences


def _write_page(
    job: Job,
    section: Report,
    experiment: str,
    inputs: Inputs,
    rows: Any,
    forms: Any,
    utility: Any,
    items: Any,
    methods: Sequence[str],
) -> None:
    import jinja2

    template = (resources.files("atu.phases") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template).render(
        experiment=experiment,
        section=section,
        targets=sorted({a.cell["target"] for a in inputs.rephrase}),
        seeds=sorted({a.cell["seed"] for a in inputs.rephrase}),
        columns=tables.COLUMNS,
        rows=rows,
        utility=utility,
        headline=headline(rows),
        examples=tables.example_answers(items, methods, EXAMPLES),
        alignment=[(a.cell, a.metrics()) for a in inputs.align],
        knowledge=[(a.cell, a.metrics()) for a in inputs.pretrain],
        images={name: _data_uri(job.folder / name) for name in FIGURES},
        special=figures.SPECIAL,
    )
    job.path("report.html").write_text(page, encoding="utf-8")


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def require_same_cells(inputs: Inputs) -> None:
    """Refuse a comparison in which a cell is missing from one of the phases.

    Raises:
        ArtifactError: rephrase, utility and unlearn do not cover the same cells.
    """
    covered = {
        phase: {tuple(sorted(a.cell.items())) for a in getattr(inputs, phase)}
        for phase in ("rephrase", "utility", "unlearn")
    }
    for phase, cells in covered.items():
        if cells != covered["unlearn"]:
            raise ArtifactError(f"report: {phase} and unlearn cover different cells")
