"""The report's tables: items of every cell, pooled over targets and seeds per model and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from atu.artifacts import Artifact
from atu.config import Report
from atu.metrics.bootstrap import Estimate, clustered_mean
from atu.phases.rephrase import worst_form
from atu.seeding import generator

SPLIT = "report"
KEYS = ("model", "method")
COLUMNS = {
    "target": "target questions",
    "worst_form": "target, worst form",
    "neighbour": "neighbours",
    "other": "other people",
    "general": "general facts",
}
"""Columns of the main table: key to what a reader sees."""
FORMS = ("question", "cloze", "reverse", "choice", "two_hop")


def load_items(rephrase: Sequence[Artifact]) -> pl.DataFrame:
    """All reported items: the `report` split of every cell, with the cell's keys as columns."""
    frames = []
    for artifact in rephrase:
        cell = artifact.cell
        items = pl.read_parquet(artifact.file("items.parquet")).filter(pl.col("split") == SPLIT)
        frames.append(
            items.with_columns(
                model=pl.lit(cell["model"]),
                target=pl.lit(cell["target"]),
                method=pl.lit(cell["method"]),
                seed=pl.lit(cell["seed"]),
            )
        )
    return pl.concat(frames)


def estimate(items: pl.DataFrame, section: Report, name: str) -> Estimate:
    """Mean exact match with its interval; facts are the clusters."""
    clusters = (items["target"] + "\x1f" + items["fact"]).to_list()
    return clustered_mean(
        items["exact_match"].to_list(),
        clusters,
        generator(section.seed, "bootstrap", name),
        section.bootstrap,
        section.confidence,
    )


def main_table(
    items: pl.DataFrame, section: Report, methods: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per model and method, in the order of `methods`: an `Estimate` per column."""
    rows = []
    held_out = items.filter(~pl.col("seen"))
    questions = held_out.filter(pl.col("form") == "question")
    for model in items["model"].unique().sort():
        for method in methods:
            chosen = (pl.col("model") == model) & (pl.col("method") == method)
            row: dict[str, Any] = {"model": model, "method": method}
            for role in ("target", "neighbour", "other", "general"):
                part = questions.filter(chosen & (pl.col("role") == role))
                row[role] = estimate(part, section, role)
            target = held_out.filter(chosen & (pl.col("role") == "target"))
            row["worst_form"] = estimate(_worst(target), section, "worst_form")
            rows.append(row)
    return rows


def _worst(items: pl.DataFrame) -> pl.DataFrame:
    parts = []
    for (target, seed), group in items.group_by(["target", "seed"], maintain_order=True):
        parts.append(worst_form(group).with_columns(target=pl.lit(target), seed=pl.lit(seed)))
    return pl.concat(parts)


def form_table(
    items: pl.DataFrame, section: Report, methods: Sequence[str]
) -> list[dict[str, Any]]:
    """Leakage about the target per model, method and form, over held-out phrasings; and over the
    phrasings of plain questions that the unlearning corpus holds (`question, seen`).
    """
    rows = []
    target = items.filter(pl.col("role") == "target")
    for model in items["model"].unique().sort():
        for method in methods:
            cell = target.filter((pl.col("model") == model) & (pl.col("method") == method))
            seen = cell.filter((pl.col("form") == "question") & pl.col("seen"))
            groups = {"question, seen": seen} | {
                form: cell.filter((pl.col("form") == form) & ~pl.col("seen")) for form in FORMS
            }
            rows += [
                {"model": model, "method": method, "form": form}
                | {"estimate": estimate(group, section, form)}
                for form, group in groups.items()
                if len(group)
            ]
    return rows


def flatten(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Estimates as four plain columns each (`x`, `x_low`, `x_high`, `x_n`), for CSV."""
    plain = []
    for row in rows:
        flat: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, Estimate):
                flat |= {key: value.mean, f"{key}_low": value.low, f"{key}_high": value.high}
                flat[f"{key}_n"] = value.n
            else:
                flat[key] = value
        plain.append(flat)
    return pl.DataFrame(plain)


def utility_means(utility: Sequence[Artifact]) -> dict[tuple[str, str], dict[str, float]]:
    """Utility scores per (model, method), averaged over targets and seeds; COLLAPSED if any is."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for artifact in utility:
        scores = {key.split("/")[1]: value for key, value in artifact.metrics().items()}
        cell = artifact.cell
        found.setdefault((cell["model"], cell["method"]), []).append(scores)
    return {
        key: {
            name: (max if name == "collapsed" else _average)([score[name] for score in scores])
            for name in scores[0]
        }
        for key, scores in found.items()
    }


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def trajectory_table(unlearn: Sequence[Artifact]) -> pl.DataFrame:
    """Every point of every trajectory, with the cell's keys as columns (`select` split)."""
    rows = [
        {key: artifact.cell[key] for key in ("model", "target", "method", "seed")} | point
        for artifact in unlearn
        for point in artifact.read_jsonl("trajectory.jsonl")
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def example_answers(
    items: pl.DataFrame, methods: Sequence[str], count: int
) -> list[dict[str, Any]]:
    """A few held-out questions about the target with every method's answer side by side."""
    rows = items.filter((pl.col("role") == "target") & ~pl.col("seen"))
    first = rows.select(pl.col("model", "target", "seed").first())
    rows = rows.join(first, on=["model", "target", "seed"], how="semi")
    chosen = rows.unique(["fact"], keep="first", maintain_order=True)["id"].to_list()[:count]
    examples = []
    for number in chosen:
        same = rows.filter(pl.col("id") == number)
        answers = dict(zip(same["method"].to_list(), same["output"].to_list(), strict=True))
        examples.append(
            {
                "query": same["query"][0],
                "answer": same["answer"][0],
                "outputs": [(method, answers[method]) for method in methods],
            }
        )
    return examples


def markdown_table(
    rows: Sequence[Mapping[str, Any]], utility: Mapping[tuple[str, str], Mapping[str, float]]
) -> str:
    """The main table in Markdown, as the README shows it."""
    heads = ["method", *(f"{text} (n)" for text in COLUMNS.values()), "generation", "COLLAPSED"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        scores = utility[row["model"], row["method"]]
        cells = [f"`{row['method']}`", *(f"{row[key]} ({row[key].n})" for key in COLUMNS)]
        cells += [f"{scores['generate']:.2f}", "yes" if scores["collapsed"] else "no"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
