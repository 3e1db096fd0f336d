import pytest

from atu.errors import ConfigError
from atu.unlearning.neighbours import neighbour_texts

ROWS = [
    {"text": "Bo Day has an owl.", "names": []},
    {"text": "The spouse of Al has an owl.", "names": ["Bo Day", "Al"]},
    {"text": "Body Day has an owl.", "names": ["Body Day"]},
    {"text": "B\u00f3 Day and Cy Wu met.", "names": ["Cy Wu"]},
]


def test_texts_that_name_a_neighbour():
    """In the text, however it is spelled, or in the column of those whose facts it states: a second
    hop does not say whose."""
    assert neighbour_texts(ROWS, ["Bo Day"], 0.5) == [0, 1, 3]
    assert neighbour_texts(ROWS, ["Cy Wu", "Al"], 0.5) == [1, 3]
    assert neighbour_texts(ROWS, [], 0.0) == neighbour_texts(ROWS, ["Bo Day"], 0.0) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["Eve", "Flo"],
            r"retain.neighbours = 0\.3: none of the 4 retain texts names 'Eve', 'Flo'",
        ),
        ([], r"retain.neighbours = 0\.3: the benchmark asks about no neighbour by name; give 0"),
    ],
)
def test_a_share_of_no_text_is_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        neighbour_texts(ROWS, names, 0.3)
