"""The privacy table: memorisation, membership inference, and distance from the oracle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atu.config.sections import Report
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.metrics.bootstrap import Estimate, clustered_mean, percentiles, resampled_means
from atu.metrics.muse_knowledge import muse_knowledge_fixed
from atu.metrics.options import option_accuracy
from atu.metrics.tofu_recall import tofu_rouge_l_recall, tofu_rouge_l_recall_fixed
from atu.privacy.texts import ATTACKS
from atu.reporting.items import estimate, of, with_cell
from atu.results.artifacts import Artifact
from atu.results.items import BLIND
from atu.results.tables import read_frame
from atu.seeding import generator

ANSWERS = {
    memo.tofu_probability.id: "TOFU probability",
    option_accuracy.id: "choice among wrong answers",
    tofu_rouge_l_recall_fixed.id: "TOFU ROUGE-L recall",
    memo.exact_memorisation.id: "exact memorisation",
    memo.extraction_strength_fixed.id: "extraction strength",
    muse_knowledge_fixed.id: "MUSE knowledge",
}
"""Item scores of questions about the target."""
SUMMARIES = {
    f"target.{memo.tofu_forget_truth_ratio.id}": "TOFU forget truth ratio",
    f"target.{memo.tofu_truth_ratio.id}.{memo.tofu_forget_quality.id}": "forget quality, log10 p",
    f"all.{memo.tofu_model_utility.id}": "TOFU model utility",
    f"passage.{memo.muse_verbatim_fixed.id}": "MUSE verbatim",
    f"forget.{memo.muse_priv_leak.id}": "MUSE PrivLeak, %",
    f"forget.{mia.rwku_familiarity.id}": "RWKU familiarity, forget",
    f"retain.{mia.rwku_familiarity.id}": "RWKU familiarity, retain",
    f"target.{tofu_rouge_l_recall.id}.{BLIND}": "answers that official ROUGE cannot read",
    f"passage.{memo.muse_verbatim.id}.{BLIND}": "passages that official ROUGE cannot read",
}
"""Numbers of a whole cell, averaged over targets and seeds. Those of texts that official ROUGE
cannot read are shown where there are any."""
AUCS = {name: f"AUC, {title}" for name, title in ATTACKS.items()}
"""Membership inference: a model that never saw the texts scores 0.5."""
REFERENCE_AUC = f"forget.{mia.membership_reference.id}.{mia.auc.id}"
SIDES = ("forget", "holdout")
"""The corpora whose texts membership inference tells apart: members, and no members."""
TITLES = ANSWERS | SUMMARIES | AUCS | {REFERENCE_AUC: "AUC, reference"}


def privacy_table(
    privacy: Sequence[Artifact], section: Report, methods: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per model and method: an `Estimate` per column of `TITLES` that the benchmark has.
    The n of summaries is the number of cells; of one target they have no interval.
    """
    answers, texts = (_load(privacy, f"{name}.parquet") for name in ("answers", "texts"))
    answer_scores = ANSWERS if "target" in answers["role"] else {}
    aucs = list(AUCS) if "holdout" in texts["corpus"] else []
    numbers = [(artifact.cell, artifact.metrics()) for artifact in privacy]
    summaries = {
        key.split("/")[1]
        for _, metrics in numbers
        for key, value in metrics.items()
        if value or not key.split("/")[1].endswith(f".{BLIND}")
    }
    rows = []
    for model in sorted({artifact.cell["model"] for artifact in privacy}):
        for method in methods:
            target = of(answers, model, method).filter(pl.col("role") == "target")
            method_texts = of(texts, model, method)
            cells = [
                (cell["target"], metrics)
                for cell, metrics in numbers
                if (cell["model"], cell["method"]) == (model, method)
            ]
            row: dict[str, Any] = {"model": model, "method": method}
            row |= {name: estimate(target, section, name) for name in answer_scores}
            row |= {
                name: _summary(cells, name, section)
                for name in (*SUMMARIES, REFERENCE_AUC)
                if name in summaries
            }
            row |= auc_estimates(method_texts, aucs, section)
            rows.append(row)
    return rows


