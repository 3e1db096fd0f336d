"""Texts and questions as the tables of `prepare`."""

import json

import polars as pl
import pytest

from atu.benchmarks.base import sentence_row
from atu.errors import ArtifactError, ConfigError
from atu.forget.given import probe_rows, probes_of, text_rows
from atu.results.tables import PROBES, TEXTS, write_table

PROMPT = "Question: Who?\nAnswer:"


def test_a_text_is_a_string_a_pair_or_an_object():
    rows = text_rows("forget", ["Ann sings.", ("Who?", "Ann"), {"text": "Ann sings.",
                                                                "prompt": "Ann"}])  # fmt: skip
    assert [(row["text"], row["prompt"], row["answer"]) for row in rows] == [
        ("Ann sings.", "", ""), (f"{PROMPT} Ann", PROMPT, "Ann"), ("Ann sings.", "Ann", ""),
    ]  # fmt: skip
    assert all(set(row) == set(TEXTS) for row in rows)


def test_names_are_looked_for_where_nobody_says_them():
    given = ["Ann met Bo.", "Snow", {"text": "Bo", "names": ["Cy"]}]
    rows = text_rows("retain", given, names=("Bo", "Ann"))
    assert [row["names"] for row in rows] == [["Bo", "Ann"], [], ["Cy"]]


def test_files_and_frames_hold_the_same(tmp_path):
    rows = [sentence_row("Ann sings.", kind="x", fact="f", names=["Ann"]),
            sentence_row("Bo", kind="y")]  # fmt: skip
    write_table(tmp_path / "a.parquet", rows, TEXTS)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    given = [tmp_path / "a.parquet", str(tmp_path / "a.jsonl"), pl.DataFrame(rows), rows]
    assert [text_rows("forget", one) for one in given] == [rows] * 4


def test_a_question_may_be_read_by_choices():
    """Two answers of which one holds the other are one fact."""
    first, second, kept = probe_rows(
        "questions",
        [("Who?", "Ann"), ["Who is it?", "dear Ann"],
         {"question": "Wet?", "answer": "yes", "role": "general"}],
    )  # fmt: skip
    assert set(first) == set(PROBES) and first["prompt"] == PROMPT
    assert first["fact"] == second["fact"] != kept["fact"]
    assert {row["split"] for row in (first, second, kept)} == {"select"}
    assert (first["role"], kept["role"]) == ("target", "general")
    whole = [first | {"split": "report", "measure": "exact_match@own-2", "role": "partner"}]
    assert probe_rows("questions", whole) == whole


def test_texts_that_answer_ask():
    rows = text_rows("forget", ["Ann sings.", ("Who?", "Ann")])
    (probe,) = probes_of(rows)
    assert (probe["prompt"], probe["answer"]) == (PROMPT, "Ann")


@pytest.mark.parametrize(
    ("read", "given", "message"),
    [
        (text_rows, [], r"x = None: holds no text"),
        (text_rows, ["a", " "], r"x\[1\]\.text = ' ': is no text"),
        (text_rows, [3], r"x\[0\]\.text = 3: is no text"),
        (text_rows, [("Who?", 3)], r"x\[0\]\.answer = 3: is no text"),
        (text_rows, [{"text": "Ann", "prompt": "Bo"}], r"x\[0\]\.prompt = 'Bo': must be how"),
        (text_rows, "Ann sings.", r"x = 'Ann sings\.': is no \.parquet or \.jsonl file"),
        (probe_rows, ["Who?"], r"x\[0\]\.question = 'Who\?': is no text"),
        (probe_rows, [{"question": "a", "answer": "b", "role": "foe"}],
         r"x\[0\]\.role = 'foe': unknown; known are target"),
    ],
)  # fmt: skip
def test_what_is_neither_is_named_with_its_number(read, given, message):
    with pytest.raises(ConfigError, match=message):
        read("x", given)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(ArtifactError, match=r"nowhere\.jsonl: cannot be read"):
        text_rows("forget", "nowhere.jsonl")
