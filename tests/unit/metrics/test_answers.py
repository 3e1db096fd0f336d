import pytest

from atu.metrics.answers import contains, exact_match
from atu.metrics.normalise import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Cello", "cello"),
        ("  the Cello. ", "cello"),
        ("A  cello,\n a harp!", "cello, a harp"),
        ("an owl", "owl"),
        ("another owl", "another owl"),
        ("the", "the"),
        ("ｃｅｌｌｏ", "cello"),
        ("St. Mary's", "st. mary's"),
        ("...", ""),
        ("", ""),
        ('The "Copper Orchard"', "copper orchard"),
    ],
)
def test_normalise(text, expected):
    """Lower case, single spaces, no leading article, bare edges; wide letters become plain."""
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("The cello.", "cello", 1.0),
        ("cello", "The Cello", 1.0),
        ("a cello and a harp", "cello", 0.0),
        ("cellos", "cello", 0.0),
        ("St. Mary's", "st. mary's", 1.0),
        ("St Mary's", "St. Mary's", 0.0),
        ("", "cello", 0.0),
        ("", "", 0.0),
        ("...", "", 0.0),
    ],
)
def test_exact_match(answer, gold, expected):
    """An empty answer matches nothing, not even an empty gold answer."""
    assert exact_match(answer, gold) == expected


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
        ("", "cello", 0.0),
        ("She plays the cello.", "", 0.0),
        ("She plays the cello.", "...", 0.0),
        ("", "", 0.0),
    ],
)
def test_contains(answer, gold, expected):
    """Whole words only; a dot in the gold answer is a dot, not a pattern. An empty gold answer, or
    one of nothing but punctuation, stands nowhere."""
    assert contains(answer, gold) == expected
