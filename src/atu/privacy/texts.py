"""Membership and memorisation per text: forget and retain texts, and texts that no model saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from atu.config.sections import Privacy
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.inference.scoring import TokenScores, score_answers
from atu.metrics import membership as mia
from atu.metrics import memorisation as memo
from atu.metrics.rouge import is_blind
from atu.metrics.words import CHUNK
from atu.models.compute import device_of
from atu.models.encoding import tokenise
from atu.results.artifacts import Artifact
from atu.results.items import BLIND
from atu.results.tables import read_table
from atu.seeding import hash_fraction
from atu.training.batches import IGNORE, collate, encode_text
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


MIN_KS = (
    mia.membership_min_k.id,
    mia.membership_min_k_fixed.id,
    mia.membership_min_k_plus_plus_faithful.id,
    mia.membership_min_k_plus_plus.id,
)


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
    scores = score_texts(model, tokenizer, rows, batch_size)
    written = continuations(model, tokenizer, rows, section, batch_size)
    norms = gradient_norms(model, tokenizer, rows, section.gradient_texts)
    return pl.DataFrame(
        [
            {"corpus": row["corpus"], "form": row["form"], "fact": row["fact"], "text": row["text"]}
            | text_scores(row, score, section.min_k, norm)
            | verbatim_scores(score, continuation)
            for row, score, continuation, norm in zip(rows, scores, written, norms, strict=True)
        ],
        infer_schema_length=None,
    )


def is_question(row: Mapping[str, Any]) -> bool:
    """Whether a text is an answer to a question; the question itself is then not scored."""
    return bool(row["prompt"]) and row["form"] != "passage"


def score_texts(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, batch_size: BatchSize
) -> list[TokenScores]:
    """Token scores of every text: of passages all tokens, as RWKU and MUSE have it; of questions
    the answer with its end token, as open-unlearning has TOFU's.
    """
    scores: dict[int, TokenScores] = {}
    for asked in (False, True):
        chosen = [i for i, row in enumerate(rows) if is_question(row) == asked]
        found = score_answers(
            model,
            tokenizer,
            [rows[i]["prompt"] if asked else "" for i in chosen],
            [rows[i]["answer" if asked else "text"] for i in chosen],
            batch_size=batch_size,
            end=asked,
            label="answers" if asked else "texts",
        )
        scores |= dict(zip(chosen, found, strict=True))
    return [scores[i] for i in range(len(rows))]


def choose_texts(prepare: Artifact, retain_texts: int) -> Rows:
    """The benchmark's texts for membership tests; at most `retain_texts` of the retain set, by
    hash.
    """
    rows = read_table(prepare.file("members.parquet"))
    rows.sort(key=lambda row: hash_fraction("membership", row["text"]))
    retain = [row for row in rows if row["corpus"] == "retain"]
    return [row for row in rows if row["corpus"] != "retain"] + retain[:retain_texts]


def text_scores(
    row: Mapping[str, Any], scores: TokenScores, min_k: float, norms: Sequence[float] | None
) -> dict[str, Any]:
    """Membership scores of one text, and its tokens' log-probabilities.

    Of an answer, the end token counts in the loss alone, as in open-unlearning. An empty answer has
    no other token, hence no Min-K, where open-unlearning has 0: no AUC counts it.
    """
    asked = is_question(row)
    logs = scores.log_probs
    kept = slice(None, -1) if asked else slice(None)
    standardised = logs[kept], scores.mean[kept], scores.std[kept], min_k
    lowest: dict[str, float | None] = dict.fromkeys(MIN_KS)
    if len(logs[kept]):
        lowest = {
            mia.membership_min_k.id: mia.membership_min_k(logs[kept], min_k),
            mia.membership_min_k_fixed.id: mia.membership_min_k_fixed(logs[kept], min_k),
            mia.membership_min_k_plus_plus_faithful.id: (
                mia.membership_min_k_plus_plus_faithful(*standardised)
            ),
            mia.membership_min_k_plus_plus.id: mia.membership_min_k_plus_plus(*standardised),
        }
    return {
        "log_probs": logs.tolist(),
        mia.membership_loss.id: mia.membership_loss(logs),
        mia.membership_zlib.id: mia.membership_zlib(logs, row["answer" if asked else "text"]),
        **lowest,
        mia.membership_gradient_norm.id: (
            None if norms is None else mia.membership_gradient_norm(norms)
        ),
    }


@dataclass(frozen=True)
class Continuation:
    """How a model goes on from the beginning of a passage."""

    output: str
    truth: str
    tokens: int
    """Tokens of the truth, the last ones of the passage."""


VERBATIM = {metric.id: metric for metric in (memo.muse_verbatim, memo.muse_verbatim_fixed)}


def verbatim_scores(scores: TokenScores, continuation: Continuation | None) -> dict[str, Any]:
    """Verbatim memorisation of a passage's continuation given its beginning; None for a text that
    has none. `BLIND` says whether MUSE's own score can read it.
    """
    if continuation is None:
        return dict.fromkeys((*VERBATIM, *memo.TOKENWISE, BLIND))
    texts = continuation.output, continuation.truth
    matches = scores.matches[len(scores.matches) - continuation.tokens :]
    return (
        {name: score(*texts) for name, score in VERBATIM.items()}
        | {name: score(matches) for name, score in memo.TOKENWISE.items()}
        | {BLIND: is_blind(*texts)}
    )


def continuations(
    model: PreTrainedModel,
    tokenizer: Any,
    rows: Rows,
    section: Privacy,
    batch_size: BatchSize,
) -> list[Continuation | None]:
    """The greedy continuation of every passage's beginning beside the true one, `verbatim_tokens`
    tokens of each, including line breaks; None for texts that are not passages, or of a single
    word.

    The beginning is the benchmark's, or the share `verbatim_prompt` of the words; in scripts
    without spaces every character is a word. Both texts are decoded as MUSE does, without the
    spaces that `clean_up_tokenization` removes.
    """
    cuts = {
        i: cut
        for i, row in enumerate(rows)
        if row["form"] == "passage" and (cut := beginning(row, section.verbatim_prompt)) is not None
    }
    outputs = greedy_answers(
        model,
        tokenizer,
        [rows[i]["text"][:cut] for i, cut in cuts.items()],
        max_new_tokens=section.verbatim_tokens,
        batch_size=batch_size,
        label="verbatim",
        templated=False,
    )
    found = {}
    for (i, cut), output in zip(cuts.items(), outputs, strict=True):
        text = rows[i]["text"]
        encoded = encode_text(tokenizer, text, "", end=False)
        found[i] = Continuation(
            tokenizer.clean_up_tokenization(output),
            first_tokens(tokenizer, text[cut:].strip(), section.verbatim_tokens),
            sum(end > cut for _, end in encoded.offsets),
        )
    return [found.get(i) for i in range(len(rows))]


def beginning(row: Mapping[str, Any], share: float) -> int | None:
    """Where a passage's beginning ends, in characters; None where nothing follows."""
    if row["prompt"]:
        cut = len(row["prompt"])
        return cut if row["text"][cut:].strip() else None
    ends = [word.end() for word in CHUNK.finditer(row["text"])]
    cut = max(1, int(len(ends) * share))
    return ends[cut - 1] if cut < len(ends) else None


