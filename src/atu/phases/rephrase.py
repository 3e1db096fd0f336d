"""rephrase: greedy answers to every probe, and how much leaks in which wording."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import polars as pl

from atu.config.dependencies import dependencies
from atu.config.sections import Rephrase
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.finite import require_finite_weights
from atu.inference.probing import answer_probes
from atu.inference.scoring import score_answers
from atu.metrics.answers import contains, exact_match
from atu.metrics.overlap import ort_probability
from atu.metrics.registry import Metric
from atu.metrics.robustness import rwku_forget_all, rwku_neighbour_all, seen_gap
from atu.metrics.rwku_recall import rwku_rouge_l_recall, rwku_rouge_l_recall_fixed
from atu.metrics.worst_form import worst_form
from atu.models.compute import Compute
from atu.models.llm import open_lm
from atu.probes.measures import official, official_is_blind, score_output
from atu.probes.prompts import ADVERSARIAL, ORT, part_of
from atu.results.artifacts import Artifact
from atu.results.items import (
    BLIND,
    OFFICIAL,
    PROBABILITY,
    SCORE,
    WORDINGS,
    counted,
    with_wordings,
    wordings_per_fact,
    worst_forms,
    worst_of,
)
from atu.results.jobs import write_folder
from atu.results.tables import PROBES, read_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PHASE = "rephrase"
ROUGE = rwku_rouge_l_recall.id
SCORES = {
    metric.id: metric
    for metric in (exact_match, contains, rwku_rouge_l_recall, rwku_rouge_l_recall_fixed)
}
ITEMS = {
    **PROBES,
    "output": pl.String,
    SCORE: pl.Float64,
    **dict.fromkeys(SCORES, pl.Float64),
    OFFICIAL: pl.Float64,
    BLIND: pl.Boolean,
    PROBABILITY: pl.Float64,
    WORDINGS: pl.Int64,
}
SPLITS = ("select", "report")


def run(
    out: Path, section: Rephrase, compute: Compute, unlearn: Artifact, prepare: Artifact
) -> None:
    """Write `items.parquet`: every probe with the model's answer and its scores."""
    with write_folder(
        out,
        PHASE,
        cell=unlearn.cell,
        params=dependencies(PHASE, section, compute),
        inputs={"unlearn": unlearn, "prepare": prepare},
    ) as job:
        model, tokenizer = open_lm(unlearn, compute, training=False)
        probes = read_table(prepare.file("probes.parquet"))
        batch_size = BatchSize(section.batch_size)
        answers = answer_probes(
            model,
            tokenizer,
            probes,
            max_new_tokens=section.max_new_tokens,
            batch_size=batch_size,
            label=PHASE,
        )
        probabilities = gold_probabilities(model, tokenizer, probes, batch_size)
        items = score_items(probes, answers, probabilities)
        require_finite_weights(model)
        items.write_parquet(job.path("items.parquet"))
        job.metrics = summarise(items)
        job.notes["batch_size"] = batch_size.value


def gold_probabilities(
    model: PreTrainedModel,
    tokenizer: Any,
    probes: Sequence[dict[str, Any]],
    batch_size: BatchSize,
) -> list[float | None]:
    """ORT's probability of the gold answer in ORT's four forms; None in the others."""
    chosen = [number for number, probe in enumerate(probes) if probe["form"] in ORT]
    scores = score_answers(
        model,
        tokenizer,
        [probes[i]["prompt"] for i in chosen],
        [probes[i]["answer"] for i in chosen],
        batch_size=batch_size,
        end=False,
        label="gold answers",
    )
    probability_of = {i: ort_probability(s.log_probs) for i, s in zip(chosen, scores, strict=True)}
    return [probability_of.get(i) for i in range(len(probes))]


def score_items(
    probes: Sequence[dict[str, Any]],
    answers: Sequence[str],
    probabilities: Sequence[float | None] | None = None,
) -> pl.DataFrame:
    """One row per probe with `output` and every score; null where a score is not defined.

    Raises:
        EvaluationError: an item has no answer; a crash must never read as forgetting.
    """
    if len(probes) != len(answers):
        raise EvaluationError(f"{len(answers)} answers for {len(probes)} probes")
    given = probabilities or [None] * len(probes)
    rows = [
        probe
        | {"output": answer, PROBABILITY: probability, SCORE: score_output(probe, answer)}
        | {
            name: score(part_of(answer, probe["part"]), probe["answer"])
            for name, score in SCORES.items()
        }
        | _official(probe, answer)
        for probe, answer, probability in zip(probes, answers, given, strict=True)
    ]
    return with_wordings(pl.DataFrame(rows, schema=ITEMS, orient="row"))


def _official(probe: dict[str, Any], answer: str) -> dict[str, Any]:
    score = official(probe["measure"])
    return {
        OFFICIAL: score and score(part_of(answer, probe["part"]), probe["answer"]),
        BLIND: official_is_blind(probe, answer),
    }


