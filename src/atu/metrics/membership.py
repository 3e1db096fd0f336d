"""Membership inference: how likely a text was trained on, and how well that separates sets.

Log-probabilities are natural logarithms, one for each scored token of the text. Every score is
oriented so that HIGHER means more likely a member; official code often gives its negative,
because MUSE and open-unlearning rank non-members first and flip the AUC afterwards.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atu.errors import EvaluationError
from atu.metrics.registry import metric

Floats: TypeAlias = NDArray[np.float64]
SPREAD = float(np.sqrt(np.finfo(np.float32).eps))
"""Relative to a mean: the least deviation that float32 can find by subtracting squares."""
MIN_STD = 1e-3
"""Smallest deviation in nats that Min-K%++ divides by; open-unlearning's variance of 1e-6."""


def finite_values(values: ArrayLike, what: str) -> Floats:
    """`values` as a float64 array of shape [n].

    Raises:
        EvaluationError: no values, more than one axis, or a value that is not finite; names `what`
            and the first bad position.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise EvaluationError(f"{what}: a list of at least one number, not shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise EvaluationError(f"{what}: value {bad[0]} is {array[bad[0]]}, not finite")
    return array


def _lowest(scores: Floats, count: int) -> float:
    """Mean of the `count` lowest scores."""
    return float(np.sort(scores)[:count].mean())


def _share_of(scores: Floats, share: float) -> int:
    """floor(share * tokens), in floating point as the official code has it.

    Raises:
        ValueError: `share` outside ]0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share = {share}: above 0 and at most 1")
    return int(len(scores) * share)


@metric(
    "membership_loss",
    "faithful-1",
    source="Yeom et al., arXiv 1709.01604; RWKU eval_mia.py, key `loss`",
    knowledge="rises",
)
def membership_loss(log_probs: ArrayLike) -> float:
    """Mean log-probability per token, in nats, at most 0.

    Log-probabilities (-1, -3) give -2.

    Raises:
        EvaluationError: no tokens or a log-probability that is not finite.
    """
    return float(finite_values(log_probs, "log-probabilities").mean())


@metric(
    "membership_zlib",
    "faithful-1",
    source="Carlini et al., arXiv 2012.07805; RWKU eval_mia.py, key `zlib`",
    defect="divides a mean over tokens by a total of bytes, so longer texts score nearer to 0",
    knowledge="rises",
)
def membership_zlib(log_probs: ArrayLike, text: str) -> float:
    """Mean log-probability per token over the zlib-compressed bytes of the text, at most 0.

    Numerator in nats, zlib at its standard level on UTF-8. Log-probabilities (-1, -3) of a text of
    20 compressed bytes give -2 / 20 = -0.1.

    Raises:
        EvaluationError: no tokens or a log-probability that is not finite.
    """
    return float(finite_values(log_probs, "log-probabilities").mean()) / _zlib_bytes(text)


def _zlib_bytes(text: str) -> int:
    """Length of the compressed text; at least 8, the envelope of an empty one."""
    return len(zlib.compress(text.encode("utf-8")))


@metric(
    "membership_min_k",
    "faithful-1",
    source="Shi et al., arXiv 2310.16789; MUSE metrics/privleak.py (negated there); RWKU "
    "eval_mia.py, keys `mink_*`",
    defect="NaN, here None, for a text of fewer than 1 / share tokens",
    knowledge="rises",
)
def membership_min_k(log_probs: ArrayLike, share: float) -> float | None:
    """Mean of the floor(share * tokens) lowest log-probabilities, in nats, at most 0.

    None if that is no token. (-1, -5, -3, -2) at share 0.5 give (-5 - 3) / 2 = -4; at 0.2 None.

    Raises:
        EvaluationError: no tokens or a log-probability that is not finite.
        ValueError: `share` outside ]0, 1].
    """
    scores = finite_values(log_probs, "log-probabilities")
    count = _share_of(scores, share)
    return _lowest(scores, count) if count else None


