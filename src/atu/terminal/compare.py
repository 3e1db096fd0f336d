"""`atu compare`: two methods, item by item, as the report compares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atu.config.cells import Cell, grid_cells, manifest_path
from atu.config.params import Params, oracle_method
from atu.config.roles import ORIGINAL
from atu.errors import ArtifactError, ConfigError
from atu.metrics.bootstrap import Estimate
from atu.phases.report import ReportInputs, require_same_evaluation
from atu.reporting.comparison import by_target, comparison_table
from atu.reporting.distance import Distance, distances
from atu.reporting.items import load_documents, load_items
from atu.reporting.tables import COLUMNS, DISTANCE, DISTANCE_TITLE, utility_means
from atu.results.artifacts import Artifact
from atu.terminal.printing import open_console, print_tables

TITLES = COLUMNS | {DISTANCE: DISTANCE_TITLE}
Keys = tuple[str, str, int]
"""A model, a target and a seed."""


@dataclass(frozen=True)
class Comparison:
    """The paired differences of two methods."""

    first: str
    second: str
    rows: list[dict[str, Any]]
    """Per model: for every column an `Estimate` of first minus second, and its verdict; the same of
    their distances to the oracle, if it has finished in all these cells, and utility of all three.
    """
    confidence: float
    targets: int
    cells: int
    """Cells that both have finished; these are compared."""
    planned: int
    """Cells of the grid that either has."""


def comparison(params: Params, results: Path, first: str, second: str) -> Comparison:
    """`first` against `second` over the single targets that both have finished.

    Raises:
        ConfigError: a method is not in the grid, or the two make no comparison.
        ArtifactError: no cell is finished for both, or theirs were evaluated differently.
    """
    _require_pair(params, first, second)
    cells = [cell for cell in grid_cells(params) if cell.target in params.grid.targets]
    paths = {m: _manifests(results, cells, m, "rephrase") for m in (first, second)}
    both = [keys for keys in paths[first] if all(m[keys].is_file() for m in paths.values())]
    if not both:
        raise ArtifactError(
            f"{results / 'rephrase'}: {first} and {second} have no model, target and seed that is "
            "finished for both; `atu status` says what is done"
        )
    opened = [Artifact.open(paths[m][keys], "rephrase") for m in (first, second) for keys in both]
    require_same_evaluation(ReportInputs(opened, [], [], [], [], [], [], []))
    section = params.report.model_copy(update={"compare": first})
    oracle = oracle_method(params)
    far = (
        {}
        if oracle in (None, first, second)
        else _distances(params, results, cells, both, [first, second, oracle])
    )
    rows = comparison_table(load_items(opened), section, (first, second), oracle, far)
    targets = len({target for _, target, _ in both})
    return Comparison(
        first, second, rows, section.confidence, targets, len(both), len(paths[first])
    )


def _manifests(results: Path, cells: Sequence[Cell], method: str, phase: str) -> dict[Keys, Path]:
    return {
        (cell.model, cell.target, cell.seed): manifest_path(results, phase, cell)
        for cell in cells
        if cell.method == method
    }


def _distances(
    params: Params,
    results: Path,
    cells: Sequence[Cell],
    compared: Sequence[Keys],
    methods: Sequence[str],
) -> dict[tuple[str, str], Distance]:
    """Of these methods, the oracle the last of them; nothing unless all have finished."""
    opened: dict[str, list[Artifact]] = {}
    for phase in ("rephrase", "utility"):
        paths = [_manifests(results, cells, method, phase) for method in methods]
        manifests = [of_method[keys] for of_method in paths for keys in compared]
        if not all(path.is_file() for path in manifests):
            return {}
        opened[phase] = [Artifact.open(path, phase) for path in manifests]
    items, utility = load_items(opened["rephrase"]), opened["utility"]
    return distances(
        items, load_documents(utility), utility_means(utility), params.report, methods, methods[-1]
    )


def _require_pair(params: Params, first: str, second: str) -> None:
    methods = params.grid.methods
    for key, method in (("A", first), ("B", second)):
        if method not in methods:
            raise ConfigError(key, method, f"not in grid.methods, which has {', '.join(methods)}")
    if first == second:
        raise ConfigError("B", second, "is A; name another method")
    if second == ORIGINAL:
        raise ConfigError(
            "B", second, f"is the original model, which comes first: `atu compare {second} {first}`"
        )


def print_comparison(found: Comparison) -> None:
    """A line per column: the difference, its interval, the number of items, and the verdict."""
    several = len(found.rows) > 1
    heads = ["", f"{found.first}\nminus\n{found.second}", "interval", "n", "verdict"]
    lines = []
    for row in found.rows:
        for key, value in row.items():
            if isinstance(value, Estimate):
                title = TITLES[key] + (f" ({row['model']})" if several else "")
                lines.append([title, *_cells(value, row[f"{key}_verdict"])])
    print_tables(heads, lines)
    clusters = "whole targets" if found.targets > 1 else "facts, as there is one target,"
    console = open_console()
    console.print(
        f"\nItem by item; {100 * found.confidence:g} % intervals that draw {clusters} with "
        "replacement. There is a difference where the interval excludes 0."
    )
    for row in found.rows:
        if DISTANCE not in row:
            console.print("No distance to the oracle: not all of it is finished, or there is none.")
        elif by_target(row):
            console.print(f"By distance {found.first} is {by_target(row)}.")
    if found.cells < found.planned:
        console.print(
            f"{found.cells} of {found.planned} models, targets and seeds are finished for both; "
            "only these are compared."
        )


def _cells(value: Estimate, verdict: str) -> list[str]:
    if not value.valid:
        return ["INVALID", "", f"{value.n_scored} of {value.n}", ""]
    digits = value.digits
    return [
        f"{value.mean:+.{digits}f}", f"[{value.low:+.{digits}f}, {value.high:+.{digits}f}]",
        str(value.n), verdict,
    ]  # fmt: skip
