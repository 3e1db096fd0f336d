"""What one MLflow run holds, and the names under which MLflow shows it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from atu.errors import visible
from atu.results.files import sha256

CELL_TAG = "atu.cell"
HEADLINE = {
    "target_questions": "1 target questions",
    "worst_form": "2 worst form",
    "neighbours": "3 neighbours",
    "utility": "4 utility",
    "distance": "5 distance",
    "collapsed": "6 COLLAPSED",
}
"""Columns of the report's `cells.csv` to metrics of MLflow, which sorts metrics and columns by
name: the digits keep these in front and in this order."""
TRAJECTORY = {
    "score_target": "target questions",
    "worst_form_target": "worst form",
    "score_neighbour": "neighbours",
}
"""Columns of the trajectory that are headlines too, and how MLflow calls them."""
LABELS = ("name", "colour", "description")
WHOLE = "report"
"""The split that numbers are about unless their name says otherwise."""


def page_path(page: Path) -> str:
    """Where `atu ui` serves a report's page: below its experiment's name, for a store may hold
    several, and the UI of one has no page of another.
    """
    return f"/{page.parent.parent.name}/{page.name}"


@dataclass(frozen=True)
class RunRecord:
    """The content of one MLflow run."""

    cell: str
    name: str
    """Shown in the list of runs, cut on the right, so what differs comes first."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """By id; MLflow shows them under `metric_name`."""
    curves: list[tuple[str, int, float]] = field(default_factory=list)
    """`(name, step, value)`."""
    files: list[Path] = field(default_factory=list)
    items: Path | None = None
    """Scored items, shown as a table of answers; read when the run is written."""
    colour: str = ""
    """In charts and in the list of runs, as `#rrggbb`."""
    description: str = ""
    """Markdown at the top of the run's page."""

    @cached_property
    def digest(self) -> str:
        """sha256 of the content. File paths do not count, only names and bytes; nor do the labels,
        which depend on the other runs, and which a finished run may change.
        """
        content = {key: value for key, value in vars(self).items() if key not in LABELS}
        content["files"] = [(path.name, sha256(path)) for path in self.files]
        content["items"] = sha256(self.items) if self.items else None
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"a": {"b": 1}}` as `("a.b", "1")`, lists as JSON; texts as a page may show them."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            yield name, visible(value) if isinstance(value, str) else json.dumps(value)


def metric_name(name: str) -> str:
    """The name of a metric in MLflow, which accepts letters, digits, `_`, `-`, `.`, space and `/`.

    MLflow makes a group of whatever stands before the last `/`: `phase/metric/split` becomes
    `phase/metric`, with the split behind it unless it is `report`.
    """
    phase, *rest = re.sub(r"[^\w\-. /]", "_", name).split("/")
    if len(rest) > 1 and rest[-1] == WHOLE:
        rest = rest[:-1]
    return "/".join([phase, " ".join(rest)]) if rest else phase
