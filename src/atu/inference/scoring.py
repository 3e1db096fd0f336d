"""Teacher-forced scores of given texts: the model's log-probability of every token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from atu.errors import EvaluationError
from atu.inference.batching import BatchSize, map_in_batches
from atu.inference.finite import failing_layer, require_finite
from atu.inference.generation import mode, no_gradients
from atu.models.compute import device_of
from atu.models.llm import require_room
from atu.probes.prompts import join_answer
from atu.training.batches import IGNORE, EncodedText, collate, encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAX_PERPLEXITY = 1e6
"""More than any vocabulary, so worse than any guess."""
LOGITS = 2**28
"""Logits of a batch, 1 GiB as float32: without a bound 32 texts of 600 tokens had 3.8 GB of them
with SmolLM2's vocabulary, and the job 11 GB. A CPU that runs out of memory does not say so before
it kills."""


@dataclass(frozen=True)
class TokenScores:
    """Per scored token of one text, each array [tokens]; logarithms are natural."""

    log_probs: np.ndarray
    """log p of the token."""
    matches: np.ndarray
    """Whether the token is the likeliest one."""
    mean: np.ndarray
    """Mean of log p under the model's distribution at this position."""
    std: np.ndarray
    """Standard deviation of log p under that distribution."""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood per token, in nats."""
        return float(-self.log_probs.mean())


def score_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    batch_size: BatchSize,
    end: bool,
    label: str = "scores",
) -> list[TokenScores]:
    """Scores of every answer after its prompt; an empty prompt scores the whole text.

    `end` also scores the end token, as TOFU does for answers; no protocol does so for texts. Then
    an empty answer has a score too: that of ending at once.

    Raises:
        EvaluationError: an answer has no token to score, or a logit is not finite; names the item
            and the layer.
        LengthError: a prompt with its answer does not fit the model's context.
    """
    texts = [
        encode_text(tokenizer, join_answer(p, a) if p else a, p, end=end)
        for p, a in zip(prompts, answers, strict=True)
    ]
    for number, text in enumerate(texts):
        blank = not end and not answers[number].strip()
        if blank or len(text.ids) <= max(text.answer_start, 1):
            raise EvaluationError(f"{label}, item {number}: {answers[number]!r} has no token")
    require_room(model, [text.ids for text in texts], answers)
    return score_encoded(model, tokenizer.pad_token_id, texts, batch_size, label)


def score_encoded(
    model: PreTrainedModel,
    pad_id: int,
    texts: Sequence[EncodedText],
    batch_size: BatchSize,
    label: str,
) -> list[TokenScores]:
    """Scores of texts that are already encoded."""

    def work(chosen: list[int]) -> list[TokenScores]:
        batch = collate([texts[i] for i in chosen], pad_id, device=device_of(model))
        logits = model(**batch.inputs).logits.float()
        require_finite(
            logits,
            [f"{label}, item {i}" for i in chosen],
            lambda row: failing_layer(model, texts[chosen[row]].ids),
        )
        return [
            _token_scores(row[:-1], labels[1:])
            for row, labels in zip(logits, batch.labels, strict=True)
        ]

    lengths = [len(text.ids) for text in texts]
    tokens = max(LOGITS // model.config.get_text_config().vocab_size, 1)
    with no_gradients(), mode(model, True):
        return map_in_batches(work, lengths, batch_size, label, tokens)


def _token_scores(logits: Tensor, labels: Tensor) -> TokenScores:
    """Scores of one text: `logits` [seq, vocab] predict `labels` [seq]."""
    scored = labels != IGNORE
    log_p = torch.log_softmax(logits[scored], dim=-1)
    chosen = labels[scored][:, None]
    mean, variance = _moments(log_p)
    return TokenScores(
        log_probs=log_p.gather(1, chosen)[:, 0].double().cpu().numpy(),
        matches=(log_p.argmax(dim=-1) == chosen[:, 0]).cpu().numpy(),
        mean=mean.double().cpu().numpy(),
        std=variance.clamp(min=0).sqrt().double().cpu().numpy(),
    )


def _moments(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of log p under p, [tokens] each, from `log_p` [tokens, vocab].

    With p = (3/4, 1/4): mean 3/4 ln 3/4 + 1/4 ln 1/4 = -0.5623, variance 3/16 (ln 3)^2 = 0.2263.
    """
    p = log_p.exp()
    mean = (p * log_p).sum(dim=-1)
    centred = log_p - mean[:, None]
    return mean, (p * centred * centred).sum(dim=-1)


def mean_loss(scores: Sequence[TokenScores]) -> float:
    """Mean NLL per token over all texts, in nats."""
    return -float(np.concatenate([score.log_probs for score in scores]).mean())


def perplexity(scores: Sequence[TokenScores]) -> float:
    """Exponential of the mean NLL per token over all texts, at most `MAX_PERPLEXITY`: a ruined
    model loses hundreds of nats, whose exponential is no float.
    """
    loss = mean_loss(scores)
    return math.exp(loss) if loss < math.log(MAX_PERPLEXITY) else MAX_PERPLEXITY
