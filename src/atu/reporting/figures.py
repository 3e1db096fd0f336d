"""The report's figures, as SVG whose ink is that of the page they stand in; equal tables give equal
bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

from atu.config.roles import ORACLE, ORIGINAL, REFERENCES, SECOND_ORACLE
from atu.metrics.bootstrap import Estimate
from atu.metrics.selection import RETAINED
from atu.reporting.colours import COLOURS, method_colours
from atu.reporting.names import called
from atu.reporting.tables import COLUMNS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Names = Mapping[str, str]
"""What people call a method, by its key."""
NOTHING = Estimate(0.0, 0.0, 0.0, 1)
"""The y value of a benchmark without retained roles: methods then differ only in leakage."""
INK = "#010203"
"""Stands for the colour of the text around a figure, dark or light."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "atu", "font.family": "sans-serif",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}  # fmt: skip
plt.rcParams.update(STYLE)
REFERENCE_MARKERS = {ORIGINAL: "s", ORACLE: "*", SECOND_ORACLE: "H"}
"""Markers of the rows that are not methods; they are drawn in ink."""
MARKERS = "oDv^P<>X"
KNOWN = 0.2
"""Share of a role's questions below which the original is at the floor and has nothing to lose."""
LEGEND = 3
"""Columns of the scatter's legend."""
UPRIGHT = 9
"""With more methods than this their names are rotated, so that columns can be narrow; with fewer a
name has a line per word."""


def _colours(methods: Sequence[str]) -> dict[str, Any]:
    return method_colours(methods) | dict.fromkeys(REFERENCES, INK)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(
        path, format="svg", bbox_inches="tight", transparent=True,
        metadata=dict.fromkeys(("Date", "Creator")),
    )  # fmt: skip
    plt.close(figure)
    text = path.read_text(encoding="utf-8").replace(INK, "currentColor")
    path.write_text(text, encoding="utf-8")


def forget_retain(path: Path, rows: Sequence[Mapping[str, Any]], names: Names) -> None:
    """The target's worst form against retention of neighbours, one point per method.

    In plain questions nearly every method leaks nothing, so all points would be on one line. A
    benchmark without neighbours, or with neighbours of whom the original knows little, uses other
    people or general facts instead.
    """
    retained = _retained(rows)
    methods = [row["method"] for row in rows]
    colours = _colours(methods)
    shapes = dict(zip(methods, itertools.cycle(MARKERS), strict=False)) | REFERENCE_MARKERS
    figure, axes = plt.subplots(figsize=(5, 3.6))
    bottom = _bottom([row[retained] for row in rows] if retained else [NOTHING])
    axes.set_ylim(bottom, 1 + (1 - bottom) / 20)
    _mark_goal(axes, rows, retained, bottom)
    for row in rows:
        name = row["method"]
        label, marker = called(row, rows, names), shapes[name]
        x = row["worst_form"]
        y = row[retained] if retained else NOTHING
        if not (x.valid and y.valid):
            label = f"{label}: INVALID"
            axes.plot([], [], linestyle="", marker=marker, color="gray", label=label)
            continue
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=[[x.mean - x.low], [x.high - x.mean]],
            yerr=[[y.mean - y.low], [y.high - y.mean]],
            fmt=marker,
            color=colours[name],
            # Hollow, so that points in one place are all seen.
            markerfacecolor="none",
            markeredgewidth=1.6,
            markersize=15 if marker == "*" else 9,
            capsize=2,
            elinewidth=0.8,
            alpha=0.9,
            label=label,
        )
    kept = COLUMNS.get(retained or "", "no retained questions")
    axes.set_xlabel("target, worst form: score   (right: it leaks)")
    axes.set_ylabel(f"{kept}: score   (up: it is kept)")
    axes.set_xlim(-0.05, 1.05)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False, ncols=LEGEND)
    _save(figure, path)