@metric(
    "membership_min_k",
    "fixed-1",
    source="Shi et al., arXiv 2310.16789; open-unlearning mia/min_k.py (negated there)",
    knowledge="rises",
)
def membership_min_k_fixed(log_probs: ArrayLike, share: float) -> float:
    """Mean of the max(1, floor(share * tokens)) lowest log-probabilities, in nats, at most 0.

    (-1, -5, -3, -2) at share 0.5 give (-5 - 3) / 2 = -4; at 0.2 the lowest alone, -5.

    Raises:
        EvaluationError: no tokens or a log-probability that is not finite.
        ValueError: `share` outside ]0, 1].
    """
    scores = finite_values(log_probs, "log-probabilities")
    return _lowest(scores, max(1, _share_of(scores, share)))


@metric(
    "membership_min_k_plus_plus",
    "faithful-1",
    source="Zhang et al., arXiv 2404.02936; RWKU eval_mia.py, keys `mink++_*`, of which `mink20` "
    "in its results is the share 0.2",
    defect="NaN, here None, for a text of fewer than 1 / share tokens, and where the model is "
    "certain (a deviation of 0)",
    knowledge="rises",
)
def membership_min_k_plus_plus_faithful(
    log_probs: ArrayLike, mean: ArrayLike, std: ArrayLike, share: float
) -> float | None:
    """Mean of the floor(share * tokens) lowest standardised log-probabilities; None if no token.

    A deviation that float32, in which RWKU computes, cannot tell from 0 beside the mean counts as
    0: of a uniform distribution RWKU has NaN, or what rounding leaves. Arguments and exceptions as
    for `fixed-1`.
    """
    log_p, means, stds = _standardised(log_probs, mean, std)
    count, gaps, least = _share_of(log_p, share), log_p - means, SPREAD * np.abs(means)
    unspread = stds <= least
    gaps[unspread & (np.abs(gaps) <= least)] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        score = _lowest(gaps / np.where(unspread, 0, stds), count) if count else np.nan
    return score if np.isfinite(score) else None


@metric(
    "membership_min_k_plus_plus",
    "fixed-1",
    source="Zhang et al., arXiv 2404.02936; open-unlearning mia/min_k_plus_plus.py (negated there)",
    knowledge="rises",
)
def membership_min_k_plus_plus(
    log_probs: ArrayLike, mean: ArrayLike, std: ArrayLike, share: float
) -> float:
    """Mean of the max(1, floor(share * tokens)) lowest standardised log-probabilities.

    All three arrays have shape [tokens]. `mean` and `std` are those of log p of a token drawn from
    the model's own next-token distribution: sum p log p, and the root of sum p (log p)^2 - mean^2.
    A deviation below `MIN_STD` (a certain or a uniform distribution) counts as `MIN_STD`, where
    RWKU divides by 0. RWKU calls the share 0.2 of this "mink20", with the plain floor.

    Log-probabilities (-1, -5) of means (-2, -2) and deviations (1, 2) give 1 and -1.5: at share
    0.5 the lowest, -1.5; at 1 their mean, -0.25.

    Raises:
        EvaluationError: no tokens, a value that is not finite, or a negative deviation.
        ValueError: `share` outside ]0, 1], or arrays of unequal length.
    """
    log_p, means, stds = _standardised(log_probs, mean, std)
    scores = (log_p - means) / np.maximum(stds, MIN_STD)
    return _lowest(scores, max(1, _share_of(scores, share)))


