"""Bootstrap intervals over clusters of items."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-12
"""A difference below this comes from floating point, not from the models."""
_ALL = -1


@dataclass(frozen=True)
class Estimate:
    """A mean with its percentile bootstrap interval and the number of items.

    Raises:
        ValueError: more items scored than there are.
    """

    mean: float
    low: float
    high: float
    n: int
    """Items, scored or not."""
    n_scored: int = _ALL
    """Items that the mean is over; by default all of them."""
    digits: ClassVar[int] = 2
    """Decimals that are shown."""

    def __post_init__(self) -> None:
        if self.n_scored == _ALL:
            object.__setattr__(self, "n_scored", self.n)
        if not 0 <= self.n_scored <= self.n:
            raise ValueError(f"{self.n_scored} of {self.n} items scored")

    @property
    def valid(self) -> bool:
        """Whether there are items and every one was scored: the missing ones may be those that
        matter.
        """
        return 0 < self.n == self.n_scored

    def __str__(self) -> str:
        if not self.valid:
            return f"INVALID ({self.n_scored} of {self.n} scored)"
        mean, low, high = (f"{x:.{self.digits}f}" for x in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"


class FineEstimate(Estimate):
    """One of which two decimals do not tell good methods apart."""

    digits = 3


def _check_finite(values: Sequence[float | None]) -> None:
    for value in values:
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{value} among the values; an item without a score is None")


def clustered_mean(
    values: Sequence[float | None],
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> Estimate:
    """Mean of `values`; the interval resamples whole clusters with replacement.

    Wordings of one fact are not independent, so facts are drawn, not items. With one value per
    cluster this is the ordinary bootstrap; equal values give an interval of no width, and so does
    a single cluster.

    None is an item without a score: mean and interval are over the others, and the estimate is
    not valid. If no item has a score, both are nan.

    Raises:
        ValueError: no values, more or fewer clusters than values, or a value that is not finite.
    """
    if not len(values) or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values for {len(clusters)} clusters")
    _check_finite(values)
    scored = [value for value in values if value is not None]
    if not scored:
        return Estimate(math.nan, math.nan, math.nan, len(values), 0)
    # A cluster without any score cannot be drawn: a resample of such clusters has no mean.
    names = [c for c, value in zip(clusters, values, strict=True) if value is not None]
    low, high = percentiles(resampled_means(scored, names, rng, resamples), confidence)
    return Estimate(float(np.mean(scored)), low, high, len(values), len(scored))


def resampled_means(
    values: Sequence[float], clusters: Sequence[Hashable], rng: np.random.Generator, resamples: int
) -> NDArray[np.float64]:
    """The mean of `values` in every resample of whole clusters, [resamples]. Equal clusters and
    generators give equal resamples, whatever the values are.
    """
    _, member = np.unique([str(cluster) for cluster in clusters], return_inverse=True)
    sums, counts = np.bincount(member, weights=values), np.bincount(member)
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def percentiles(resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Both ends of the interval that holds this share of the resamples in its middle."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference(
    first: Sequence[float | None],
    second: Sequence[float | None],
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> Estimate:
    """Mean of `first - second` item by item, with the interval of `clustered_mean`.

    Both must hold the scores of the same items in the same order: pairing removes what makes an
    item hard for both, so the interval is narrower than two separate ones would suggest. An item
    without a score (None) on either side has no difference.

    (0.5, 1.0) against (0.25, 0.25): differences 0.25 and 0.75, mean 0.5.

    Raises:
        ValueError: the sides differ in length, or as `clustered_mean`.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} scores against {len(second)}: not the same items")
    _check_finite(first)
    _check_finite(second)
    differences = [
        None if a is None or b is None else a - b for a, b in zip(first, second, strict=True)
    ]
    return clustered_mean(differences, clusters, rng, resamples, confidence)


def verdict(
    estimate: Estimate, higher_is_better: bool
) -> Literal["better", "worse", "no difference"]:
    """Whether a `paired_difference` shows the first side as better or worse than the second.

    "no difference" if the interval contains 0 or the estimate is not valid: a mean over
    some of the items supports no claim. With a single cluster the interval has no width and the
    verdict means nothing.

    An interval [0.1, 0.4] is "better" for accuracy and "worse" for leakage.
    """
    above = estimate.valid and estimate.low > ROUNDING
    below = estimate.valid and estimate.high < -ROUNDING
    if not above and not below:
        return "no difference"
    return "better" if above == higher_is_better else "worse"
