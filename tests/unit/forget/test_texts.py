"""Sentences and duplicates, with values worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.forget.texts import Distinct, cleaned, find_name, grams, key, mentions, overlap, sentences


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Dr. Ann sings. She is old. And", ["Dr. Ann sings.", "She is old."]),
        ("J. R. Bell came!  \u201cWhy?\u201d he  asked.", ["J. R. Bell came!", "\u201cWhy?\u201d",
                                                         "he asked."]),
        ("A pony.. Yes.", ["A pony..", "Yes."]),
        ("It cost 3.50 pounds.", ["It cost 3.50 pounds."]),
        ("no end", []),
        ("", []),
    ],
)  # fmt: skip
def test_finished_sentences(text, found):
    assert sentences(text) == found


@given(st.text(max_size=80))
def test_sentences_hold_no_word_that_the_text_has_not(text):
    assert "".join("".join(sentences(text)).split()) in "".join(text.split()) or sentences(text)
    assert len("".join("".join(sentences(text)).split())) <= len("".join(text.split()))


def test_a_repeated_sentence_stays_once():
    assert cleaned("Ann sings. Bo hums. ann SINGS! And then") == "Ann sings. Bo hums."


def test_case_and_punctuation_make_no_other_text():
    assert key("Ann's  owl, Bo!") == key("anns owl bo") == "anns owl bo"


def test_overlap_by_hand():
    """abc, bcd against abc, bce: one of three."""
    assert overlap(grams("a b c d"), grams("a b c e")) == pytest.approx(1 / 3)
    assert overlap(grams("a b"), grams("A b!")) == 1
    assert overlap(grams("a b c"), grams("d e f")) == 0


@given(st.text("ab ", max_size=20), st.text("ab ", max_size=20))
def test_overlap_is_symmetric_and_a_share(first, second):
    found = overlap(grams(first), grams(second))
    assert found == overlap(grams(second), grams(first))
    assert 0 <= found <= 1
    assert overlap(grams(first), grams(first)) == 1


def test_duplicates_are_dropped_and_named():
    """One word of nine changed: runs abc .. ghi against two other ones, 5 / 9 > .5."""
    shelf = Distinct(0.5)
    assert shelf.add("a b c d e f g h i") is None
    assert shelf.add("A B C D E F G H I.") == "same"
    assert shelf.add("a b c d e f g h x") == "near"
    assert shelf.add("something else entirely") is None
    assert shelf.kept == ["a b c d e f g h i", "something else entirely"]
    assert Distinct(0.8).add("x y") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [("In 1990 ANN BELL, came.", True), ("Ann Bellamy came.", False), ("Bell came.", False),
     ("Ann Bell's owl", True), ("Ann Bell\u2019s owl", True), ("an Ann  Bell-like owl", True),
     ("Ann Bell/Bo Day", True), ("Ann Bell\u2014the cook", True), ("\uff21nn Bell", True)],
)  # fmt: skip
def test_a_name_is_mentioned_as_whole_words(text, found):
    assert mentions(text, ["Ann Bell", ""]) is found


def test_signs_belong_to_a_name():
    assert mentions("He writes C++.", ["C++"]) and not mentions("Vitamin C is good.", ["C++"])
    assert mentions("O\u2019Hara sings.", ["O'Hara"])
    assert find_name("Annabel met Ann.", "Ann").span() == (12, 15)
    assert find_name("anything", "...") is None


def test_in_anothers_name_nobody_is_mentioned():
    apart = ["Paris Hilton", "Bo"]
    assert not mentions("Paris Hilton sings to Bo.", ["Paris"], apart)
    assert mentions("Paris Hilton is in Paris.", ["Paris"], apart)
    assert mentions("Bo is in Paris.", ["Paris"], apart)


def test_lines_that_announce_something_are_left_out():
    """Every line for itself, each sentence once."""
    text = "Sure! Here is a text:\n\nAnn sings. Bo hums.\n- Ann sings.\nunfinished\nCy naps."
    assert cleaned(text) == "Ann sings. Bo hums. Cy naps."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("# Ann Bell\n\n- **Ann** sings.\n2. She hums `too`.", "Ann sings. She hums too."),
        ("Sure! Here is a paragraph about Ann. Ann sings.", "Ann sings."),
        ("Of course, I can help! Ann sings.", "Ann sings."),
        ("As an AI language model, I know little. Ann sings.", "Ann sings."),
        ("I\u2019m sorry, but I can't. I cannot say more. Ann sings.", "Ann sings."),
        ("I am not able to help.", ""),
        ("Here the river is a wide one. Surely Ann sings.",
         "Here the river is a wide one. Surely Ann sings."),
        ("Ann has 3. She sings.", "Ann has 3. She sings."),
    ],
)  # fmt: skip
def test_what_a_chat_model_writes_around_its_text_is_left_out(text, left):
    assert cleaned(text) == left
