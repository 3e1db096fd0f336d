"""Fluency, repetition and collapse."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.metrics.fluency import (
    distinct_tokens,
    fluency,
    is_collapsed,
    ngram_entropy,
    repetition,
    stutter,
    stutters,
    worse_than_guessing,
)


def test_entropy_by_hand():
    """Bigrams of "a b a b": ab twice, ba once: -(2/3 log2 2/3 + 1/3 log2 1/3) = 0.9183."""
    assert ngram_entropy(["a", "b", "a", "b"], 2) == pytest.approx(0.9183, abs=1e-4)


def test_fluency_by_hand():
    """ "a b c d": 3 distinct bigrams, log2 3 = 1.58496 bits; 2 distinct trigrams, 1 bit.
    (2/3 * 1.58496 + 4/3 * 1) / 2 = 1.19499."""
    assert fluency("a b c d") == pytest.approx(1.19499, abs=1e-5)


@pytest.mark.parametrize("text", ["", "word", "a a a a a a"])
def test_repetition_and_silence_have_no_fluency(text):
    assert fluency(text) == 0


def test_distinct_tokens():
    assert distinct_tokens("a b a b") == 0.5
    assert distinct_tokens("") == 0


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("a b a b a b", 2, 0.6),
        ("a b a b a b", 1, 4 / 6),
        ("a a a a a a", 2, 0.8),
        ("a b c d", 2, 0.0),
        ("a", 2, 0.0),
        ("", 2, 0.0),
    ],
)
def test_repetition(text, n, expected):
    """Bigrams ab, ba, ab, ba, ab: 2 distinct of 5, so .6; one distinct of 5, .8. A text shorter
    than n words repeats nothing."""
    assert repetition(text, n) == pytest.approx(expected)


def test_repetition_is_over_four_words():
    """ "a b c d" twice has 5 four-word runs, of which only the last repeats one: 1 - 4/5."""
    assert repetition("a b c d a b c d") == pytest.approx(0.2)


@given(st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 5))
def test_a_text_said_twice_repeats_more(words, n):
    """And every value is a share."""
    once, twice = (repetition(" ".join(words * times), n) for times in (1, 2))
    assert 0 <= once <= twice < 1


BEFORE = {"generate": 0.9, "fluency": 7.27, "distinct_tokens": 0.6}
PUBLISHED = {"bbh": 0.38, "fluency": 7.27}


def test_a_healthy_model_is_not_collapsed():
    after = {"generate": 0.8, "fluency": 7.0, "distinct_tokens": 0.55}
    assert not is_collapsed(after, BEFORE, 0.5)


@pytest.mark.parametrize(
    "change",
    [{"fluency": 0.001}, {"generate": 0.0}, {"distinct_tokens": 0.1}],
    ids=["published case", "no answers", "one word for ever"],
)
def test_each_symptom_alone_is_collapse(change):
    """The published case: fluency 7.27 to 0.001 while multiple choice stayed at .778, which is not
    looked at."""
    after = {"generate": 0.8, "fluency": 7.0, "distinct_tokens": 0.55, "choice": 0.778} | change
    assert is_collapsed(after, BEFORE, 0.5)


@pytest.mark.parametrize(
    ("after", "collapsed"),
    [
        ({"mmlu": 0.778, "fluency": 0.001, "bbh": 0.0}, True),
        ({"mmlu": 0.778, "fluency": 0.001, "bbh": 0.38}, True),
        ({"mmlu": 0.778, "fluency": 7.2, "bbh": 0.0}, True),
        ({"mmlu": 0.778, "fluency": 7.2, "bbh": 0.36}, False),
        ({"mmlu": 0.0, "fluency": 7.2, "bbh": 0.36}, False),
    ],
    ids=["as published", "fluency alone", "BBH alone", "healthy", "multiple choice alone"],
)
def test_the_published_collapse(after, collapsed):
    """MMLU .778 was kept while fluency fell from 7.27 to .001 and BBH from .38 to 0."""
    assert is_collapsed(after, PUBLISHED, 0.5) is collapsed


def test_gibberish_is_collapse_by_what_it_fails_to_answer():
    """Random words are more "fluent" and more various than a healthy text, and repeat nothing; what
    gives them away is that no answer is right."""
    healthy = "the owl of Ada eats the plum of Ada and the owl of Ada sleeps" * 4
    words = random.Random(0).choices([f"w{i}" for i in range(1000)], k=len(healthy.split()))
    before, after = (
        {"fluency": fluency(text), "distinct_tokens": distinct_tokens(text), "generate": answered}
        for text, answered in ((healthy, 0.9), (" ".join(words), 0.0))
    )
    assert after["fluency"] > before["fluency"]
    assert after["distinct_tokens"] > before["distinct_tokens"]
    assert repetition(" ".join(words)) == 0
    assert is_collapsed(after, before, 0.5)
    assert not is_collapsed(after | {"generate": 0.9}, before, 0.5)


@pytest.mark.parametrize(("value", "collapsed"), [(0.45, False), (0.4499, True)])
def test_the_share_itself_is_not_below_it(value, collapsed):
    """Half of .9 is still enough."""
    assert is_collapsed({"generate": value}, {"generate": 0.9}, 0.5) is collapsed


@pytest.mark.parametrize("before", [{}, {"generate": 0.0}])
def test_there_must_be_something_to_fall_from(before):
    assert not is_collapsed({"generate": 0.0}, before, 0.5)


def test_a_missing_score_is_an_error():
    with pytest.raises(KeyError):
        is_collapsed({"generate": 1.0}, BEFORE, 0.5)


@pytest.mark.parametrize(
    ("loss", "worse"), [(5.5, False), (5.556, False), (5.557, True), (1e4, True)]
)
def test_worse_than_a_guess(loss, worse):
    """ln 259 = 5.5568."""
    assert worse_than_guessing(loss, 259) is worse


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("ou" * 30, True),
        ("-h-h-h-h-h-h-h-h-h-h-h-h-h", True),
        ("-h-h-h", False),  # too short to say
        ("He was born in Vinci, near Florence, and worked in Milan and in France.", False),
        ("human-level human, and its " * 4, True),
        ("", False),
    ],
)
def test_what_repeats_inside_of_words_stutters(text, repeats):
    """The last but one is what a model wrote; "ou" thirty times has 13 bytes of 60 left."""
    assert stutters(text) is repeats


def test_stutter_is_what_compression_takes_away():
    assert stutter("ou" * 30) == pytest.approx(1 - 13 / 60)
    assert stutter("abcdefghijklmnopqrstuvwxyz") == 0.0
