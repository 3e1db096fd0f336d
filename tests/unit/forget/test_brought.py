"""A user's texts as passages, and what must be there if the model writes nothing."""

import json
from dataclasses import replace

import pytest
from made.concept import ANN, FACTS, PEOPLE

from atu.errors import AtuError, SourceError
from atu.forget.brought import Places, halves, parts_of, read_brought, unread
from atu.forget.settings import Writing

WRITING = Writing()


@pytest.fixture
def given(tmp_path):
    """A function that reads texts, texts to keep and questions, each as lists of lines' values."""

    def make(texts=(), retain=(), questions=(), **options):
        places = {}
        for name, rows in (("texts", texts), ("retain", retain), ("questions", questions)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text(
                "".join(json.dumps(r if name == "questions" else {"text": r}) + "\n" for r in rows)
            )
            if rows:
                places[name] = path if name == "questions" else (path,)
        return read_brought(Places(**places), [ANN], replace(WRITING, **options))

    return make


def asked(number=0):
    """Enough questions about one of the made people."""
    return [
        {"question": f"{k}?", "answer": values[number], "about": PEOPLE[number]}
        for k, values in enumerate(FACTS.values())
    ]


def test_nothing_of_a_document_is_lost():
    """Passages are about as long as each other; a short rest joins the last."""
    text = " ".join(f"Word {k} is here." for k in range(50)) + " The end"
    parts = parts_of(text, 72)
    assert " ".join(parts) == text
    assert {len(part.split()) for part in parts} <= set(range(40, 76))
    assert parts_of("a\n\nb c", 72) == ["a\n\nb c"]
    assert parts_of("a " * 9, 4) == ["a a a", "a a a", "a a a"]
    assert parts_of("One two three four. Five six seven eight. End", 4)[-1] == (
        "Five six seven eight. End"
    )


def test_a_passage_with_too_many_tokens_is_cut_again():
    """A script without spaces, at its middle; others at the space that is nearest to it."""
    assert halves("abcdefgh", len, 3) == ["ab", "cd", "ef", "gh"]
    assert halves("abc defg", len, 5) == ["abc", "defg"]
    assert halves("ab", len, 5) == ["ab"]


def test_passages_that_stand_twice_or_are_not_to_be_kept(given):
    found = given(["Bo has a cat.", "Bo  has a cat.", "Bo sings."],
                  ["Bo sings.", f"{ANN}'s owl.", "Snow is white.", "Snow is white."])  # fmt: skip
    assert found.texts.texts == ("Bo has a cat.", "Bo sings.")
    assert found.retain.texts == ("Snow is white.",)
    assert list(found.lines()) == [
        "--texts: files 1, documents 3, passages 2; left out: passages twice 1",
        "--retain: files 1, documents 4, passages 1; left out: also in --texts 1, name the concept "
        "1, passages twice 1",
    ]
    assert set(found.digests) == {"--texts", "--retain"}


def test_nothing_left_to_keep_is_an_error(given):
    with pytest.raises(SourceError, match=r"--retain .*no passage is left \(.*name the concept 1"):
        given(retain=[f"{ANN} sings."])


def test_without_writing_all_must_be_there(given):
    texts, retain = [f"{ANN} sings."], ["Snow is white."]
    given(texts, retain, asked(), writes=False)
    with pytest.raises(
        SourceError, match="--no-writing: nothing is there of --retain, --questions"
    ):
        given(texts, writes=False)
    for few in (asked()[:3], asked(1)):
        with pytest.raises(SourceError, match="--no-writing: --questions has too few answers"):
            given(texts, retain, few, writes=False)


def test_how_many_answers_stand_in_the_texts(given):
    """Of questions about the concept; as words, not as letters."""
    first = FACTS[next(iter(FACTS))][0]
    found = given([f"She plays the {first.upper()}.", "ostwickers"], (), asked() + asked(1))
    assert found.told == {"asked": len(FACTS), "in the texts": 1}
    assert found.neighbours == [PEOPLE[1]]


def test_a_question_that_does_not_fit_the_model_is_named(given):
    found = given(questions=asked())
    assert found.fitted(len, 400) == found
    with pytest.raises(SourceError, match=r"--questions: '0\?' has \d+ tokens .* 60 are the model"):
        found.fitted(len, 60)


def test_texts_that_training_cannot_reach_are_said(given):
    """Each passage that a step draws counts once; a longer run reads all."""
    found = given([f"Text {k} of it." for k in range(9)], ["Snow is white.", "Ice is white."])

    def said(steps, embedded):
        unlearn = {"methods": {"atu": {"steps": steps, "batch_size": 4}}}
        values = {"unlearn": unlearn, "embed": {"retain_texts": embedded}}
        return list(unread(found, values, "atu"))

    assert said(3, 2) == []
    assert ["--texts: 9 passages, of which 2 steps of 4 read 8" in line for line in said(2, 2)] == [
        True
    ]
    assert [line.split(",")[0] for line in said(3, 1)] == ["--retain: 2 passages"]


def test_real_people_and_their_questions(real_data, tmp_path):
    """RWKU's texts as a folder of text files and as one of rows are the same; its questions are
    read whole.
    """
    source = real_data / "rwku" / "Target" / "1_Stephen_King"
    texts = [row["text"] for row in json.loads((source / "positive_phi.json").read_text())][:30]
    (tmp_path / "folder").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "folder" / f"{number:02}.txt").write_text(text)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked_rows = json.loads((source / "forget_level2.json").read_text())
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        "".join(
            json.dumps({"question": r["query"], "answer": r["answer"]}) + "\n" for r in asked_rows
        )
    )
    one, two = (
        read_brought(Places((place,), (), questions), ["Stephen King"], WRITING)
        for place in (tmp_path / "folder", rows)
    )
    assert one.texts.texts == two.texts.texts and len(one.texts.texts) > 100
    assert " ".join(" ".join(one.texts.texts).split()) == " ".join(" ".join(texts).split())
    assert len(one.questions.questions) == len(asked_rows)
    assert 0 < one.told["in the texts"] <= one.told["asked"]


def test_the_projects_own_pages_are_a_folder_of_texts(tmp_path):
    """Markdown, with pictures and data beside it that are only counted."""
    from trees import ROOT

    found = read_brought(Places((), (ROOT / "docs",)), [ANN], WRITING)
    assert found.retain.counts["files"] >= 10 and len(found.retain.texts) > 100
    with pytest.raises(AtuError, match="no such file or folder"):
        read_brought(Places((), (ROOT / "nowhere",)), [ANN], WRITING)
