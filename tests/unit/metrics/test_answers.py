import pytest

from atu.metrics.answers import contains, exact_match
from atu.metrics.words import content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cello", "cello"),
        ("  the Cello. ", "cello"),
        ("A  cello,\n a harp!", "cello a harp"),
        ("an owl", "owl"),
        ("another owl", "another owl"),
        ("the", "the"),
        ("ｃｅｌｌｏ", "cello"),
        ("St. Mary's", "st mary s"),
        ("...", ""),
        ("", ""),
        ('The "Copper Orchard"', "copper orchard"),
    ],
)
def test_content(text, expected):
    """Lower case, no leading article, no punctuation; wide letters become plain."""
    assert content(text) == expected.split()


SAME = [
    ("The cello.", "cello"),
    ("cello", "The Cello"),
    ("St. Mary's", "st. mary's"),
    ("St Mary's", "St. Mary's"),
    ("Cafe\u0301", "Café"),
    ("It’s", "It's"),
    ("Nineteen-ninety", "Nineteen ninety"),
    ("Nineteen\u2011ninety", "nineteen\u2013Ninety"),
    ("ОЛЬГА ВЕТРОЗВОН.", "Ольга Ветрозвон"),
    ("１９４７", "1947"),
    ("١٩٤٧", "1947"),
    ("「青い川」", "青い川"),
    ("العَرَبِيَّة", "العربية"),
    ("STRASSE", "Straße"),
    ("\u200bBeyonce\u0301\ufeff", "Beyoncé"),
    ("♟", "♟"),
    ("...", "..."),
]
OTHER = [
    ("a cello and a harp", "cello"),
    ("cellos", "cello"),
    ("", "cello"),
    ("", ""),
    ("...", ""),
    ("...", "cello"),
    ("Elodie", "Élodie"),
    ("青い海", "青い川"),
    ("Ольга", "Олег"),
    ("♟", "♜"),
]


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_the_same_answer_in_any_script(answer, gold):
    assert exact_match(answer, gold) == exact_match(gold, answer) == 1.0


@pytest.mark.parametrize(("answer", "gold"), OTHER)
def test_another_answer(answer, gold):
    """An empty answer matches nothing, not even an empty gold answer; an accent is part of its
    letter."""
    assert exact_match(answer, gold) == exact_match(gold, answer) == 0.0


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("She plays the cello.", "cello", 1.0),
        ("cello", "the cello", 1.0),
        ("ＣＥＬＬＯ", "cello", 1.0),
        ("red plum", "plum red", 0.0),
        ("the violoncello", "cello", 0.0),
        ("cellos", "cello", 0.0),
        ("a book, The Copper Orchard, sold", "The Copper Orchard", 1.0),
        ("axb", "a.b", 0.0),
        ("町は青い川の北にある", "青い川", 1.0),
        ("Это написала Ольга Ветрозвон.", "ольга ветрозвон", 1.0),
        ("in nineteen-ninety they", "Nineteen ninety", 1.0),
        ("", "cello", 0.0),
        ("She plays the cello.", "", 0.0),
        ("She plays the cello.", "...", 0.0),
        ("", "", 0.0),
    ],
)
def test_contains(answer, gold, expected):
    """Whole words only, in a row. An empty gold answer, or one of nothing but punctuation, stands
    nowhere."""
    assert contains(answer, gold) == expected
