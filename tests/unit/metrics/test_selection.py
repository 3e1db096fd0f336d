from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.metrics.selection import CHANCE, RETAIN_LOSS, RETAINED, chance, selection

BEFORE = {"score_neighbour": 0.8, "score_other": 1.0, "score_general": 0.5}
SHARES = st.floats(0, 1)
UNGUESSABLE = dict.fromkeys(CHANCE, 0.0)


def point(target=0.2, worst=0.5, guessed=(0.0, 0.0), **kept):
    """A checkpoint that answers of every role what `BEFORE` does, unless said; what guessing gives
    in plain questions and in the worst form."""
    return BEFORE | {
        "score_target": target,
        "worst_form_target": worst,
        **dict(zip(CHANCE, guessed, strict=True)),
        **{f"score_{role}": value for role, value in kept.items()},
    }


def test_value():
    """Forgetting .8 and .5, everything kept: 5 / (1/.8 + 1/.5 + 3) = 5 / 6.25 = .8."""
    assert selection(point(), BEFORE) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("options", "alike", "expected"),
    [(4, [], 0.25), (4, [1.0, 1.0], 0.25), (0, [1, 0, 0, 1], 0.5), (0, [0.0], 0.0), (0, [], 0.0)],
)
def test_chance(options, alike, expected):
    """One of four options; else as many as share the answer of those who are asked."""
    assert chance(options, alike) == expected


@pytest.mark.parametrize(
    ("leaks", "guessed", "expected"),
    [
        ((0.2, 0.5), (0.1, 0.25), 5 / 5.625),  # .8/.9 and .5/.75 forgotten
        ((0.1, 0.25), (0.1, 0.25), 1.0),
        ((0.0, 0.1), (0.1, 0.25), 1.0),
        ((0.0, 0.625), (0.0, 0.25), 5 / 6),  # .5 forgotten
        ((1.0, 0.0), (0.1, 0.25), 0.0),
        ((0.3, 1.0), (0.3, 1.0), 1.0),
        ((0.65, 1.0), (0.3, 1.0), 4 / 5),  # what guessing has wholly is no part
    ],
)
def test_leaking_no_more_than_a_guesser_is_forgetting_all(leaks, guessed, expected):
    """And leaking less is worth no more."""
    assert selection(point(*leaks, guessed=guessed), BEFORE) == pytest.approx(expected)


def test_what_is_kept_is_a_share_of_what_was_known():
    """Neighbours .4 of .8, others .25 of 1, general .5 of .5: kept .5, .25 and 1. Nothing leaks:
    5 / (1 + 1 + 2 + 4 + 1) = 5/9."""
    found = selection(point(0.0, 0.0, neighbour=0.4, other=0.25), BEFORE)
    assert found == pytest.approx(5 / 9)


@pytest.mark.parametrize(
    ("neighbour", "partner", "near"),
    [(0.8, 0.0, 0.5), (0.8, 0.2, 0.75), (0.4, 0.4, 0.75), (0.0, 0.4, 0.5), (0.8, 0.9, 1.0)],
)
def test_near_the_target_is_one_part(neighbour, partner, near):
    """Half of it is neighbours, .8 before, and half the retain questions beside the target's, .4
    before."""
    before = BEFORE | {"score_partner": 0.4}
    found = selection(point(0.0, 0.0, neighbour=neighbour, partner=partner), before)
    assert found == pytest.approx(5 / (4 + 1 / near))
    alone = before | {"score_neighbour": 0.0}  # the original knows no neighbour
    assert selection(point(0.0, 0.0, partner=0.2), alone) == pytest.approx(5 / (4 + 2))
    assert selection(point(0.0, 0.0, neighbour=0.0, partner=0.0), before) == 0.0


def test_nothing_forgotten_or_everything_ruined_scores_nothing():
    """However good the rest is."""
    assert selection(point(target=1.0), BEFORE) == 0.0
    assert selection(point(worst=1.0), BEFORE) == 0.0
    for role in RETAINED:
        assert selection(point(0.0, 0.0, **{role: 0.0}), BEFORE) == 0.0


def test_answering_more_than_before_is_no_gain():
    """Neighbours 1 of .8 count as 1: with the rest perfect the score is 1, not 5 / 4.8."""
    assert selection(point(0.0, 0.0, neighbour=1.0), BEFORE) == 1.0


def test_a_role_that_was_never_known_is_no_part():
    """Of general facts the original answers nothing: four parts, .8, .5, 1, 1, and whatever is
    answered of them now: 4 / (1.25 + 2 + 2) = 16/21."""
    before = BEFORE | {"score_general": 0.0}
    for now in (0.0, 1.0):
        assert selection(point(general=now), before) == pytest.approx(16 / 21)


@pytest.mark.parametrize(("loss", "found"), [(2.0, 1.0), (1.5, 1.0), (2 + log(2), 0.75), (50, 0)])
def test_where_nothing_is_asked_about_what_is_kept_the_likelihood_of_texts_counts(loss, found):
    """Everything forgotten, the likelihood per token halved: 3 / (1 + 1 + 2) = .75; higher than
    before counts as before. A model that answers nothing because it is ruined scores nothing."""
    now = {"score_target": 0.0, "worst_form_target": 0.0, RETAIN_LOSS: loss} | UNGUESSABLE
    assert selection(now, {RETAIN_LOSS: 2.0}) == pytest.approx(found, abs=1e-9)


@given(
    SHARES, SHARES, SHARES, SHARES, SHARES, st.sampled_from([*RETAINED, "target", "worst"]), SHARES,
    st.tuples(SHARES, SHARES),
)  # fmt: skip
def test_better_in_one_part_is_never_worse(
    target, worst, neighbour, other, general, part, better, guessed
):
    """Less leakage or more kept cannot lower the score, which stays in [0, 1]."""
    values = {
        "target": target, "worst": worst, "neighbour": neighbour, "other": other,
        "general": general, "guessed": guessed,
    }  # fmt: skip
    first = selection(point(**values), BEFORE)
    choose = min if part in ("target", "worst") else max
    second = selection(point(**values | {part: choose(values[part], better)}), BEFORE)
    assert 0 <= first <= second + 1e-12 <= 1 + 2e-12


@pytest.mark.parametrize(
    ("before", "after", "found"), [(1.0, 1e4, 0.0), (1e4, 1.0, 1.0), (1e4, 1e4, 1.0)]
)
def test_ten_thousand_nats_are_a_number(before, after, found):
    """Of a ruined model nothing is kept; from one that was ruined everything."""
    perfect = {"score_target": 0.0, "worst_form_target": 0.0} | UNGUESSABLE
    assert selection(perfect | {RETAIN_LOSS: after}, {RETAIN_LOSS: before}) == found
