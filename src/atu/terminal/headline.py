"""`atu show`: the report's main table, as the report wrote it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from atu.metrics.bootstrap import Estimate
from atu.reporting import cells
from atu.reporting.tables import CHOICE, COLUMNS, DISTANCE, TASK_TITLES, interval, task_names
from atu.results.artifacts import MANIFEST, Artifact
from atu.results.files import sha256
from atu.terminal.printing import open_console, print_tables

TABLE = "table.csv"
FIRST = (*cells.COLUMNS, cells.UTILITY, DISTANCE)
"""The five columns that are shown unless all are asked for: those of the page's first table."""


@dataclass(frozen=True)
class Headline:
    """The main table, read back."""

    rows: list[dict[str, Any]]
    """Per model and method: its `name`, an `Estimate` per column, a number or None per task,
    `collapsed`."""
    columns: list[str]
    tasks: list[str]
    confidence: float
    changed: int
    """How many of the folders that the report read are others now, or gone."""
    read: int


def headline(results: Path, everything: bool = False) -> Headline:
    """The main table of the report that stands in these results: its `FIRST` columns, or all.

    Raises:
        ArtifactError: there is no report, or its table is not as its manifest says.
    """
    report = Artifact.open(results / "report" / MANIFEST, "report")
    table = pl.read_csv(report.file(TABLE), infer_schema_length=None)
    flat = table.to_dicts()
    there = [name for name in table.columns if f"{name}_low" in table.columns]
    known = COLUMNS if everything else FIRST
    columns = [name for name in known if name in there]
    columns += [name for name in there if name not in known] if everything else []
    tasks = [n for n in task_names(flat[0]) if n not in (*there, CHOICE)] if everything else []
    rows = [
        {key: row[key] for key in ("model", "method", "name", *tasks)}
        | {name: read_estimate(row, name) for name in columns}
        | {"collapsed": bool(row["collapsed"])}
        for row in flat
    ]
    digests = {sha256(path) for path in results.glob(f"**/{MANIFEST}")}
    inputs = report.manifest["inputs"].values()
    changed = sum(digest not in digests for digest in inputs)
    confidence = report.manifest["params"]["confidence"]
    return Headline(rows, columns, tasks, confidence, changed, len(inputs))


def read_estimate(row: Mapping[str, Any], name: str) -> Estimate:
    """An estimate from the five columns that `tables.flatten` made of it."""
    numbers = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    mean, low, high = (math.nan if value is None else float(value) for value in numbers)
    return Estimate(mean, low, high, row[f"{name}_n"], row[f"{name}_n_scored"])


def print_headline(shown: Headline) -> None:
    """Per method the mean of every column, with its interval below."""
    several = len({row["model"] for row in shown.rows}) > 1
    heads = ["method"]
    heads += [_head(COLUMNS.get(k, k), f"n {shown.rows[0][k].n}") for k in shown.columns]
    heads += [_head(TASK_TITLES.get(name, name)) for name in shown.tasks]
    lines = []
    for row in shown.rows:
        name = row["name"] + (f"\n({row['model']})" if several else "")
        cells = [name + ("\nCOLLAPSED" if row["collapsed"] else "")]
        cells += [two_lines(row[key]) for key in shown.columns]
        cells += ["INVALID" if row[t] is None else f"{row[t]:.2f}" for t in shown.tasks]
        lines.append(cells)
    print_tables(heads, lines)
    console = open_console()
    console.print(
        f"\nReport split; {100 * shown.confidence:g} % bootstrap intervals; n items. About the "
        "target low is good, elsewhere high."
    )
    if shown.changed:
        console.print(
            f"The report is older than these results: {shown.changed} of the {shown.read} folders "
            "that it read are others now. `snakemake report` makes it anew."
        )


def _head(title: str, *more: str) -> str:
    """A title with a word per line, so that columns are as narrow as their numbers."""
    return "\n".join([*title.split(" "), *more])


def two_lines(estimate: Estimate) -> str:
    """The mean, and below it its interval, short, so that the table fits 80 columns: `.27–1.00`; or
    INVALID and how many items were scored.
    """
    if not estimate.valid:
        return f"INVALID\n{estimate.n_scored} of {estimate.n}"
    mean, *bounds = re.findall(r"-?[\d.]+", interval(estimate))
    short = "–".join(re.sub(r"\b0\.", ".", bound) for bound in bounds)
    return f"{mean}\n{short}".rstrip()
