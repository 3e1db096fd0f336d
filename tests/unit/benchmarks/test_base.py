"""What benchmarks share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atu.benchmarks.base import members, passages, probe_row

TALE = "I am. You are. He was there too."


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        (TALE, 3, ["I am.", "You are.", "He was there", "too."]),
        (TALE, 4, ["I am. You are.", "He was there too."]),
        (TALE, 8, ["I am. You are. He was there too."]),
        (TALE, 1, ["I", "am.", "You", "are.", "He", "was", "there", "too."]),
        # A line ends a passage as a sentence does; quotes and brackets stand behind its end.
        ("A title\nand a text of it", 4, ["A title", "and a text of", "it"]),
        ("\u201cGo on!\u201d she said. (No.) Then none.", 3,
         ["\u201cGo on!\u201d", "she said. (No.)", "Then none."]),
        # A dot inside a word ends nothing.
        ("It is 3.5 miles far", 4, ["It is 3.5 miles", "far"]),
        ("  two  words  ", 9, ["two  words"]),
        (" \n ", 2, []),
        ("", 2, []),
    ],
)  # fmt: skip
def test_passages(text, words, expected):
    assert passages(text, words) == expected


@given(st.text(alphabet='ab.!\n "', max_size=60), st.integers(1, 6))
def test_passages_lose_no_word(text, words):
    parts = passages(text, words)
    assert " ".join(parts).split() == text.split()
    assert all(1 <= len(part.split()) <= words for part in parts)


def test_members_name_their_corpus():
    assert members(forget=[{"text": "a"}], holdout=[{"text": "b"}]) == [
        {"text": "a", "corpus": "forget"}, {"text": "b", "corpus": "holdout"},
    ]  # fmt: skip


def test_a_probe_needs_its_subject_unless_told():
    common = dict.fromkeys(
        ["role", "subject", "fact", "form", "kind", "query", "prompt", "answer", "measure"]
    )
    common |= {"subject": "Ana", "fact": "f", "select": 0.5}
    common["stops"] = ("\n",)
    assert probe_row("x", **common)["stops"] == ["\n"]
    assert probe_row("x", **common)["needs"] == ["Ana"]
    assert probe_row("x", **common, needs=[])["needs"] == []