def _mark_goal(
    axes: Any, rows: Sequence[Mapping[str, Any]], retained: str | None, bottom: float
) -> None:
    """An arrow to where one should be: the oracle, or else the upper left corner."""
    x, y = 0.0, 1.0
    for row in rows:
        leaks, kept = row["worst_form"], row[retained] if retained else NOTHING
        if row["method"] == ORACLE and leaks.valid and kept.valid:
            x, y = leaks.mean, kept.mean
            axes.axvspan(leaks.low, leaks.high, color="gray", alpha=0.15, linewidth=0)
            beside = "left" if x < 0.15 else "right" if x > 0.85 else "center"  # not over an axis
            axes.text(
                x, 0.03, "as the oracle", fontsize=8, alpha=0.8, ha=beside,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
            break
    height = 1 - bottom
    across, up = 0.3 if x < 0.5 else -0.3, -0.35 if y - bottom > height / 2 else 0.35
    axes.annotate(
        "better", xy=(x, y), xytext=(x + across, y + up * height),
        fontsize=9, ha="center", va="center",
        arrowprops={"arrowstyle": "->", "color": INK, "alpha": 0.6, "shrinkB": 22},
    )  # fmt: skip


def _bottom(kept: Sequence[Estimate]) -> float:
    """Where the axis of what is kept begins: below 0; or, where all keep at least half, near the
    lowest interval, so that points do not lie on top of each other.
    """
    lowest = min((estimate.low for estimate in kept if estimate.valid), default=0.0)
    return math.floor(lowest * 10) / 10 - 0.05 if lowest >= 0.5 else -0.05


def _retained(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The first role that can be lost: of which the originals answer at least `KNOWN`."""
    asked = [role for role in RETAINED if role in rows[0]]
    before = [row for row in rows if row["method"] == ORIGINAL]
    known = (r for r in asked if all(row[r].valid and row[r].mean >= KNOWN for row in before))
    return next(known, next(iter(asked), None))


def leakage_by_form(path: Path, rows: Sequence[Mapping[str, Any]], names: Names) -> None:
    """The score about the target per method and form, as a heat map."""
    heads = {(row["model"], row["method"]): called(row, rows, names) for row in rows}
    forms = list(dict.fromkeys(row["form"] for row in rows))
    values = {((row["model"], row["method"]), row["form"]): row["estimate"] for row in rows}
    grid = [[values[head, form] for head in heads] for form in forms]
    labels = [f"{row['shown']}  (n = {row['estimate'].n})" for row in rows[: len(forms)]]
    _heat_map(path, grid, labels, [*heads.values()])


def robustness(
    path: Path, rows: Sequence[Mapping[str, Any]], shown: Sequence[Any], names: Names
) -> None:
    """Lines of the robustness table as a heat map: one line per attempt, one column per method."""
    grid = [[row[column.key] for row in rows] for column in shown]
    labels = [
        ("control: " if column.control else "") + f"{column.marked}  (n = {cells[0].n})"
        for column, cells in zip(shown, grid, strict=True)
    ]
    _heat_map(path, grid, labels, [called(row, rows, names) for row in rows])


def _heat_map(
    path: Path,
    grid: Sequence[Sequence[Estimate]],
    labels: Sequence[str],
    methods: Sequence[str],
) -> None:
    """Estimates as a heat map; a cell with unscored items is grey and says INVALID."""
    many = len(methods) > UPRIGHT
    width = 0.55 if many else 0.95
    figure, axes = plt.subplots(figsize=(3.2 + width * len(methods), 1.2 + 0.36 * len(labels)))
    means = [[cell.mean if cell.valid else float("nan") for cell in line] for line in grid]
    palette = plt.get_cmap("Oranges").with_extremes(bad="lightgray")
    image = axes.imshow(means, vmin=0, vmax=1, cmap=palette, aspect="auto")
    for i, line in enumerate(grid):
        for j, cell in enumerate(line):
            text = f"{cell.mean:.2f}" if cell.valid else "INVALID"
            dark = cell.valid and cell.mean > 0.7
            colour = "white" if dark else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    heads = [
        n if many else n.replace(" + ", " +\N{NO-BREAK SPACE}").replace(" ", "\n") for n in methods
    ]
    rotation: dict[str, Any] = (
        {"rotation": 60, "ha": "left", "rotation_mode": "anchor"} if many else {}
    )
    axes.set_xticks(range(len(methods)), heads, fontsize=9, **rotation)
    axes.xaxis.tick_top()
    figure.colorbar(image, ax=axes, label="score (leakage)")
    _save(figure, path)


def trajectories(path: Path, points: pl.DataFrame, names: Names) -> None:
    """The score on `select` probes over the steps of every method, one panel per method."""
    steps = points.group_by("method", maintain_order=True).agg(pl.col("step").max())
    methods = steps.filter(pl.col("step") > 0)["method"].to_list()
    if not methods:
        methods = points["method"].unique(maintain_order=True).to_list()
    columns = min(3, len(methods))
    lines = -(-len(methods) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(4 * columns, 2.9 * lines), sharey=True, squeeze=False
    )
    lines_of = {
        "score_target": ("target", COLOURS[1], "o", "-"),
        "worst_form_target": ("target, worst form", COLOURS[1], "s", "--"),
        "score_neighbour": ("neighbours", COLOURS[0], "^", "-"),
        "score_other": ("other people", COLOURS[2], "v", "-"),
    }
    shown = {c: style for c, style in lines_of.items() if c in points.columns}
    for panel in panels.flat[len(methods) :]:
        panel.set_visible(False)
    for panel, method in zip(panels.flat, methods, strict=False):
        chosen = points.filter(pl.col("method") == method)
        mean = chosen.group_by("step").agg(pl.col(list(shown)).mean()).sort("step")
        for column, (label, colour, marker, style) in shown.items():
            panel.plot(
                mean["step"], mean[column], marker=marker, color=colour, label=label,
                linestyle=style, markersize=4,
            )  # fmt: skip
        _mark_thresholds(panel, chosen)
        if chosen["chosen"].n_unique() == 1:
            panel.axvline(chosen["chosen"][0], color=INK, linewidth=1, linestyle=":")
        panel.set_title(names.get(method, method))
        panel.set_xlabel("unlearning step")
        panel.set_ylim(-0.05, 1.05)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("score (select split)")
    figure.tight_layout()
    # Below all panels: in one of them it would lie on a curve.
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.0),
        frameon=False, ncols=len(shown),
    )  # fmt: skip
    _save(figure, path)


def _mark_thresholds(panel: Any, points: pl.DataFrame) -> None:
    """Mark the end of each round with its threshold, if the method has thresholds."""
    if "threshold" not in points.columns:
        return
    ends = points.drop_nulls("threshold").group_by("threshold").agg(pl.col("step").max())
    for point in ends.sort("step", "threshold").to_dicts():
        panel.axvline(point["step"], color="gray", linewidth=0.5)
        panel.text(
            point["step"], -0.03, f"{point['threshold']:.2f}", fontsize=7, ha="right", va="bottom",
            rotation=90, color="gray",
        )  # fmt: skip