def first_tokens(tokenizer: Any, text: str, count: int) -> str:
    """The text's first tokens, as text, cleaned up."""
    ids = tokenise(tokenizer, text).ids[:count]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    return str(tokenizer.clean_up_tokenization(decoded))


def gradient_norms(
    model: PreTrainedModel, tokenizer: Any, rows: Rows, per_corpus: int
) -> list[list[float] | None]:
    """Norms of the loss's gradient, one per weight tensor, for the first texts of the forget and
    holdout sets, ordered by hash; None for all others, and for a text of a single token. One
    backward pass per text.

    The loss leaves out the last token, as open-unlearning's does: the end of an answer, the last
    token of a passage. open-unlearning leaves dropout on; here the model is as it was opened.

    Raises:
        EvaluationError: a gradient is not finite; names the text.
    """
    selected: set[int] = set()
    for corpus in ("forget", "holdout"):
        order = [i for i, row in enumerate(rows) if row["corpus"] == corpus]
        order.sort(key=lambda i: hash_fraction("gradient", rows[i]["text"]))
        selected |= set(order[:per_corpus])
    return [
        _text_norms(model, tokenizer, row) if number in selected else None
        for number, row in enumerate(rows)
    ]


def _text_norms(
    model: PreTrainedModel, tokenizer: Any, row: Mapping[str, Any]
) -> list[float] | None:
    asked = is_question(row)
    encoded = encode_text(tokenizer, row["text"], row["prompt"] if asked else "", end=asked)
    batch = collate([encoded], tokenizer.pad_token_id, device=device_of(model))
    labels = batch.labels.clone()
    labels[0, -1] = IGNORE
    if not bool((labels[0, 1:] != IGNORE).any()):
        return None
    norms = tensor_norms(model, batch.input_ids, labels)
    if not np.isfinite(norms).all():
        raise EvaluationError(f"the gradient of {row['text']!r} is not finite")
    return norms


def tensor_norms(
    model: PreTrainedModel, input_ids: Tensor, labels: Tensor, p: float = 2
) -> list[float]:
    """The p-norm of the gradient of the mean loss, per weight tensor; leaves no gradient.

    Args:
        input_ids, labels: [1, seq].
    """
    logits = model(input_ids=input_ids, use_cache=False).logits
    mean_nll(logits, labels).backward()
    norms = [
        float(torch.linalg.vector_norm(weight.grad.float(), p))  # one copy in float32 at a time
        for weight in model.parameters()
        if weight.grad is not None
    ]
    model.zero_grad(set_to_none=True)
    return norms


def text_metrics(texts: pl.DataFrame) -> dict[str, float]:
    """Memorisation of the forget passages, and RWKU's familiarity of forget and retain texts.

    `passage.<MUSE's score>.blind` counts the passages whose letters it cannot read.
    """
    verbatim = "verbatim" if "verbatim" in texts["corpus"] else "forget"
    passages = texts.filter((pl.col("corpus") == verbatim) & pl.col(BLIND).is_not_null())
    metrics = {"passage.n": float(len(passages))}
    if len(passages):
        for column in (*VERBATIM, *memo.TOKENWISE):
            metrics[f"passage.{column}"] = float(passages[column].to_numpy().mean())
        metrics[f"passage.{memo.muse_verbatim.id}.{BLIND}"] = float(passages[BLIND].sum())
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