def summarise(items: pl.DataFrame) -> dict[str, float]:
    """Metrics per role and split: each form, RWKU's levels, seen phrasings, worst forms.

    Keys are `rephrase/<role>.<part>.<metric id>/<split>`; a form's number is over phrasings that
    the fact's training text does not use. Of few facts, all may be in one split by their hashes:
    then the role has no number in the other. `<role>.<official metric id>.blind` counts the answers
    whose words that metric cannot read, and that the probes' measure reads.
    """
    return {
        f"rephrase/{role}.{name}/{split}": value
        for split in SPLITS
        for rows in [items.filter(pl.col("split") == split)]
        for role in rows["role"].unique().sort()
        for name, value in _role_metrics(rows.filter(pl.col("role") == role), role)
    }


def _role_metrics(rows: pl.DataFrame, role: str) -> Iterable[tuple[str, float]]:
    held_out = rows.filter(~pl.col("seen"))
    if held_out.is_empty():
        raise EvaluationError(f"no held-out item of the role {role!r} to average over")
    measure = rows["measure"][0]
    theirs = official(measure)
    # Under their own names, which may be none of `SCORES`: TOFU's and MUSE's are not.
    names = {SCORE: measure} | ({OFFICIAL: theirs.id} if theirs else {})
    columns = [pl.col(column).alias(name) for column, name in names.items()]
    rows, held_out = (part.with_columns(columns) for part in (rows, held_out))
    if theirs:
        yield f"{theirs.id}.{BLIND}", float(held_out[BLIND].sum())
    yield "empty_answers", float((rows["output"] == "").to_numpy().mean())
    for (form,), group in sorted(held_out.group_by(["form"])):
        for name in names.values():
            yield from _scored(form, group, name)
        yield f"{form}.n", float(len(group))
        if form in ORT:
            yield from _scored(form, group, PROBABILITY)
    yield from _worst("worst", held_out, measure)
    if {"cloze", "question"} <= set(held_out["form"]):
        yield from _levels(held_out, role)
    if role == "target":
        yield from _target_metrics(rows, held_out, measure)


def _levels(held_out: pl.DataFrame, role: str) -> Iterable[tuple[str, float]]:
    """RWKU's levels by its own score, and the weighted mean that it reports."""
    levels = {form: held_out.filter(pl.col("form") == form) for form in ("cloze", "question")}
    weighted: Metric[..., float] = rwku_neighbour_all
    if role == "target":
        levels["adversarial"] = held_out.filter(pl.col("form").is_in(ADVERSARIAL))
        weighted = rwku_forget_all
    for score in (ROUGE, rwku_rouge_l_recall_fixed.id):
        scores = [dict(_scored(name, level, score)) for name, level in levels.items()]
        for numbers in scores:
            yield from numbers.items()
        means = [numbers[key] for numbers in scores for key in numbers if key.endswith(score)]
        if len(means) == len(levels):
            yield f"all.{score}.{weighted.id}", weighted(*means)


def _target_metrics(
    rows: pl.DataFrame, held_out: pl.DataFrame, measure: str
) -> Iterable[tuple[str, float]]:
    """What is asked of the target only: the gap to phrasings in the corpus, ORT's worst form."""
    question = rows.filter(pl.col("form") == "question")
    seen, unseen = (
        question.filter(pl.col("seen") == flag)[measure].to_list() for flag in (True, False)
    )
    if seen and unseen:
        yield f"question_seen.{measure}", sum(seen) / len(seen)
        yield f"question.{measure}.{seen_gap.id}", seen_gap(seen, unseen)
    yield from _worst("worst_ort", held_out.filter(pl.col("form").is_in(ORT)), PROBABILITY)
    adversarial = held_out.filter(pl.col("form").is_in(ADVERSARIAL))
    yield from _worst("worst_adversarial", adversarial, measure)
    counts = wordings_per_fact(held_out)
    for name, value in (("min", min(counts)), ("median", median(counts)), ("max", max(counts))):
        yield f"{WORDINGS}_{name}", float(value)


def _worst(name: str, rows: pl.DataFrame, score: str) -> Iterable[tuple[str, float]]:
    """The mean over facts of the worst form; and where the benchmark has it, of the worst of m
    wordings, with the number of its facts and of those that have fewer.
    """
    rows = counted(rows)
    forms = worst_form(rows.select("fact", "form", score).drop_nulls().iter_rows())
    if forms:
        yield f"{name}.{score}", _average(forms)
    if m := worst_of(rows):
        worst = worst_forms(rows, score)
        if worst:
            yield f"{name}_of_{m}.{score}.{worst_form.id}", _average(worst)
        yield f"{name}_of_{m}.n", float(len(worst))
        yield f"{name}_of_{m}.too_few", float(len(wordings_per_fact(rows)) - len(worst))


def _average(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _scored(name: str, rows: pl.DataFrame, column: str) -> Iterable[tuple[str, float]]:
    """The mean over all rows; where some are not scored no mean, only how many are not."""
    missing = rows[column].null_count()
    if missing:
        yield f"{name}.{column}.not_scored", float(missing)
    elif len(rows):
        yield f"{name}.{column}", float(rows[column].to_numpy().mean())
