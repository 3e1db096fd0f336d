"""Memorisation per question: TOFU's and open-unlearning's scores of answers, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.scoring import TokenScores, score_answers
from atu.metrics import memorisation as memo
from atu.metrics.muse_knowledge import (
    muse_knowledge,
    muse_knowledge_fixed,
    open_unlearning_knowledge,
)
from atu.metrics.options import option_accuracy
from atu.metrics.rouge import is_blind
from atu.metrics.tofu_recall import tofu_rouge_l_recall, tofu_rouge_l_recall_fixed
from atu.probes.prompts import part_of
from atu.results.items import BLIND

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
    ratio.id: ratio
    for ratio in (
        memo.tofu_truth_ratio,
        memo.tofu_truth_ratio_paper,
        memo.open_unlearning_tofu_truth_ratio,
        memo.open_unlearning_truth_ratio,
    )
}
AGGREGATED = {
    memo.tofu_truth_ratio.id: "",
    memo.open_unlearning_tofu_truth_ratio.id: f"{memo.open_unlearning_tofu_truth_ratio.id}.",
}
"""Ratios of wrong to right of which a set has TOFU's forget or retain truth ratio, and what stands
before its name."""
OPTIONS = {
    share.id: share
    for share in (memo.tofu_option_probability, memo.open_unlearning_option_probability)
}
TEXTS = {
    score.id: score
    for score in (
        tofu_rouge_l_recall,
        tofu_rouge_l_recall_fixed,
        muse_knowledge,
        muse_knowledge_fixed,
        open_unlearning_knowledge,
    )
}
"""Scores of an output beside the gold answer."""
FAITHFUL = (tofu_rouge_l_recall.id, muse_knowledge.id, open_unlearning_knowledge.id)
"""Those that cannot read every script; their `.blind` counts the answers."""
MEANS = (
    memo.open_unlearning_truth_ratio.id,
    memo.tofu_probability.id,
    *OPTIONS,
    option_accuracy.id,
    *TEXTS,
    *memo.TOKENWISE,
)
"""Scores of an answer whose mean is a number of the model; other ratios have no bound, and TOFU's
own aggregates."""
ANSWERS = {
    **dict.fromkeys(("id", "fact", "role", "answer", "output"), pl.String),
    **dict.fromkeys((*RATIOS, *MEANS), pl.Float64),
    BLIND: pl.Boolean,
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
    rows = [
        {key: probe[key] for key in ("id", "fact", "role", "answer", "output")} | scores
        for probe, scores in zip(
            probes, score_probes(model, tokenizer, probes, batch_size), strict=True
        )
    ]
    return pl.DataFrame(rows, schema=ANSWERS, orient="row")


def score_probes(
    model: PreTrainedModel,
    tokenizer: Any,
    probes: Sequence[dict[str, Any]],
    batch_size: BatchSize,
) -> list[dict[str, float | bool | None]]:
    """The scores of every probe, from its answers' tokens and from its `output`."""
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
    scores = []
    for probe in probes:
        right, *others = [next(flat) for _ in scored_answers(probe)]
        base = right if probe["paraphrased"] is None else others.pop(0)
        scores.append(answer_scores(probe, right, base, others))
    return scores


def scored_answers(probe: dict[str, Any]) -> list[str]:
    """The gold answer, its paraphrase if the benchmark has one, and the wrong answers."""
    paraphrased = [] if probe["paraphrased"] is None else [probe["paraphrased"]]
    return [probe["answer"], *paraphrased, *probe["wrong"]]


def answer_scores(
    probe: dict[str, Any], right: TokenScores, base: TokenScores, wrong: Sequence[TokenScores]
) -> dict[str, float | bool | None]:
    """The scores of one question from the tokens of its answers.

    Truth ratios compare the wrong answers with `base`: TOFU uses the paraphrased answer, because
    the answer itself was trained verbatim. The world's answers are names without a paraphrase; the
    question is held out instead, and the gold answer is the base. Without wrong answers, scores
    that compare with them are None.
    """
    losses = [score.loss for score in wrong]
    output = part_of(probe["output"], probe["part"])
    matches = right.matches[:-1]
    """Without the end token, which counts in TOFU's probability but not in open-unlearning's
    scores."""
    return (
        {name: ratio(base.loss, losses) if wrong else None for name, ratio in RATIOS.items()}
        | {memo.tofu_probability.id: memo.tofu_probability(right.log_probs)}
        | {name: share(right.loss, losses) if wrong else None for name, share in OPTIONS.items()}
        | {option_accuracy.id: _choice(base, wrong) if wrong else None}
        | {name: score(output, probe["answer"]) for name, score in TEXTS.items()}
        | {name: score(matches) for name, score in memo.TOKENWISE.items()}
        | {BLIND: is_blind(output, probe["answer"])}
    )


def _choice(right: TokenScores, wrong: Sequence[TokenScores]) -> float:
    """Whether the right answer is the likeliest per token, without the end token: it says nothing
    of an answer that breaks off.
    """
    means = [
        (s.log_probs[:-1] if len(s.log_probs) > 1 else s.log_probs).mean() for s in (right, *wrong)
    ]
    return option_accuracy(means, 0)


def means(rows: pl.DataFrame) -> dict[str, float]:
    """The mean of every score in `MEANS` that all of the rows have."""
    there = [name for name in MEANS if name in rows.columns and not rows[name].null_count()]
    return {name: float(rows[name].to_numpy().mean()) for name in there}


def memorisation_metrics(answers: pl.DataFrame, reference: pl.DataFrame | None) -> dict[str, float]:
    """Means per set that the benchmark has, TOFU's model utility if it has all sets, and forget
    quality if there is a reference. The utility's ROUGE is the repaired one, which differs from
    TOFU's in answers that this cannot read alone.
    """
    metrics: dict[str, float] = {}
    nine: list[float] = []
    for role, name in ROLES.items():
        rows = answers.filter(pl.col("role") == role)
        if rows.is_empty():
            continue
        metrics[f"{role}.n"] = float(len(rows))
        metrics |= {f"{role}.{name}": value for name, value in means(rows).items()}
        for column in FAITHFUL:
            metrics[f"{role}.{column}.{BLIND}"] = float(rows[BLIND].sum())
        if rows[memo.tofu_truth_ratio.id].null_count():
            continue
        if role == "target":
            aggregate = memo.tofu_forget_truth_ratio
        else:
            aggregate = memo.tofu_retain_truth_ratio
        for ratio, prefix in AGGREGATED.items():
            metrics[f"{role}.{prefix}{aggregate.id}"] = aggregate(rows[ratio].to_list())
        if role != "target":
            kind = memo.tofu_probability if name == "retain" else memo.tofu_option_probability
            parts = (kind.id, tofu_rouge_l_recall_fixed.id, aggregate.id)
            nine += [metrics[f"{role}.{part}"] for part in parts]
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
