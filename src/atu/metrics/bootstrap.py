"""Bootstrap intervals over clusters of items."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its percentile bootstrap interval and the number of items."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> Estimate:
    """Mean of `values`; the interval resamples whole clusters with replacement.

    Wordings of one fact are not independent, so facts are drawn, not items. With one value per
    cluster this is the ordinary bootstrap; equal values give an interval of no width.

    Raises:
        ValueError: no values, or not one cluster per value.
    """
    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values for {len(clusters)} clusters")
    _, member = np.unique([str(c) for c in clusters], return_inverse=True)
    sums = np.bincount(member, weights=values)
    counts = np.bincount(member)
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(np.mean(values)), float(low), float(high), len(values))
