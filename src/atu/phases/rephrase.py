"""rephrase: greedy answers to every probe, and how much leaks in which wording."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from atu.artifacts import Artifact, write_folder
from atu.config import Rephrase
from atu.data.prompts import format_prompt
from atu.data.tables import PROBES, read_table
from atu.errors import EvaluationError
from atu.generation import greedy_answers
from atu.metrics.answers import contains, exact_match, rouge_l_recall
from atu.models.llm import load_lm

PHASE = "rephrase"
SCORES = {"exact_match": exact_match, "contains": contains, "rouge_l_recall": rouge_l_recall}
ITEMS = {**PROBES, "output": pl.String, **dict.fromkeys(SCORES, pl.Float64)}
SPLITS = ("select", "report")


def run(out: Path, section: Rephrase, unlearned: Artifact, prepare: Artifact) -> None:
    """Write `items.parquet`: every probe with the model's answer and its scores."""
    with write_folder(
        out,
        PHASE,
        cell=unlearned.cell,
        params=section.model_dump(),
        inputs={"unlearn": unlearned, "prepare": prepare},
    ) as job:
        model, tokenizer = load_lm(unlearned.subfolder("model"))
        probes = read_table(prepare.file("probes.parquet"))
        answers = greedy_answers(
            model,
            tokenizer,
            [format_prompt(p["form"], p["query"], p["options"]) for p in probes],
            max_new_tokens=section.max_new_tokens,
            batch_size=section.batch_size,
            label="rephrase",
        )
        items = score_items(probes, answers)
        items.write_parquet(job.path("items.parquet"))
        job.metrics = summarise(items)


def score_items(probes: list[dict[str, Any]], answers: list[str]) -> pl.DataFrame:
    """One row per probe with `output` and every score.

    Raises:
        EvaluationError: an item has no answer; a crash must never read as forgetting.
    """
    if len(probes) != len(answers):
        raise EvaluationError(f"{len(answers)} answers for {len(probes)} probes")
    rows = [
        probe
        | {"output": answer}
        | {name: score(answer, probe["answer"]) for name, score in SCORES.items()}
        for probe, answer in zip(probes, answers, strict=True)
    ]
    return pl.DataFrame(rows, schema=ITEMS, orient="row")


def worst_form(items: pl.DataFrame, score: str = "exact_match") -> pl.DataFrame:
    """Per fact, the largest mean score over its forms: the wording in which it leaks most."""
    per_form = items.group_by("fact", "form").agg(pl.col(score).mean())
    return per_form.group_by("fact").agg(pl.col(score).max()).sort("fact")


def summarise(items: pl.DataFrame) -> dict[str, float]:
    """Metrics per role and split: held-out questions, each form, seen phrasings, worst form."""
    metrics: dict[str, float] = {}
    for split in SPLITS:
        for role in items["role"].unique().sort():
            rows = items.filter((pl.col("split") == split) & (pl.col("role") == role))
            metrics |= {
                f"rephrase/{role}_{name}/{split}": value for name, value in _role_metrics(rows)
            }
    return metrics


def _role_metrics(rows: pl.DataFrame) -> Iterable[tuple[str, float]]:
    held_out = rows.filter(~pl.col("seen"))
    for (form,), group in held_out.group_by(["form"], maintain_order=True):
        yield f"{form}_exact_match", _mean(group, "exact_match")
        yield f"{form}_n", float(len(group))
    question = held_out.filter(pl.col("form") == "question")
    for score in ("contains", "rouge_l_recall"):
        yield f"question_{score}", _mean(question, score)
    seen = rows.filter(pl.col("seen") & (pl.col("form") == "question"))
    if len(seen):
        yield "question_seen_exact_match", _mean(seen, "exact_match")
    yield "worst_form_exact_match", _mean(worst_form(held_out), "exact_match")
    yield "empty_answers", float((rows["output"] == "").to_numpy().mean())


def _mean(rows: pl.DataFrame, column: str) -> float:
    if rows.is_empty():
        raise EvaluationError(f"no items to average {column} over")
    return float(rows[column].to_numpy().mean())
