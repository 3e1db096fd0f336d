import pytest

from atu.benchmarks.world.people import vocabulary
from atu.probes.prompts import INVENTED_NAMES
from atu.training.batches import encode_text, subject_positions
from atu.untrusted.names import replace_names


def test_positions_by_hand():
    """The docstring's tokens: "A", "nn", " met", " Ann"."""
    offsets = [(0, 1), (1, 3), (3, 7), (7, 11)]
    assert subject_positions(offsets, "Ann met Ann", ["Ann"]) == [[0, 1], [3]]


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("Bo and Ann", ["Ann", "Bo"], ["Bo", "Ann"]),
        ("Ann", ["Bo"], []),
        ("Ann", [], []),
        ("A.n ran, Ann too", ["A.n"], ["A.n"]),
        ("Zoë met Ann", ["Zoë", "Ann"], ["Zoë", "Ann"]),
    ],
)
def test_positions_of_byte_tokens(byte_tokenizer, text, names, found):
    """One list per occurrence, in the order of the text; names are no patterns; special tokens,
    which cover no character, are no part of a name."""
    encoded = encode_text(byte_tokenizer, text, "")
    lists = subject_positions(encoded.offsets, text, names)
    read = [
        byte_tokenizer.decode([encoded.ids[i] for i in positions]).strip() for positions in lists
    ]
    assert read == found


def test_a_cut_text_has_the_occurrences_whose_tokens_are_there():
    assert subject_positions([(0, 3)], "Ann met Ann", ["Ann"]) == [[0]]


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Ann met Ann.", ["Ann"], "Zed met Zed."),
        ("Ann Lee and Ann", ["Ann", "Ann Lee"], "Zed and Zed"),
        ("Nobody", ["Ann"], "Nobody"),
    ],
)
def test_replace_names(text, names, expected):
    assert replace_names(text, names, "Zed") == expected


def test_invented_names_are_nobodys():
    """No name that a world can draw begins or ends as one of them does."""
    parts = vocabulary()["names"]
    given, family = (
        {start + end for start in parts[f"{kind}_start"] for end in parts[f"{kind}_end"]}
        for kind in ("given", "family")
    )
    assert len(set(INVENTED_NAMES)) == len(INVENTED_NAMES)
    for name in INVENTED_NAMES:
        first, last = name.split()
        assert first not in given and last not in family


@pytest.mark.parametrize("typed", ["Zo\u00eb", "Zoe\u0308"])
def test_a_subject_is_found_however_it_is_spelled(byte_tokenizer, typed):
    """Tokens are those of the text as it is given: 4 bytes of the letter in one character, 5 of it
    in two, after the token that begins a text."""
    text = "Zo\u00eb and Zoe\u0308"
    encoded = encode_text(byte_tokenizer, text, "", end=False)
    found = subject_positions(encoded.offsets, text, [typed])
    assert found == [[1, 2, 3, 4], [10, 11, 12, 13, 14]]
