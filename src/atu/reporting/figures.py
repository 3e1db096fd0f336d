"""The report's figures; equal tables give equal bytes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl

from atu.config.roles import ORACLE, ORIGINAL
from atu.metrics.bootstrap import Estimate
from atu.metrics.selection import RETAINED

matplotlib.use("Agg")
import matplotlib.pyplot as plt

NOTHING = Estimate(0.0, 0.0, 0.0, 1)
"""The y value of a benchmark without retained roles: methods then differ only in leakage."""
SPECIAL = {ORIGINAL: ("original", "black", "s"), ORACLE: ("oracle", "dimgray", "*")}
"""Rows that are not methods: label, colour and marker."""


KNOWN = 0.2
"""Share of a role's questions below which the original is at the floor and has nothing to lose."""
LEGEND_ROWS = 14
UPRIGHT = 9
"""With more methods than this their names are rotated, so that columns can be narrow."""


def _colours(methods: Sequence[str]) -> dict[str, Any]:
    palette = plt.get_cmap("tab10")
    plain = [method for method in methods if method not in SPECIAL]
    colours = {method: palette(i % 10) for i, method in enumerate(plain)}
    return colours | {name: style[1] for name, style in SPECIAL.items()}


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def forget_retain(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """The target's worst form against retention of neighbours, one point per method.

    In plain questions nearly every method leaks nothing, so all points would be on one line. A
    benchmark without neighbours, or with neighbours of whom the original knows little, uses other
    people or general facts instead.
    """
    retained = _retained(rows)
    methods = [row["method"] for row in rows]
    colours = _colours(methods)
    shapes = dict(zip(methods, itertools.cycle("oDv^P<>X"), strict=False))
    figure, axes = plt.subplots(figsize=(7, 5))
    for row in rows:
        name = row["method"]
        label, _, marker = SPECIAL.get(name, (name, None, shapes[name]))
        x = row["worst_form"]
        y = row[retained] if retained else NOTHING
        if not (x.valid and y.valid):
            label = f"{label}: INVALID"
            axes.plot([], [], linestyle="", marker=marker, color="lightgray", label=label)
            continue
        axes.errorbar(
            x.mean,
            y.mean,
            xerr=[[x.mean - x.low], [x.high - x.mean]],
            yerr=[[y.mean - y.low], [y.high - y.mean]],
            fmt=marker,
            color=colours[name],
            markersize=14 if marker == "*" else 8,
            capsize=2,
            elinewidth=0.8,
            alpha=0.9,
            label=label,
        )
    axes.set_xlabel("target: score in the worst form  (left is forgotten)")
    axes.set_ylabel(f"{retained or 'no retained questions'}: score  (up is kept)")
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(-0.05, 1.05)
    axes.grid(alpha=0.3)
    axes.set_title(title)
    columns = -(-len(rows) // LEGEND_ROWS)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, ncols=columns)
    _save(figure, path)


def _retained(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The first role that can be lost: of which the originals answer at least `KNOWN`."""
    asked = [role for role in RETAINED if role in rows[0]]
    before = [row for row in rows if row["method"] == ORIGINAL]
    known = (r for r in asked if all(row[r].valid and row[r].mean >= KNOWN for row in before))
    return next(known, next(iter(asked), None))


def leakage_by_form(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Exact match about the target per method and form, as a heat map."""
    methods = list(dict.fromkeys((row["model"], row["method"]) for row in rows))
    forms = list(dict.fromkeys(row["form"] for row in rows))
    values = {((row["model"], row["method"]), row["form"]): row["estimate"] for row in rows}
    grid = [[values[method, form] for method in methods] for form in forms]
    labels = [f"{row['shown']}  (n = {row['estimate'].n})" for row in rows[: len(forms)]]
    _heat_map(path, grid, labels, [m for _, m in methods], title, "leakage")


def robustness(
    path: Path, rows: Sequence[Mapping[str, Any]], shown: Sequence[Any], title: str
) -> None:
    """The robustness table as a heat map: one line per attempt, one column per method."""
    grid = [[row[column.key] for row in rows] for column in shown]
    labels = [
        ("control: " if column.control else "") + f"{column.marked}  (n = {cells[0].n})"
        for column, cells in zip(shown, grid, strict=True)
    ]
    _heat_map(path, grid, labels, [row["method"] for row in rows], title, "score (leakage)")


def _heat_map(
    path: Path,
    grid: Sequence[Sequence[Estimate]],
    labels: Sequence[str],
    methods: Sequence[str],
    title: str,
    unit: str,
) -> None:
    """Estimates as a heat map; a cell with unscored items is grey and says INVALID."""
    many = len(methods) > UPRIGHT
    width = 0.55 if many else 0.95
    figure, axes = plt.subplots(figsize=(3.2 + width * len(methods), 1.2 + 0.36 * len(labels)))
    means = [[cell.mean if cell.valid else float("nan") for cell in line] for line in grid]
    palette = plt.get_cmap("Reds").with_extremes(bad="lightgray")
    image = axes.imshow(means, vmin=0, vmax=1, cmap=palette, aspect="auto")
    for i, line in enumerate(grid):
        for j, cell in enumerate(line):
            text = f"{cell.mean:.2f}" if cell.valid else "INVALID"
            dark = cell.valid and cell.mean > 0.6
            axes.text(
                j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    names = [SPECIAL.get(method, (method,))[0] for method in methods]
    rotation: dict[str, Any] = (
        {"rotation": 60, "ha": "left", "rotation_mode": "anchor"} if many else {}
    )
    axes.set_xticks(range(len(methods)), names, fontsize=9, **rotation)
    axes.xaxis.tick_top()
    axes.set_title(title, pad=64 if many else 24)
    figure.colorbar(image, ax=axes, label=unit)
    _save(figure, path)


def trajectories(path: Path, points: pl.DataFrame, title: str) -> None:
    """Exact match on `select` probes over the steps of every method, one panel per method."""
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
        "score_target": ("target", "tab:red", "o", "-"),
        "worst_form_target": ("target, worst form", "tab:red", "s", "--"),
        "score_neighbour": ("neighbours", "tab:blue", "^", "-"),
        "score_other": ("other people", "tab:green", "v", "-"),
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
        panel.set_title(method)
        panel.set_xlabel("unlearning step")
        panel.set_ylim(-0.05, 1.05)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("score (select split)")
    panels[0][0].legend(fontsize=7)
    figure.suptitle(title)
    figure.tight_layout()
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
