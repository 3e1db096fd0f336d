"""Names in texts that spell them in one character per letter or in two."""

import unicodedata

import pytest

from atu.untrusted.names import composed, name_spans, names_in

BEYONCE = "Beyonc\u00e9"


def apart(text):
    """A letter and its accent as two characters."""
    return unicodedata.normalize("NFD", text)


def test_the_ways_to_write_a_letter_are_one_name():
    assert len(apart(BEYONCE)) == len(BEYONCE) + 1
    assert composed(apart(BEYONCE)) == BEYONCE == composed(BEYONCE)


@pytest.mark.parametrize("typed", [BEYONCE, apart(BEYONCE)])
@pytest.mark.parametrize("written", [BEYONCE, apart(BEYONCE)])
def test_a_name_is_found_however_either_side_spells_it(typed, written):
    """Its place is in characters of the text as it is given."""
    text = f"Zoe\u0308 met {written}, as {written} says."
    spans = name_spans(text, [typed])
    assert [text[start:end] for start, end in spans] == [written, written]
    assert spans[0][0] == text.index(written)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Nguye\u0302\u0303n", "Nguy\u1ec5n"),  # two accents, one of them composed or none
        ("Nguy\u00ea\u0303n", "Nguye\u0302\u0303n"),
        ("\u1100\u1161\u11a8\u1100", "\uac01"),  # a syllable of Hangul and the next's beginning
        ("\u212bngstr\u00f6m", "A\u030angstro\u0308m"),  # the unit's sign is the letter
        ("\u05d3\u05bc\u05b8x", "\u05d3\u05b8\u05bc"),  # points in another order
    ],
)
def test_composition_beyond_latin_accents(text, name):
    assert len(name_spans(text, [name])) == 1


def test_a_letter_without_its_accent_is_another():
    assert name_spans(apart(BEYONCE), ["Beyonce"]) == []
    assert name_spans("Beyonce", [BEYONCE]) == []


def test_all_occurrences_of_all_names_in_order():
    """Names within names too; an empty name stands nowhere."""
    assert name_spans("Ann Lee and Ann", ["Ann", "Ann Lee", ""]) == [(0, 3), (0, 7), (12, 15)]
    assert name_spans("", ["Ann"]) == [] == name_spans("a.b", ["a?b"])


def test_the_names_that_a_text_has():
    text = f"{apart(BEYONCE)} sings"
    assert names_in(text, [BEYONCE, "Zo\u00eb", BEYONCE, ""]) == [BEYONCE]