def _standardised(
    log_probs: ArrayLike, mean: ArrayLike, std: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """The three arrays, checked; raises as `membership_min_k_plus_plus`."""
    log_p = finite_values(log_probs, "log-probabilities")
    means, stds = finite_values(mean, "means"), finite_values(std, "deviations")
    if not len(log_p) == len(means) == len(stds):
        raise ValueError(f"{len(log_p)} tokens, {len(means)} means, {len(stds)} deviations")
    if (stds < 0).any():
        raise EvaluationError("deviations: one is negative")
    return log_p, means, stds


@metric(
    "membership_gradient_norm",
    "faithful-2",
    source="Wang et al., arXiv 2402.17012; open-unlearning mia/gradnorm.py (negated there)",
    knowledge="rises",
)
def membership_gradient_norm(norms: ArrayLike) -> float:
    """Minus the mean over parameter tensors of the norm of the loss's gradient, at most 0.

    A member has a small gradient. `norms` [tensors] are 2-norms (`privacy.texts.gradient_norms`);
    version 1 took the norm over all weights together. The AUC is open-unlearning's. Norms (1, 5)
    give -3.

    Raises:
        EvaluationError: no norm, or one that is negative or not finite.
    """
    found = finite_values(norms, "gradient norms")
    if found.min() < 0:
        raise EvaluationError(f"gradient norms: {found.min()} is below 0")
    return -float(found.mean())


@metric(
    "membership_reference",
    "faithful-1",
    source="open-unlearning mia/reference.py (negated there); after Carlini et al., "
    "arXiv 2012.07805",
    knowledge="rises",
)
def membership_reference(log_probs: ArrayLike, reference_log_probs: ArrayLike | None) -> float:
    """Mean log-probability minus that under a reference model, in nats per token.

    Above 0 the model finds the text likelier than the reference does. The two may be tokenised
    differently, hence of different length. (-1, -3) against (-4, -4) give -2 + 4 = 2.

    Raises:
        EvaluationError: no reference, no tokens or a log-probability that is not finite.
    """
    if reference_log_probs is None:
        raise EvaluationError(
            "membership_reference: needs the text's log-probabilities under a reference model that "
            "never saw the forget data; none was given"
        )
    reference = finite_values(reference_log_probs, "reference log-probabilities").mean()
    return float(finite_values(log_probs, "log-probabilities").mean() - reference)


@metric(
    "auc",
    "own-1",
    source="this project: the Mann-Whitney statistic, equal to the ROC's area",
    knowledge="rises",
)
def auc(members: ArrayLike, others: ArrayLike) -> float:
    """P(a member scores above a non-member) plus half of the ties, in [0, 1].

    1: perfect separation; 0.5: none; 0: perfect separation the wrong way round. Members
    (3, 1) and others (2, 1): 3 > 2, 3 > 1, 1 < 2, 1 = 1, so (2 + 0.5) / 4 = 0.625.

    Raises:
        EvaluationError: an empty side or a score that is not finite; names side and position.
    """
    inside = finite_values(members, "scores of members")
    outside = np.sort(finite_values(others, "scores of non-members"))
    # Sorting costs n log n; comparing all pairs would cost n * m.
    below = np.searchsorted(outside, inside, side="left")
    at_most = np.searchsorted(outside, inside, side="right")
    return float((below + at_most).sum() / (2 * len(inside) * len(outside)))


@metric(
    "rwku_familiarity",
    "faithful-1",
    source="RWKU, arXiv 2406.10890: eval_mia.py, key `loss`, times -100 as in the paper's tables",
    defect="texts without a scored token are left out; there also those of a model that gives NaN",
    knowledge="falls",
)
def rwku_familiarity(log_probs_of_texts: Sequence[ArrayLike]) -> float:
    """Mean over texts of the mean negative log-probability per token, times 100; at least 0.

    FM on the forget texts, RM on the retain texts: HIGHER is LESS familiar, the one value of this
    module that is not a membership score. Every text weighs the same, whatever its length. Texts
    (-1, -3) and (-4): (2 + 4) / 2 * 100 = 300.

    Raises:
        EvaluationError: no text with a scored token, or a log-probability that is not finite.
    """
    scored = [membership_loss(text) for text in log_probs_of_texts if np.size(text)]
    return -100 * float(finite_values(scored, "texts with a scored token").mean())
