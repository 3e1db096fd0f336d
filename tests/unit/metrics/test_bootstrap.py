"""Clustered bootstrap."""

import numpy as np
import pytest

from atu.metrics.bootstrap import clustered_mean


def interval(values, clusters, resamples=2000):
    return clustered_mean(values, clusters, np.random.default_rng(0), resamples, 0.95)


def test_equal_values_have_no_width():
    found = interval([0.5] * 6, ["a", "b", "c", "d", "e", "f"])
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.5, 0.5, 6)


def test_one_cluster_is_one_draw():
    """All items of one cluster are drawn together: the mean is always (1 + 0) / 2."""
    found = interval([1.0, 0.0], ["a", "a"])
    assert (found.low, found.high) == (0.5, 0.5)


def test_two_clusters_by_hand():
    """Two clusters of means 1 and 0 drawn twice give 1, .5, .5, 0 with probability 1/4 each: the
    95 % interval is [0, 1]."""
    found = interval([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_clusters_widen_the_interval():
    """Forty items in four clusters say less than forty alone."""
    values = [1.0] * 20 + [0.0] * 20
    alone = interval(values, range(40))
    together = interval(values, [i // 10 for i in range(40)])
    assert together.high - together.low > alone.high - alone.low


def test_unequal_clusters_weigh_by_items():
    """Means of resamples are item means: clusters (1, 1, 1) and (0) give 1, 3/4 or 0."""
    found = interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert found.mean == 0.75


@pytest.mark.parametrize("values,clusters", [([], []), ([1.0], [])])
def test_nothing_to_average(values, clusters):
    with pytest.raises(ValueError, match="clusters"):
        interval(values, clusters)
