"""ROUGE-L recall as RWKU has it and without its quirks, ORT's probability, TriviaQA's F1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.metrics.overlap import bbh_exact_match, ort_probability, triviaqa_f1
from atu.metrics.rouge import rouge_l
from atu.metrics.rwku_recall import rwku_rouge_l_recall, rwku_rouge_l_recall_fixed

WORDS = st.lists(st.sampled_from(["red", "Red", "plum", "owl"]), min_size=1, max_size=6)
FULL, NONE, HALF = 1.0, 0.0, 0.5


@pytest.mark.parametrize(
    ("answer", "gold", "faithful", "fixed"),
    [
        ("old clock", "old tall clock", 2 / 3, 2 / 3),
        ("an old tall clock and more", "old tall clock", FULL, FULL),
        ("Cello", "cello", NONE, FULL),
        ("cello, a harp", "cello", NONE, FULL),
        ("cello!", "cello", NONE, FULL),
        ("cello.", "cello", FULL, FULL),
        ("cello.harp", "cello harp", FULL, FULL),
        ("harp cello", "cello harp", HALF, HALF),
        ("harp. cello", "cello harp", FULL, HALF),
        ("new york", "new york new york", FULL, HALF),
        ("I know nothing about the matter", "the Hall of Fame", 1 / 4, 1 / 4),
        ("", "owl", NONE, NONE),
        ("", "NOANSWER owl", HALF, NONE),
        (" ", "owl", NONE, NONE),
        (".", "owl", None, NONE),
        ("...", "owl", None, NONE),
        (". .", "owl", NONE, NONE),
        ("owl", "...", None, NONE),
    ],
    ids=[
        "two of three words in order", "more words cost nothing", "case", "a trailing comma",
        "another mark", "a full stop ends a word", "a full stop parts words", "order",
        "a sentence at a time, so order is lost", "repeated gold words count once",
        "one common word of a refusal", "empty", "empty is NOANSWER", "a space", "one full stop",
        "full stops alone", "full stops and a space", "a gold answer of full stops",
    ],
)  # fmt: skip
def test_rwku_rouge_l_recall(answer, gold, faithful, fixed):
    """What the package `rouge` does to an answer, and what is left when words are words."""
    assert rwku_rouge_l_recall(answer, gold) == pytest.approx(faithful)
    assert rwku_rouge_l_recall_fixed(answer, gold) == pytest.approx(fixed)


def test_rwkus_scorer_fails_on_thousands_of_words():
    """It walks back through a sentence's words by recursion."""
    many = " ".join(map(str, range(2000)))
    assert rwku_rouge_l_recall(many, "owl") is None
    assert rwku_rouge_l_recall_fixed(many, "1 7") == FULL


@given(WORDS, WORDS)
def test_distinct_words_in_one_sentence_are_scored_alike(answer, gold):
    """Lower-cased, one sentence, no word twice: nothing that the two could disagree about."""
    texts = [" ".join(dict.fromkeys(word.lower() for word in words)) for words in (answer, gold)]
    assert rwku_rouge_l_recall(*texts) == pytest.approx(rwku_rouge_l_recall_fixed(*texts))


@given(WORDS)
def test_the_gold_answer_itself_is_complete(words):
    gold = " ".join(words)
    assert rwku_rouge_l_recall(gold, gold) == rwku_rouge_l_recall_fixed(gold, gold) == 1


@pytest.mark.parametrize(("stemmer", "shared"), [(True, 2), (False, 1)])
def test_rouge_l_stems_only_where_asked(stemmer, shared):
    """ "the OLD clocks" for "old tall clock": (old, clock) with the s cut, else old alone; 3 words
    on either side."""
    found = rouge_l("the OLD clocks", "old tall clock", stemmer=stemmer)
    assert (found.precision, found.recall) == pytest.approx((shared / 3, shared / 3))
    again = rouge_l("the OLD clocks", "old tall clock", stemmer=not stemmer)
    assert again.recall != found.recall


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([0.5, 0.125], 0.25), ([0.5], 0.5), ([1.0, 1.0], 1.0), ([0.5] * 40, 0.5)],
)
def test_ort_probability(probabilities, expected):
    """The geometric mean per token, sqrt(1/2 * 1/8) = 1/4, and not the product: forty tokens of
    1/2 have 1/2."""
    assert ort_probability(np.log(probabilities)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "aliases", "expected"),
    [
        ("Nile", ["Nile"], 1.0),
        ("the Nile river", ["Nile"], 2 / 3),
        ("the Nile river", ["Nile", "River Nile"], 1.0),
        ("Nile", ["Amazon", "Nile river delta"], 1 / 2),
        ("NILE!", ["the nile"], 1.0),
        ("owl-fly", ["owlfly"], 1.0),
        ("owl-fly", ["owl fly"], 0.0),
        ("O'Quent", ["OQuent"], 1.0),
        ("owl owl", ["owl"], 2 / 3),
        ("Rhine", ["Nile"], 0.0),
        ("", ["Nile"], 0.0),
        ("the", ["a"], 1.0),
        ("...", ["owl", "!"], 1.0),
        ("...", ["owl"], 0.0),
    ],
)
def test_triviaqa_f1(answer, aliases, expected):
    """2 * shared / (words + gold words), of the best alias: for "Nile river" and "Nile" 2/3, in any
    order of the words; "Nile" for "Nile river delta" 2 / (1 + 3); a repeated word is shared once.
    Articles, marks and case are not compared; a mark inside a word joins its parts, as officially;
    where no word is left on either side, both are equal."""
    assert triviaqa_f1(answer, aliases) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("output", "gold", "expected"),
    [
        ("First. So the answer is (B). The answer is (C).", "(B)", 1.0),
        ("The answer is (B)", "(B)", 0.0),
        ("(B)", "(B)", 1.0),
        ("the answer is nine-ty.", "ninety", 1.0),
        ("the answer is (A).", "(B)", 0.0),
        ("the answer is .", "noanswer", 1.0),
        ("", "7", 0.0),
    ],
)
def test_bbh_exact_match(output, gold, expected):
    """The first marked answer, without a full stop the whole text."""
    assert bbh_exact_match(output, gold) == expected


def test_no_alias_is_an_error():
    with pytest.raises(ValueError):
        triviaqa_f1("Nile", [])
