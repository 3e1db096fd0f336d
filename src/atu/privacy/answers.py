"""Memorisation per question: TOFU's and open-unlearning's scores of answers, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.scoring import TokenScores, score_answers
from atu.metrics import memorisation as memo
from atu.metrics.muse_knowledge import muse_knowledge
from atu.metrics.tofu_recall import tofu_rouge_l_recall
from atu.probes.prompts import part_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROLES = {
    "target": "forget",
    "other": "retain",
    "neighbour": "real_authors",
    "general": "world_facts",
}
"""Our roles to TOFU's sets: neighbours and general facts correspond to its real authors and world
facts."""
RATIOS = {
    memo.tofu_truth_ratio.id: memo.tofu_truth_ratio,
    memo.tofu_truth_ratio_paper.id: memo.tofu_truth_ratio_paper,
    memo.open_unlearning_truth_ratio.id: memo.open_unlearning_truth_ratio,
}
ANSWERS = {
    **dict.fromkeys(("id", "fact", "role", "answer", "output"), pl.String),
    **dict.fromkeys(
        (
            *RATIOS,
            memo.tofu_probability.id,
            memo.tofu_option_probability.id,
            tofu_rouge_l_recall.id,
            muse_knowledge.id,
            memo.exact_memorisation.id,
            memo.extraction_strength.id,
            memo.extraction_strength_fixed.id,
        ),
        pl.Float64,
    ),
}
"""Columns of `answers.parquet`, which is empty for a benchmark without plain questions."""


def answer_table(
    model: PreTrainedModel, tokenizer: Any, items: pl.DataFrame, batch_size: BatchSize
) -> pl.DataFrame:
    """One row per reported, held-out plain question: TOFU's and open-unlearning's item scores."""
    probes = items.filter(
        (pl.col("split") == "report")
        & (pl.col("form") == "question")
        & ~pl.col("seen")
        & pl.col("role").is_in(list(ROLES))
    ).to_dicts()
    pairs = [(p["prompt"], answer) for p in probes for answer in scored_answers(p)]
    flat = iter(
        score_answers(
            model,
            tokenizer,
            [prompt for prompt, _ in pairs],
            [answer for _, answer in pairs],
            batch_size=batch_size,
            end=True,
            label="answers",
        )
    )
    rows = []
    for probe in probes:
        right, *others = [next(flat) for _ in scored_answers(probe)]
        base = right if probe["paraphrased"] is None else others.pop(0)
        rows.append(
            {key: probe[key] for key in ("id", "fact", "role", "answer", "output")}
            | answer_scores(probe, right, base, others)
        )
    return pl.DataFrame(rows, schema=ANSWERS, orient="row")


def scored_answers(probe: dict[str, Any]) -> list[str]:
    """The gold answer, its paraphrase if the benchmark has one, and the wrong answers."""
    paraphrased = [] if probe["paraphrased"] is None else [probe["paraphrased"]]
    return [probe["answer"], *paraphrased, *probe["wrong"]]


def answer_scores(
    probe: dict[str, Any], right: TokenScores, base: TokenScores, wrong: Sequence[TokenScores]
) -> dict[str, float | None]:
    """The scores of one question from the tokens of its answers.

    Truth ratios compare the wrong answers with `base`: TOFU uses the paraphrased answer, because
    the answer itself was trained verbatim. The world's answers are names without a paraphrase; the
    question is held out instead, and the gold answer is the base. Without wrong answers, scores
    that compare with them are None.
    """
    probability = memo.tofu_probability(right.log_probs)
    wrong_probabilities = [memo.tofu_probability(score.log_probs) for score in wrong]
    output = part_of(probe["output"], probe["part"])
    matches = right.matches[:-1]
    """Without the end token, which counts in TOFU's probability but not in open-unlearning's
    scores."""
    ratios = {
        name: ratio(base.loss, [score.loss for score in wrong]) if wrong else None
        for name, ratio in RATIOS.items()
    }
    return ratios | {
        memo.tofu_probability.id: probability,
        memo.tofu_option_probability.id: (
            memo.tofu_option_probability(probability, wrong_probabilities)
            if wrong_probabilities
            else None
        ),
        tofu_rouge_l_recall.id: tofu_rouge_l_recall(output, probe["answer"]),
        muse_knowledge.id: muse_knowledge(output, probe["answer"]),
        memo.exact_memorisation.id: memo.exact_memorisation(matches),
        memo.extraction_strength.id: memo.extraction_strength(matches),
        memo.extraction_strength_fixed.id: memo.extraction_strength_fixed(matches),
    }


def memorisation_metrics(answers: pl.DataFrame, reference: pl.DataFrame | None) -> dict[str, float]:
    """Means per set that the benchmark has, TOFU's model utility if it has all sets, and forget
    quality if there is a reference.
    """
    metrics: dict[str, float] = {}
    nine: list[float] = []
    for role, name in ROLES.items():
        rows = answers.filter(pl.col("role") == role)
        if rows.is_empty():
            continue
        metrics[f"{role}.n"] = float(len(rows))
        for column in rows.columns[5:]:
            if column not in RATIOS and not rows[column].null_count():
                metrics[f"{role}.{column}"] = float(rows[column].to_numpy().mean())
        ratios = rows[memo.tofu_truth_ratio.id].to_list()
        if None in ratios:
            continue
        if role == "target":
            aggregate = memo.tofu_forget_truth_ratio
        else:
            aggregate = memo.tofu_retain_truth_ratio
        metrics[f"{role}.{aggregate.id}"] = aggregate(ratios)
        if role != "target":
            kind = memo.tofu_probability if name == "retain" else memo.tofu_option_probability
            rouge = metrics[f"{role}.{tofu_rouge_l_recall.id}"]
            nine += [metrics[f"{role}.{kind.id}"], rouge, aggregate(ratios)]
    if len(nine) == memo.UTILITY_PARTS:
        metrics[f"all.{memo.tofu_model_utility.id}"] = memo.tofu_model_utility(nine)
    if reference is None:
        return metrics
    target_answers, reference_answers = (
        t.filter(pl.col("role") == "target").sort("id") for t in (answers, reference)
    )
    if target_answers["id"].to_list() != reference_answers["id"].to_list():
        raise EvaluationError("the reference answered other questions; run its privacy again")
    compared = len(target_answers) and not target_answers[memo.tofu_truth_ratio.id].null_count()
    for name in RATIOS if compared else ():
        quality = memo.tofu_forget_quality(
            target_answers[name].to_list(), reference_answers[name].to_list()
        )
        metrics[f"target.{name}.{memo.tofu_forget_quality.id}"] = quality
    return metrics
