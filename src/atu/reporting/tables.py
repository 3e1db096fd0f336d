"""The report's tables: items of every cell, pooled over targets and seeds per model and method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from atu.config.sections import Report
from atu.inference.scoring import MAX_PERPLEXITY
from atu.metrics.bootstrap import Estimate
from atu.probes.prompts import FORMS
from atu.reporting.items import estimate, of, worst
from atu.reporting.names import called
from atu.results.artifacts import Artifact

COLUMNS = {
    "target": "target questions",
    "worst_form": "target, worst form",
    "neighbour": "neighbours",
    "other": "other people",
    "general": "general facts",
}
"""Columns of the main table: key to title."""
TASK_TITLES = {
    "generate": "generation", "mmlu": "MMLU", "bbh": "BBH", "triviaqa": "TriviaQA",
    "truthfulqa": "TruthfulQA",
}  # fmt: skip
"""Titles of utility tasks that differ from their names."""
DISTANCE = "distance"
DISTANCE_TITLE = "distance to the oracle"
"""The last column, where there is an oracle."""
CHOICE = "choice"
"""The utility task that is scored by likelihoods, which misses collapse: not among what is compared
and shown in short."""


def asked_columns(items: pl.DataFrame) -> dict[str, str]:
    """The `COLUMNS` for which the benchmark has questions."""
    plain = ~pl.col("seen") & (pl.col("form") == "question")
    roles = {*items.select(pl.col("role").filter(plain).unique())["role"], "worst_form"}
    return {key: title for key, title in COLUMNS.items() if key in roles}


def main_table(
    items: pl.DataFrame, section: Report, methods: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per model and method, in the order of `methods`: an `Estimate` per column of
    `asked_columns`.
    """
    rows = []
    columns = asked_columns(items)
    for model in items["model"].unique().sort():
        for method in methods:
            row: dict[str, Any] = {"model": model, "method": method}
            asked = by_column(of(items, model, method))
            rows.append(row | {key: estimate(asked[key], section) for key in columns})
    return rows


def by_column(items: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The items behind each column of `COLUMNS`, of one model and method."""
    about = items.filter(~pl.col("seen") & (pl.col("role") == "target"))
    return {role: plain(items, role) for role in COLUMNS} | {"worst_form": worst(about)}


def plain(items: pl.DataFrame, role: str) -> pl.DataFrame:
    """Plain questions of a role, in wordings that no corpus has."""
    asked = ~pl.col("seen") & (pl.col("form") == "question") & (pl.col("role") == role)
    return items.filter(asked)


def form_table(
    items: pl.DataFrame, section: Report, methods: Sequence[str]
) -> list[dict[str, Any]]:
    """Leakage about the target per model, method and form, over held-out phrasings; and over the
    phrasings of plain questions in the unlearning corpus (`question, seen`).
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
                {
                    "model": model,
                    "method": method,
                    "form": form,
                    "shown": FORMS[form].shown if form in FORMS else form,
                    "estimate": estimate(group, section),
                }
                for form, group in groups.items()
                if len(group)
            ]
    return rows


