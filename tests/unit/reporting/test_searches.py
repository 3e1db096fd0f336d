"""Searches trial by trial."""

from types import SimpleNamespace

import pytest

from atu.reporting.searches import search_words, searches_table, trials_table


@pytest.mark.parametrize(
    ("trials", "further", "said"),
    [
        (3, [], "A searched method’s settings are the best of 3 trials on Ada"),
        (None, [], "A searched method’s settings are the best of all combinations of its choices "
                   "on Ada"),
        (None, ["Bob", "Cyd"], "Of a searched method all combinations of its choices were run on "
                               "Ada, the best of them (at most 2) on Bob, Cyd too, and the highest "
                               "mean was chosen"),
    ],
)  # fmt: skip
def test_how_settings_were_chosen(trials, further, said):
    section = SimpleNamespace(targets=["Ada", *further], trials=trials, finalists=2)
    assert search_words(section) == said


def search(*scores, trial=1, complete=False):
    """Whose chosen trial, of mean score .3, was the only finalist, with .1 on one other target."""
    best = [max(scores[: i + 1]) for i in range(len(scores))]
    finals = [[0.1] if number == trial else [] for number in range(1, len(scores) + 1)]
    row = {"model": "m", "method": "ga", "scores": [*scores], "best_so_far": best}
    return row | {"trial": trial, "score": 0.3, "others": finals, "complete": complete}


@pytest.mark.parametrize(
    ("scores", "quarters", "cut"),
    [
        ((0.5, 0.2, 0.6, 0.1, 0.6, 0.7, 0.3, 0.8), (0.5, 0.6, 0.7, 0.8), True),
        ((0.5, 0.2, 0.6, 0.1, 0.6, 0.8, 0.3, 0.8), (0.5, 0.6, 0.8, 0.8), False),
        ((0.5, 0.6, 0.4, 0.3, 0.7), (0.6, 0.6, 0.6, 0.7), True),  # after 2, 3, 4 and 5
        ((0.5,), (0.5, 0.5, 0.5, 0.5), False),
        ((0.0, 0.0), (0.0, 0.0, 0.0, 0.0), False),
    ],
)
def test_who_was_cut_short(scores, quarters, cut):
    """Whose best came in the last quarter of the trials; of equals the earlier is the best."""
    (row,) = searches_table([search(*scores)])
    assert tuple(row[f"best_{i}_4"] for i in (1, 2, 3, 4)) == quarters
    assert (row["first"], row["trial"], row["trials"]) == (scores[0], 1, len(scores))
    assert row["score"] == 0.3
    assert row["cut_short"] is cut
    (whole,) = searches_table([search(*scores, complete=True)])
    assert whole["cut_short"] is False


def test_every_trial_has_its_line():
    """With the scores on other targets of a finalist."""
    best = {"model": "m", "method": "ga", "best_so_far": 0.5}
    assert trials_table([search(0.5, 0.25, trial=2)]) == [
        best | {"trial": 1, "score": 0.5, "others": ""},
        best | {"trial": 2, "score": 0.25, "others": "0.1"},
    ]
