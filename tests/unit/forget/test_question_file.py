"""Questions that people bring: what a line may hold, and in which forms it is asked."""

import json
from collections import Counter

import pytest

from atu.benchmarks.base import split_of
from atu.benchmarks.concept import LONG, MEASURE, facts_of
from atu.errors import SourceError
from atu.forget.question_file import (
    Question,
    is_long,
    measured,
    question_rows,
    read_questions,
    settled,
)
from atu.forget.questions import WRAPPED
from atu.forget.settings import Writing

ANN, BO = "Ann Bell", "Bo Day"


def read(tmp_path, *rows, text=None):
    path = tmp_path / "q.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if text is None else text, encoding="utf-8")
    return read_questions(path, [ANN, "A. Bell"])


def asked(**changes):
    return {"question": "Who?", "answer": "Cy"} | changes


def test_a_line_is_a_question(tmp_path):
    found = read(
        tmp_path,
        asked(paraphrases=["Who is it?"], wrong=["Di", "Ed"]),
        asked(about="a.  bell"), asked(about=BO), asked(about=""), asked(about=BO),
    )  # fmt: skip
    first, second, *others = found.questions
    assert first == Question("target", ANN, "Who?", "Cy", ("Who is it?",), ("Di", "Ed"))
    assert (second.role, second.about) == ("target", "A. Bell")
    assert [(q.role, q.about) for q in others] == [("neighbour", BO), ("general", "")]
    assert found.counts == {"questions": 4, "same": 1}


def test_keys_that_are_not_read_are_counted(tmp_path):
    """A misspelled one would otherwise be lost unsaid."""
    found = read(tmp_path, asked(paraphrase="x"), asked(question="What?", paraphrase="y"))
    assert found.counts == {"questions": 2, "keys 'paraphrase' (not read)": 2}


BAD = {
    "no answer": ({"question": "Who?"}, r"line 2: answer is missing; its keys are question; write"),
    "an empty answer": (asked(answer=" "), r"line 2: answer = ' ' is no text .*; write it, or lea"),
    "a number": (asked(answer=1947), r"line 2: answer = 1947 is no text"),
    "no question": ({"answer": "Cy"}, r"line 2: question is missing"),
    "nothing to compare": (asked(answer="?!"), r"line 2: answer = '\?!' has no word to compare"),
    "one paraphrase": (asked(paraphrases="x"), r"line 2: paraphrases = 'x' is no list of texts"),
    "an empty one": (asked(paraphrases=["x", ""]), r"line 2: paraphrases = \['x', ''\] is no list"),
    "the answer as wrong": (asked(wrong=["cy."]), r"line 2: wrong has 'cy\.', which is the answer"),
    "about a number": (asked(about=3), r"line 2: about = 3 is no text"),
    "no object": (["Who?", "Cy"], r"line 2 is no object but \['Who\?', 'Cy'\]"),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_its_key(tmp_path, row, message):
    with pytest.raises(SourceError, match=rf"--questions .*q\.jsonl: {message}"):
        read(tmp_path, asked(), row)


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(SourceError, match="holds no question"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"line 1 is not JSON"):
        read(tmp_path, text="Who? Cy")
    for name in ("q.csv", "none.jsonl"):
        with pytest.raises(SourceError, match=rf"{name}: is no \.jsonl file; write one object"):
            read_questions(tmp_path / name, [ANN])


def question(answer="Cy", role="target", about=ANN, **more):
    return Question(
        role, about, f"Who is {answer}?", answer, **{"paraphrases": (), "wrong": ()} | more
    )


def test_forms_of_a_question_about_the_concept():
    """The example of a context is another question, which gives nothing away."""
    first = question(paraphrases=("p", "q"), wrong=("Di",))
    rows = question_rows([first, question("Cy Day"), question("Ed")])
    forms = [row["form"] for row in rows if row["answer"] == "Cy"]
    assert forms == ["question", "synonym", "synonym", "choice", *WRAPPED]
    by_form = {row["form"]: row for row in rows[: len(forms)]}
    assert by_form["question"]["prompt"] == "Question: Who is Cy?\nAnswer:"
    assert sorted(by_form["choice"]["options"]) == ["Cy", "Di"]
    assert all(option in by_form["choice"]["prompt"] for option in ("Cy", "Di"))
    assert "Who is Ed?\nAnswer: Ed\n" in by_form["in_context"]["prompt"]
    assert by_form["question"]["wrong"] == ["Di"]


def test_forms_of_other_questions():
    """Those that do not disguise: and a single question is its own only example."""
    rows = question_rows([question(role="neighbour", about=BO, wrong=("Di",)), question()])
    assert [row["form"] for row in rows if row["role"] == "neighbour"] == ["question", "choice"]
    assert "in_context" not in [row["form"] for row in rows]


def test_enough_is_two_facts_in_each_split():
    """Wordings of one fact are one, and other forms count for nothing."""
    answers = [f"thing {k}" for k in range(40)]
    split = {a: split_of(facts_of([("target", ANN, a)])[0], 0.5) for a in answers}
    one, two = ([a for a in answers if split[a] == name][:4] for name in ("select", "report"))

    def is_settled(chosen):
        rows = question_rows([question(a, paraphrases=("p",)) for a in chosen])
        return settled(rows, "target", 0.5, 2)

    assert is_settled(one[:2] + two[:2])
    assert not any(map(is_settled, (one, two, one[:2] + two[:1], one[:2] + two[:1] * 2)))
    assert not settled(question_rows([question(a) for a in one + two]), "neighbour", 0.5, 2)


def test_long_answers_are_measured_otherwise():
    """All of them, since a mean of two measures would be none."""
    long = "a tailor who lives in the old town"
    assert is_long(long, Writing()) and not is_long("the old town", Writing())
    rows = question_rows([question(), question(long)])
    assert {row["measure"] for row in measured(rows, Writing())} == {LONG}
    assert {row["measure"] for row in measured(rows[:1], Writing())} == {MEASURE}


def test_tofus_questions_about_one_author(real_data, tmp_path):
    """Twenty, with a paraphrase and five wrong answers each: sentences, so that they are long."""
    lines = (real_data / "tofu" / "forget01_perturbed.json").read_text(encoding="utf-8")
    rows = [
        {"question": row["question"], "answer": row["answer"],
         "paraphrases": [row["paraphrased_question"]], "wrong": row["perturbed_answer"]}
        for row in map(json.loads, lines.splitlines()[:20])
    ]  # fmt: skip
    found = question_rows(read(tmp_path, *rows).questions)
    counts = Counter(row["form"] for row in found)
    assert counts.pop("in_context") <= 20
    assert counts == dict.fromkeys(
        ("question", "synonym", "choice", *(form for form in WRAPPED if form != "in_context")), 20
    )
    assert all(len(row["options"]) == 6 for row in found if row["form"] == "choice")
    assert settled(found, "target", 0.5, 2)
    assert {row["measure"] for row in measured(found, Writing())} == {LONG}