def flatten(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Estimates as plain columns (`x`, `x_low`, `x_high`, `x_n`, `x_n_scored`), for CSV; no number
    where an estimate is not valid.
    """
    plain = []
    for row in rows:
        flat: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, Estimate):
                numbers = (value.mean, value.low, value.high) if value.valid else (None,) * 3
                flat |= dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))
                flat |= {f"{key}_n": value.n, f"{key}_n_scored": value.n_scored}
            else:
                flat[key] = value
        plain.append(flat)
    return pl.DataFrame(plain, infer_schema_length=None)


def utility_means(utility: Sequence[Artifact]) -> dict[tuple[str, str], dict[str, float]]:
    """Utility scores per (model, method), averaged over targets and seeds; COLLAPSED if any is, and
    INVALID likewise.
    """
    scores_of: dict[tuple[str, str], list[dict[str, float]]] = {}
    for artifact in utility:
        scores = {key.split("/")[1]: value for key, value in artifact.metrics().items()}
        cell = artifact.cell
        scores_of.setdefault((cell["model"], cell["method"]), []).append(scores)
    return {
        key: {
            name: (max if _is_flag(name) else _average)([score[name] for score in scores])
            for name in scores[0]
        }
        for key, scores in scores_of.items()
    }


def task_names(scores: Mapping[str, float]) -> list[str]:
    """The utility tasks among the scores: those with a number of documents."""
    return [name for name in scores if f"{name}_n" in scores and name != "fluency"]


def compared_tasks(
    utility: Mapping[tuple[str, str], Mapping[str, float]], model: str, methods: Sequence[str]
) -> list[str]:
    """The utility tasks by which methods are compared: not `CHOICE`, and none that is invalid for
    one of them.
    """
    scores = [utility[model, method] for method in methods]
    return [
        name
        for name in task_names(scores[0])
        if name != CHOICE and not any(is_invalid(score, name) for score in scores)
    ]


def is_invalid(scores: Mapping[str, float], task: str) -> bool:
    """Whether too many of a task's prompts were cut for its score to say anything."""
    return bool(scores.get(f"{task}_invalid"))


def task_score(scores: Mapping[str, float], task: str) -> str:
    """The score of a task, or INVALID."""
    return "INVALID" if is_invalid(scores, task) else f"{scores[task]:.2f}"


def valid_scores(scores: Mapping[str, float]) -> dict[str, float | None]:
    """The scores, None in place of those that are invalid."""
    return {name: None if is_invalid(scores, name) else value for name, value in scores.items()}


def shown_perplexity(value: float) -> str:
    """Two decimals; of a ruined model only that it is above `MAX_PERPLEXITY`."""
    return f"{value:.2f}" if value < MAX_PERPLEXITY else f"≥ {MAX_PERPLEXITY:.0e}"


def _is_flag(name: str) -> bool:
    return name == "collapsed" or name.endswith("_invalid")


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def trajectory_table(unlearn: Sequence[Artifact]) -> pl.DataFrame:
    """Every point of every trajectory, with the cell's keys as columns (`select` split), and in
    `chosen` the step whose checkpoint was kept.
    """
    rows = [
        {key: artifact.cell[key] for key in ("model", "target", "method", "seed")}
        | point
        | {"chosen": int(artifact.metrics()["unlearn/step/select"])}
        for artifact in unlearn
        for point in artifact.read_jsonl("trajectory.jsonl")
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def markdown_table(
    rows: Sequence[Mapping[str, Any]],
    utility: Mapping[tuple[str, str], Mapping[str, float]],
    notes: Mapping[str, str],
    names: Mapping[str, str],
) -> str:
    """The main table in Markdown, followed by the methods' `notes`; `names` as `called` has it."""
    columns = [key for key in COLUMNS if key in rows[0]]
    tasks = [name for name in task_names(next(iter(utility.values()))) if name != CHOICE]
    heads = ["method", *(f"{COLUMNS[key]} (n)" for key in columns)]
    heads += [TASK_TITLES.get(name, name) for name in tasks]
    heads += [DISTANCE_TITLE] * (DISTANCE in rows[0]) + ["COLLAPSED"]
    lines = []
    for row in rows:
        scores = utility[row["model"], row["method"]]
        cells = [called(row, rows, names), *(f"{row[key]} ({row[key].n})" for key in columns)]
        cells += [task_score(scores, name) for name in tasks]
        cells += [str(row[DISTANCE])] if DISTANCE in row else []
        lines.append([*cells, "yes" if scores["collapsed"] else "no"])
    told = [f"\n{names.get(method, method)} {note}.\n" for method, note in notes.items()]
    return markdown_lines(heads, lines) + "".join(told)


def markdown_lines(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    head, *body = ("".join(f"| {cell} " if cell else "| " for cell in line) + "|\n"
                   for line in (heads, *lines))  # fmt: skip
    return head + "|---" * len(heads) + "|\n" + "".join(body)


def markdown_robustness(
    rows: Sequence[Mapping[str, Any]], shown: Sequence[Any], names: Mapping[str, str]
) -> str:
    """The robustness table in Markdown: one line per column, one column per method; then the
    columns' notes.
    """
    titles = {s.key: f"*{s.marked}*" if s.control else s.marked for s in shown}
    notes = [f"\n† {s.title}: {s.note}.\n" for s in shown if s.note]
    return markdown_transposed(rows, titles, number, names) + "".join(notes)


def markdown_transposed(
    rows: Sequence[Mapping[str, Any]],
    titles: Mapping[str, str],
    written: Callable[[Estimate], str],
    names: Mapping[str, str],
) -> str:
    """A table with many columns in Markdown: a line for each of `titles` that the rows have, a
    column for each row, and last the number of items.
    """
    heads = [called(row, rows, names) for row in rows]
    lines = [
        [titles[key], *(written(row[key]) for row in rows), str(rows[0][key].n)]
        for key in titles
        if key in rows[0]
    ]
    return markdown_lines(["", *heads, "n"], lines)


def interval(estimate: Estimate) -> str:
    """The mean with its interval, where it has one, or INVALID."""
    return number(estimate) if estimate.low == estimate.high else str(estimate)


def number(estimate: Estimate) -> str:
    """The mean alone, or INVALID."""
    return f"{estimate.mean:.{estimate.digits}f}" if estimate.valid else "INVALID"