def _load(privacy: Sequence[Artifact], name: str) -> pl.DataFrame:
    return pl.concat([with_cell(read_frame(a.file(name)), a) for a in privacy])


def _summary(cells: Sequence[tuple[str, dict[str, float]]], name: str, section: Report) -> Estimate:
    """The mean over cells, with an interval that draws targets; not valid if a cell lacks the
    number.
    """
    key = f"privacy/{name}/report"
    if not cells:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return clustered_mean(
        [metrics.get(key) for _, metrics in cells],
        [target for target, _ in cells],
        generator(section.seed, "bootstrap"),
        section.bootstrap,
        section.confidence,
    )


def auc_estimates(
    texts: pl.DataFrame, scores: Sequence[str], section: Report
) -> dict[str, Estimate]:
    """By score the AUC of forget against holdout texts, averaged over cells; n is the number of
    texts. The interval draws targets, and of one target facts on both sides.
    """
    targets, cells = [], []
    for (target, _), cell in texts.group_by(["target", "seed"], maintain_order=True):
        targets.append(target)
        sides = (cell.filter(pl.col("corpus") == corpus) for corpus in SIDES)
        cells.append([_by_fact(side, scores) for side in sides])
    found = {}
    for score in scores:
        by_cell = [[by_fact[score] for by_fact in cell] for cell in cells]
        points = [_area(sides) for sides in by_cell]
        if len(set(targets)) > 1:
            rng = generator(section.seed, "auc")
            resampled = resampled_means(points, targets, rng, section.bootstrap)
        else:
            drawn = [_drawn(section.seed, section.bootstrap, score, *map(len, c)) for c in by_cell]
            resampled = np.mean(
                [_resampled(*pair) for pair in zip(by_cell, drawn, strict=True)], axis=0
            )
        n = sum(len(values) for sides in by_cell for side in sides for values in side)
        low, high = percentiles(resampled, section.confidence)
        found[score] = Estimate(float(np.mean(points)), low, high, n)
    return found


def _area(sides: Sequence[Sequence[Sequence[float]]]) -> float:
    """The AUC of members, by fact, against non-members, by fact."""
    members, others = ([x for fact in side for x in fact] for side in sides)
    return mia.auc(members, others)


def _by_fact(texts: pl.DataFrame, scores: Sequence[str]) -> dict[str, list[list[float]]]:
    """The values of every score, by fact; a fact that has none is left out."""
    facts = texts.group_by("fact", maintain_order=True).agg(pl.col(scores).drop_nulls())
    return {score: [values for values in facts[score].to_list() if values] for score in scores}


def _resampled(
    sides: Sequence[Sequence[Sequence[float]]], drawn: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """The AUC in every resample of facts on both sides (`_drawn`), [resamples]. It is a mean over
    pairs of texts, so that what every pair of facts has in it, and how often each fact was drawn,
    is enough.
    """
    members, others = (np.array([x for fact in side for x in fact]) for side in sides)
    won = (members[:, None] > others) + 0.5 * (members[:, None] == others)
    starts = [np.cumsum([0, *(len(fact) for fact in side[:-1])]) for side in sides]
    pairs = np.add.reduceat(np.add.reduceat(won, starts[0], axis=0), starts[1], axis=1)
    texts = [d @ [len(fact) for fact in side] for d, side in zip(drawn, sides, strict=True)]
    areas: NDArray[np.float64] = ((drawn[0] @ pairs) * drawn[1]).sum(axis=1) / (texts[0] * texts[1])
    return areas


@lru_cache(maxsize=128)
def _drawn(seed: int, resamples: int, score: str, *facts: int) -> list[NDArray[np.int64]]:
    """How often every resample draws each of so many facts, [resamples, facts] of each side. They
    are the same for every method: to draw them took longer than all that is done with them.
    """
    rng = generator(seed, "auc", score)
    return [rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in facts]
