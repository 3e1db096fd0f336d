"""Membership and memorisation per text: forget and retain texts, and texts that no model saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from atu.config.sections import Privacy
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.inference.scoring import TokenScores, score_answers
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.models.compute import device_of
from atu.results.artifacts import Artifact
from atu.results.tables import read_table
from atu.seeding import hash_fraction
from atu.training.batches import collate, encode_text
from atu.training.likelihood import mean_nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Rows = list[dict[str, Any]]
ATTACKS = {
    mia.membership_loss.id: "loss",
    mia.membership_zlib.id: "zlib",
    mia.membership_min_k_fixed.id: "Min-K",
    mia.membership_min_k_plus_plus.id: "Min-K++",
    mia.membership_gradient_norm.id: "gradient norm",
}
"""Scores by which members are told from strangers, and what a reader sees of them."""


def text_table(
    model: PreTrainedModel,
    tokenizer: Any,
    prepare: Artifact,
    section: Privacy,
    batch_size: BatchSize,
) -> pl.DataFrame:
    """One row per text of the forget, retain and holdout sets: token scores, membership scores,
    and verbatim memorisation of passages.
    """
    rows = choose_texts(prepare, section.retain_texts)
    texts = [row["text"] for row in rows]
    scores = score_answers(
        model, tokenizer, [""] * len(texts), texts, batch_size=batch_size, end=False, label="texts"
    )
    written = continuations(model, tokenizer, rows, section, batch_size)
    norms = gradient_norms(model, tokenizer, rows, section.gradient_texts)
    return pl.DataFrame(
        [
            {"corpus": row["corpus"], "form": row["form"], "fact": row["fact"], "text": row["text"]}
            | text_scores(row["text"], score, section.min_k, norm)
            | {memo.muse_verbatim.id: verbatim}
            for row, score, verbatim, norm in zip(rows, scores, written, norms, strict=True)
        ],
        infer_schema_length=None,
    )


def choose_texts(prepare: Artifact, retain_texts: int) -> Rows:
    """The benchmark's texts for membership tests; at most `retain_texts` of the retain set, by
    hash.
    """
    rows = read_table(prepare.file("members.parquet"))
    rows.sort(key=lambda row: hash_fraction("membership", row["text"]))
    retain = [row for row in rows if row["corpus"] == "retain"]
    return [row for row in rows if row["corpus"] != "retain"] + retain[:retain_texts]


def text_scores(text: str, scores: TokenScores, min_k: float, norm: float | None) -> dict[str, Any]:
    """Membership and memorisation scores of one text, and its tokens' log-probabilities."""
    logs = scores.log_probs
    plus_plus = mia.membership_min_k_plus_plus(logs, scores.mean, scores.std, min_k)
    return {
        "log_probs": logs.tolist(),
        mia.membership_loss.id: mia.membership_loss(logs),
        mia.membership_zlib.id: mia.membership_zlib(logs, text),
        mia.membership_min_k.id: mia.membership_min_k(logs, min_k),
        mia.membership_min_k_fixed.id: mia.membership_min_k_fixed(logs, min_k),
        mia.membership_min_k_plus_plus.id: plus_plus,
        mia.membership_gradient_norm.id: (
            None if norm is None else mia.membership_gradient_norm(norm)
        ),
        memo.exact_memorisation.id: memo.exact_memorisation(scores.matches),
        memo.extraction_strength.id: memo.extraction_strength(scores.matches),
        memo.extraction_strength_fixed.id: memo.extraction_strength_fixed(scores.matches),
    }


def continuations(
    model: PreTrainedModel,
    tokenizer: Any,
    rows: Rows,
    section: Privacy,
    batch_size: BatchSize,
) -> list[float | None]:
    """MUSE's verbatim memorisation: ROUGE-L F of the greedy continuation of a passage's first words
    to the true one, `verbatim_tokens` tokens of each, including line breaks; None for texts that
    are not passages.
    """
    chosen = [i for i, row in enumerate(rows) if row["form"] == "passage"]
    starts, truths = [], []
    for i in chosen:
        if rows[i]["prompt"]:  # the benchmark defines the cut
            starts.append(rows[i]["prompt"])
            truths.append(rows[i]["answer"])
            continue
        words = rows[i]["text"].split()
        cut = max(1, int(len(words) * section.verbatim_prompt))
        starts.append(" ".join(words[:cut]))
        truths.append(" ".join(words[cut:]))
    outputs = greedy_answers(
        model,
        tokenizer,
        starts,
        max_new_tokens=section.verbatim_tokens,
        batch_size=batch_size,
        label="verbatim",
        templated=False,
    )
    truths = [first_tokens(tokenizer, text, section.verbatim_tokens) for text in truths]
    scores = {
        i: memo.muse_verbatim(output, truth)
        for i, output, truth in zip(chosen, outputs, truths, strict=True)
    }
    return [scores.get(i) for i in range(len(rows))]


