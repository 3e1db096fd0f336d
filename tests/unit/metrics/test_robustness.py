"""The worst wording of a fact, the gap to seen wordings, RWKU's weighted levels."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.metrics.robustness import (
    RWKU_FORGET_COUNTS,
    RWKU_NEIGHBOUR_COUNTS,
    rwku_forget_all,
    rwku_neighbour_all,
    seen_gap,
)
from atu.metrics.worst_form import has_enough, worst_form

ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 1)), min_size=1
)


def test_worst_form():
    """Ada: question (1 + 0) / 2, cloze .2, so .5: phrasings of one form are averaged, and the worst
    is taken over forms, not over phrasings. Bob: cloze (0 + 1 + 1) / 3 above question 0."""
    rows = [
        ("Bob", "question", 0.0), ("Bob", "cloze", 0.0), ("Ada", "question", 1.0),
        ("Bob", "cloze", 1.0), ("Ada", "cloze", 0.2), ("Ada", "question", 0.0),
        ("Bob", "cloze", 1.0),
    ]  # fmt: skip
    found = worst_form(rows)
    assert found == pytest.approx({"Ada": 0.5, "Bob": 2 / 3})
    assert list(found) == ["Ada", "Bob"]


def test_facts_do_not_share_their_forms():
    """A leak of one fact says nothing about another that is asked in the same form."""
    assert worst_form([("a", "x", 1.0), ("b", "x", 0.0)]) == {"a": 1.0, "b": 0.0}


def test_without_items_there_is_no_fact():
    assert worst_form([]) == {}


def test_the_worst_of_some_wordings():
    """Ada: 1 and 0 as a question and .2 as a cloze are the pairs (1, 0), (1, .2), (0, .2): 2.2 / 3.
    Of one it is the mean, of three the maximum. Bob has only two wordings, which is what counts."""
    rows = [("Ada", "question", 1.0), ("Ada", "question", 0.0), ("Ada", "cloze", 0.2),
            ("Bob", "cloze", 0.0), ("Bob", "cloze", 1.0)]  # fmt: skip
    assert worst_form(rows, 1) == pytest.approx({"Ada": 0.4, "Bob": 0.5})
    assert worst_form(rows, 2) == pytest.approx({"Ada": 2.2 / 3, "Bob": 1.0})
    assert worst_form(rows, 3) == pytest.approx({"Ada": 1.0, "Bob": 1.0})
    assert has_enough([fact for fact, *_ in rows], 2) == {"Ada", "Bob"}
    assert has_enough([fact for fact, *_ in rows], 3) == {"Ada"}
    assert has_enough(["Ada"], None) == {"Ada"}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7), st.integers(1, 7))
def test_the_worst_of_m_is_the_mean_over_all_draws(scores, m):
    """Counted out; with a wording per form and m of all forms it is the worst form."""
    found = worst_form([("a", str(i), score) for i, score in enumerate(scores)], m)["a"]
    draws = list(itertools.combinations(scores, min(m, len(scores))))
    assert found == pytest.approx(sum(map(max, draws)) / len(draws), abs=1e-9)
    if m == len(scores):
        assert found == worst_form([("a", str(i), score) for i, score in enumerate(scores)])["a"]


def test_guesses_do_not_leak_more_in_more_wordings():
    """Right by chance in 1 of 4: the worst form of three is right in 1 - .75^3 = .58, of eight in
    .90; the worst of m wordings in 1 - .75^m of both."""
    rng = np.random.default_rng(0)
    counts = {"few": 3, "many": 8}
    rows = [
        (f"{name} {i}", str(number), float(rng.random() < 0.25))
        for name, count in counts.items()
        for i in range(2000)
        for number in range(count)
    ]

    def means(m):
        found = worst_form(rows, m)
        of = {name: [v for fact, v in found.items() if fact.startswith(name)] for name in counts}
        return {name: sum(values) / len(values) for name, values in of.items()}

    for m in (2, 3):
        chance = 1 - 0.75**m
        assert means(m) == pytest.approx(dict.fromkeys(counts, chance), abs=0.03)
    forms = means(None)
    assert forms["few"] == pytest.approx(1 - 0.75**3, abs=0.03)
    assert forms["many"] == pytest.approx(1 - 0.75**8, abs=0.03)


@given(ROWS)
def test_the_worst_form_is_never_below_the_mean(rows):
    """Per fact, the largest of the forms' means is at least the mean of all its items, and at most
    its best item."""
    found = worst_form(rows)
    assert set(found) == {fact for fact, _, _ in rows}
    for fact, worst in found.items():
        scores = [score for name, _, score in rows if name == fact]
        assert sum(scores) / len(scores) - 1e-12 <= worst <= max(scores) + 1e-12


@given(ROWS, st.randoms())
def test_the_order_of_items_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    assert worst_form(shuffled) == pytest.approx(worst_form(rows))


@given(ROWS, st.floats(0, 1))
def test_another_form_never_lowers_the_worst(rows, score):
    before = worst_form(rows)
    after = worst_form([*rows, *((fact, "new", score) for fact in before)])
    assert all(after[fact] >= worst for fact, worst in before.items())


@pytest.mark.parametrize(
    ("seen", "unseen", "expected"),
    [([0.0, 0.2], [0.6], 0.5), ([1.0], [0.0, 0.5], -0.75), ([0.5], [0.5, 0.5], 0.0)],
)
def test_seen_gap(seen, unseen, expected):
    """Unseen minus seen means: .6 - (0 + .2) / 2 = .5, above 0 where the wording was forgotten."""
    assert seen_gap(seen, unseen) == pytest.approx(expected)


@pytest.mark.parametrize(("seen", "unseen"), [([], [1.0]), ([1.0], []), ([], [])])
def test_a_gap_needs_both_sides(seen, unseen):
    message = f"{len(seen)} seen and {len(unseen)} unseen"
    with pytest.raises(ValueError, match=message):
        seen_gap(seen, unseen)


def test_rwkus_counts():
    """The paper's 13,131 forget probes and 11,379 neighbour probes."""
    assert RWKU_FORGET_COUNTS == (3268, 2879, 6984) and sum(RWKU_FORGET_COUNTS) == 13131
    assert RWKU_NEIGHBOUR_COUNTS == (5846, 5533) and sum(RWKU_NEIGHBOUR_COUNTS) == 11379


def test_rwkus_weights():
    """Each level alone gives its share of all probes; the shares add up to 1."""
    levels = [rwku_forget_all(*(float(i == level) for i in range(3))) for level in range(3)]
    assert levels == pytest.approx([3268 / 13131, 2879 / 13131, 6984 / 13131])
    assert rwku_neighbour_all(1.0, 0.0) == pytest.approx(5846 / 11379)
    assert rwku_neighbour_all(0.0, 1.0) == pytest.approx(5533 / 11379)


def test_rwkus_published_mean():
    """Phi-3 before unlearning: FB 47.1, QA 47.4 and AA 55.8 give the paper's 51.8."""
    assert rwku_forget_all(47.1, 47.4, 55.8) == pytest.approx(51.8, abs=0.05)


@given(st.floats(0, 1))
def test_equal_levels_keep_their_value(value):
    assert rwku_forget_all(value, value, value) == pytest.approx(value)
    assert rwku_neighbour_all(value, value) == pytest.approx(value)
