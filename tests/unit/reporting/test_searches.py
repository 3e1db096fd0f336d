"""Searches trial by trial."""

import pytest

from atu.reporting.searches import searches_table, trials_table


def search(*scores):
    best = [max(scores[: i + 1]) for i in range(len(scores))]
    return {"model": "m", "method": "ga", "selections": [*scores], "best_so_far": best}


@pytest.mark.parametrize(
    ("scores", "quarters", "trial", "cut"),
    [
        ((0.5, 0.2, 0.6, 0.1, 0.6, 0.7, 0.3, 0.8), (0.5, 0.6, 0.7, 0.8), 8, True),
        ((0.5, 0.2, 0.6, 0.1, 0.6, 0.8, 0.3, 0.8), (0.5, 0.6, 0.8, 0.8), 6, False),
        ((0.5, 0.6, 0.4, 0.3, 0.7), (0.6, 0.6, 0.6, 0.7), 5, True),  # after 2, 3, 4 and 5
        ((0.5,), (0.5, 0.5, 0.5, 0.5), 1, False),
        ((0.0, 0.0), (0.0, 0.0, 0.0, 0.0), 1, False),
    ],
)
def test_who_was_cut_short(scores, quarters, trial, cut):
    """Whose best came in the last quarter of the trials; of equals the earlier is the best."""
    (row,) = searches_table([search(*scores)])
    assert tuple(row[f"best_{i}_4"] for i in (1, 2, 3, 4)) == quarters
    assert (row["first"], row["trial"], row["trials"]) == (scores[0], trial, len(scores))
    assert row["cut_short"] is cut


def test_every_trial_has_its_line():
    assert trials_table([search(0.5, 0.25)]) == [
        {"model": "m", "method": "ga", "trial": 1, "selection": 0.5, "best_so_far": 0.5},
        {"model": "m", "method": "ga", "trial": 2, "selection": 0.25, "best_so_far": 0.5},
    ]