def first_tokens(tokenizer: Any, text: str, count: int) -> str:
    """The text's first tokens, as text."""
    ids = tokenizer(text)["input_ids"][:count]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def gradient_norms(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, per_corpus: int
) -> list[float | None]:
    """Norm of the loss's gradient over all weights, for the first texts of the forget and holdout
    sets, ordered by hash; None for all others. One backward pass per text.
    """
    selected: set[int] = set()
    for corpus in ("forget", "holdout"):
        order = [i for i, row in enumerate(rows) if row["corpus"] == corpus]
        order.sort(key=lambda i: hash_fraction("gradient", rows[i]["text"]))
        selected |= set(order[:per_corpus])
    norms: list[float | None] = []
    for number, row in enumerate(rows):
        norms.append(_gradient_norm(model, tokenizer, row["text"]) if number in selected else None)
    return norms


def _gradient_norm(model: PreTrainedModel, tokenizer: Any, text: str) -> float:
    device = device_of(model)
    batch = collate([encode_text(tokenizer, text, "", end=False)], tokenizer.pad_token_id)
    logits = model(input_ids=batch.input_ids.to(device), use_cache=False).logits
    mean_nll(logits, batch.labels.to(device)).backward()
    total = sum(
        float(p.grad.float().square().sum()) for p in model.parameters() if p.grad is not None
    )
    model.zero_grad(set_to_none=True)
    if not np.isfinite(total):
        raise EvaluationError(f"the gradient of {text!r} is not finite")
    return total**0.5


def text_metrics(texts: pl.DataFrame) -> dict[str, float]:
    """Memorisation of the forget passages, and RWKU's familiarity of forget and retain texts."""
    metrics: dict[str, float] = {}
    verbatim = "verbatim" if "verbatim" in texts["corpus"] else "forget"
    passages = texts.filter((pl.col("corpus") == verbatim) & (pl.col("form") == "passage"))
    for column in (
        ()
        if passages.is_empty()
        else (
            memo.muse_verbatim.id,
            memo.exact_memorisation.id,
            memo.extraction_strength.id,
            memo.extraction_strength_fixed.id,
        )
    ):
        metrics[f"passage.{column}"] = float(passages[column].to_numpy().mean())
    metrics["passage.n"] = float(len(passages))
    for corpus in ("forget", "retain"):
        if corpus not in texts["corpus"]:
            continue
        rows = texts.filter(pl.col("corpus") == corpus)["log_probs"].to_list()
        familiarity = mia.rwku_familiarity([np.array(row) for row in rows])
        metrics[f"{corpus}.{mia.rwku_familiarity.id}"] = familiarity
    return metrics


def membership_metrics(texts: pl.DataFrame, reference: pl.DataFrame | None) -> dict[str, float]:
    """AUC of every attack, forget against holdout (0.5: indistinguishable), and MUSE's PrivLeak
    relative to the reference's AUC; empty for a benchmark without holdout texts.
    """
    if "holdout" not in texts["corpus"]:
        return {}
    if reference is None:
        return {f"forget.{name}.{mia.auc.id}": corpus_auc(texts, name) for name in ATTACKS}
    if texts["text"].to_list() != reference["text"].to_list():
        raise EvaluationError("the reference scored other texts; run its privacy again")
    compared = [
        mia.membership_reference(np.array(log_probs), np.array(reference_log_probs))
        for log_probs, reference_log_probs in zip(
            texts["log_probs"], reference["log_probs"], strict=True
        )
    ]
    texts = texts.with_columns(pl.Series(mia.membership_reference.id, compared))
    metrics = {
        f"forget.{name}.{mia.auc.id}": corpus_auc(texts, name)
        for name in (*ATTACKS, mia.membership_reference.id)
    }
    model_auc, reference_auc = (
        corpus_auc(t, mia.membership_min_k_fixed.id) for t in (texts, reference)
    )
    if reference_auc < 1:  # otherwise PrivLeak is undefined
        metrics[f"forget.{memo.muse_priv_leak.id}"] = memo.muse_priv_leak(model_auc, reference_auc)
    return metrics


def corpus_auc(texts: pl.DataFrame, score: str) -> float:
    """AUC of one score between the forget and the holdout texts that have it."""
    sides = [
        texts.filter(pl.col("corpus") == corpus)[score].drop_nulls().to_list()
        for corpus in ("forget", "holdout")
    ]
    return mia.auc(*sides)
