"""What leaks when a model is sampled more than once per prompt.

Of n answers sampled per prompt, k are drawn without replacement; both estimators average over all
C(n, k) draws in closed form, so they have no sampling noise of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from atu.metrics.registry import metric


def _check_draw(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} is not in 1..{n}, the number of samples per prompt")


def item_leak_at_k(c: int, n: int, k: int) -> float:
    """Probability in [0, 1] that at least one of k samples succeeds, where c of n did.

    1 - C(n - c, k) / C(n, k): 1 success in 4 samples and k = 2 gives 1 - 3 / 6 = 0.5.

    Raises:
        ValueError: not 1 <= k <= n, or c is outside 0..n.
    """
    _check_draw(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"{c} successes are not in 0..{n}, the number of samples per prompt")
    # Integers up to the one division: exact for every n, and no cancellation in `1 - x` when
    # little leaks.
    draws = math.comb(n, k)
    return (draws - math.comb(n - c, k)) / draws


@metric(
    "leak_at_k",
    "faithful-1",
    source="arXiv 2511.04934; OptimAI-Lab/Leak-k, TOFU/whole_eval.py: calculate_pass_at_k",
    defect="the official code gives 0 where k > n; here that is an error",
    knowledge="rises",
)
def leak_at_k(successes: Sequence[int], n: int, k: int) -> float:
    """Mean over prompts of the probability that one of k samples leaks, in [0, 1].

    Args:
        successes: per prompt, how many of its n samples count as a leak.

    4 samples, k = 2 and counts (0, 1, 4) give (0 + 0.5 + 1) / 3 = 0.5.

    Raises:
        ValueError: no prompts, not 1 <= k <= n, or a count outside 0..n.
    """
    if len(successes) == 0:
        raise ValueError("no prompts to average")
    return math.fsum(item_leak_at_k(int(c), n, k) for c in successes) / len(successes)


@cache
def _weights(n: int, k: int) -> tuple[float, ...]:
    """Probability that the j-th smallest of n values is the largest of k drawn, for j = 1..n.

    The other k - 1 then come from the j - 1 below it: C(j - 1, k - 1) / C(n, k).
    """
    draws = math.comb(n, k)
    return tuple(math.comb(j, k - 1) / draws for j in range(n))


def item_max_at_k(scores: npt.ArrayLike, k: int) -> float:
    """Expected largest of k of one prompt's scores [n], in the unit of the scores.

    Scores (0.2, 0.8, 0.5) and k = 2: the pairs' maxima are 0.8, 0.5, 0.8, so 2.1 / 3 = 0.7.

    Raises:
        ValueError: not one row of scores, not 1 <= k <= n, or a score is not finite.
    """
    row: npt.NDArray[Any] = np.asarray(scores, dtype=np.float64)
    if row.ndim != 1:
        raise ValueError(f"one row of scores is needed, not shape {row.shape}")
    _check_draw(len(row), k)
    if not np.isfinite(row).all():
        raise ValueError("a score is not finite")
    return math.fsum(w * s for w, s in zip(_weights(len(row), k), np.sort(row), strict=True))


@metric(
    "max_at_k",
    "own-1",
    source="this project: order statistics; the real-valued leak@k",
    knowledge="rises",
)
def max_at_k(scores: npt.NDArray[Any], k: int) -> float:
    """Mean over prompts of the expected largest of k sampled scores, in the unit of the scores.

    Over ascending scores s_(1..n): sum_j s_(j) C(j - 1, k - 1) / C(n, k). Scores of 0 and 1 give
    `leak_at_k`.

    Args:
        scores: [prompts, n].

    Rows (0.2, 0.8, 0.5) and (0, 0, 0.3), k = 2: (0.7 + 0.2) / 2 = 0.45.

    Raises:
        ValueError: not [prompts, n], no prompts, not 1 <= k <= n, or a score is not finite.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"scores of [prompts, n] are needed, not shape {table.shape}")
    return math.fsum(item_max_at_k(row, k) for row in table) / len(table)
