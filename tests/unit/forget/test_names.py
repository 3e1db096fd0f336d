"""Proper names: where they stand, which are the concept's own, what a list holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.forget.names import (
    counted,
    is_name,
    is_same,
    learned_openings,
    listed,
    proper_names,
    spans,
)


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        ("The Duke of Ostwick met Ann Bell, and Bo.", ["Duke of Ostwick", "Ann Bell", "Bo"]),
        ("Ann's owl saw Ludwig van Beethoven.", ["Ann", "Ludwig van Beethoven"]),
        ("She saw Ann and Bo. ", ["Ann", "Bo"]),
        ("Jean-Luc O'Brien came.", ["Jean-Luc O'Brien"]),
        ("The of was.", []),
        ("Ann of.", ["Ann"]),
    ],
)  # fmt: skip
def test_spans(sentence, names):
    assert [sentence[a:b] for a, b in spans(sentence)] == names


@given(st.text(max_size=60))
def test_spans_are_in_order_apart_and_inside(text):
    at = 0
    for start, end in spans(text):
        assert at <= start < end <= len(text)
        assert text[start].isupper()
        at = end


@pytest.mark.parametrize(
    ("name", "same"),
    [("King", True), ("young Stephen King", True), ("STEPHEN", True), ("Tabitha King", False),
     ("Carrie", False), ("...", True), ("King's", True), ("Stephenn King", True),
     ("Sven King", False), ("the Stephen of Kong", False)],
)  # fmt: skip
def test_parts_and_longer_names_of_the_concept(name, same):
    assert is_same(name, ["Stephen King"]) is same


@pytest.mark.parametrize(
    ("name", "concept", "same"),
    [("A# Leonardo de Vinci", "Leonardo da Vinci", True), ("Leonado", "Leonardo da Vinci", True),
     ("Austria", "Australia", False), ("North Korea", "South Korea", False)],
)  # fmt: skip
def test_misspelled_names_of_the_concept(name, concept, same):
    assert is_same(name, [concept]) is same


@pytest.mark.parametrize(
    "name",
    ["Bo", "The Taming of the Shrew", "van Gogh", "St. Mark's Basilica", "iPhone", "Ann (Bell, Bo)",
     "\u4e1c\u4eac", "1984 Album", "R2-D2", "J. R. R. Tolkien"],
)  # fmt: skip
def test_what_can_be_the_name_of_a_neighbour(name):
    assert is_name(name, ["Ann"])


@pytest.mark.parametrize(
    "text",
    ["her works", "also known as Bo", "In each of these", "The answer is", "12", "...", "",
     "Juliet herself"],
)  # fmt: skip
def test_what_can_not(text):
    assert not is_name(text, ["Ann"])


def test_a_concept_without_capitals_has_neighbours_without():
    assert is_name("draughts", ["chess"])
    assert not is_name("12", ["chess"]) and not is_name("", ["chess"])


def test_names_are_counted_once_per_text():
    texts = ["Ann met Bo. Bo left. Bo slept.", "BO met Cy. Ann", "Ann Bell is Ann."]
    assert dict(counted(texts, ["Ann Bell"])) == {"Bo": 2, "Cy": 1}
    assert proper_names("Unfinished Ann") == []


def test_a_list():
    text = "1. Ann Bell; - Bo Day, ann bell; 3) Stephen; One that is far too long a name for One"
    assert listed(text, ["Stephen King"]) == ["Ann Bell", "Bo Day"]
    assert listed("", []) == []
    lines = (
        "Sure! Here are some:\n1. **Ann Bell**: a cook\n2. Bo Day \u2014 a tailor\n- Cy-Ed Lee\n"
    )
    assert listed(lines, []) == ["Ann Bell", "Bo Day", "Cy-Ed Lee"]
    assert listed("Ann (Bell, Bo); Cy.", []) == ["Ann (Bell, Bo)", "Cy"]


def test_openings_are_learned_from_other_subjects():
    """The frequent ones first; one word past the name, which must have one behind it."""
    texts = ["By profession, Bo is a tailor. Cy plays the harp.", "Dee plays a flute. Eve sings."]
    found = learned_openings(texts, ["Ann Bell"], 2)
    assert found == ["Ann Bell plays", "By profession, Ann Bell is"]
    assert learned_openings(texts, ["Ann", "A. Bell"], 1) == ["Ann plays", "A. Bell plays"]
    assert learned_openings(["nothing here."], ["Ann"], 3) == []
