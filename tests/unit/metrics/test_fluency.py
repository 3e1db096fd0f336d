"""Fluency, repetition and collapse."""

import pytest

from atu.metrics.fluency import distinct_tokens, fluency, is_collapsed, ngram_entropy


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


BEFORE = {"generate": 0.9, "fluency": 7.27, "distinct_tokens": 0.6}


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


def test_a_missing_score_is_an_error():
    with pytest.raises(KeyError):
        is_collapsed({"generate": 1.0}, BEFORE, 0.5)
