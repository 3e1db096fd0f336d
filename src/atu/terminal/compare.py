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
from atu.reporting.comparison import comparison_table
from atu.reporting.items import load_items
from atu.reporting.tables import COLUMNS
from atu.results.artifacts import Artifact
from atu.terminal.printing import open_console, print_tables


@dataclass(frozen=True)
class Comparison:
    """The paired differences of two methods."""

    first: str
    second: str
    rows: list[dict[str, Any]]
    """Per model: for every column an `Estimate` of first minus second, and its verdict."""
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
    paths = {m: _manifests(results, cells, m) for m in (first, second)}
    both = [
        keys
        for keys in paths[first]
        if all(paths[method][keys].is_file() for method in (first, second))
    ]
    if not both:
        raise ArtifactError(
            f"{results / 'rephrase'}: {first} and {second} have no model, target and seed that is "
            "finished for both; `atu status` says what is done"
        )
    opened = [Artifact.open(paths[m][keys], "rephrase") for m in (first, second) for keys in both]
    require_same_evaluation(ReportInputs(opened, [], [], [], [], [], [], []))
    section = params.report.model_copy(update={"compare": first})
    rows = comparison_table(
        load_items(opened), section, (first, second), oracle_method(params), distances={}
    )
    targets = len({target for _, target, _ in both})
    return Comparison(
        first, second, rows, section.confidence, targets, len(both), len(paths[first])
    )


def _manifests(
    results: Path, cells: Sequence[Cell], method: str
) -> dict[tuple[str, str, int], Path]:
    return {
        (cell.model, cell.target, cell.seed): manifest_path(results, "rephrase", cell)
        for cell in cells
        if cell.method == method
    }


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
                title = COLUMNS.get(key, key) + (f" ({row['model']})" if several else "")
                lines.append([title, *_cells(value, row[f"{key}_verdict"])])
    print_tables(heads, lines)
    clusters = "whole targets" if found.targets > 1 else "facts, as there is one target,"
    console = open_console()
    console.print(
        f"\nItem by item; {100 * found.confidence:g} % intervals that draw {clusters} with "
        "replacement. There is a difference where the interval excludes 0."
    )
    if found.cells < found.planned:
        console.print(
            f"{found.cells} of {found.planned} models, targets and seeds are finished for both; "
            "only these are compared."
        )


def _cells(value: Estimate, verdict: str) -> list[str]:
    if not value.valid:
        return ["INVALID", "", f"{value.n_scored} of {value.n}", ""]
    return [
        f"{value.mean:+.2f}", f"[{value.low:+.2f}, {value.high:+.2f}]", str(value.n), verdict
    ]  # fmt: skip
