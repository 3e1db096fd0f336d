"""Evidence where a model states few facts: what it says after the beginnings of its sentences."""

import pytest
from made.concept import ANN, Parrot

from atu.benchmarks.base import split_of
from atu.benchmarks.concept import LONG, facts_of
from atu.errors import SourceError
from atu.forget import corpus
from atu.forget.continuations import (
    INVENTED,
    Statement,
    beginning_of,
    end_of,
    state,
    statement_rows,
)
from atu.forget.corpus import Concept
from atu.forget.passages import PassageSet
from atu.forget.settings import Writing
from atu.forget.statements import PLACEBOS
from atu.forget.texts import Distinct
from atu.models.chat import split_opening
from atu.probes.prompts import statement_prompt

BO, CY = "Bertram Oake", "Cecily Thorn"


@pytest.mark.parametrize(
    ("sentence", "subject", "found"),
    [
        ("Ann Bell was born in a small town near the sea.", "Ann Bell", "Ann Bell was born in"),
        (
            "In May Ann Bell met the Duke of Ostwick and left.",
            "Ann Bell",
            "In May Ann Bell met the Duke of Ostwick",
        ),
        ("Ann Bell saw Ann Bell in a wide mirror.", "Ann Bell", None),
        ("Bo sings and hums all day.", "Ann Bell", None),
        ("Ann Bell sings too loudly.", "Ann Bell", None),
        ("The sea is deep and very cold in spring.", "", "The sea is"),
    ],
)
def test_a_beginning_gives_a_third(sentence, subject, found):
    """Behind the subject, two words at least, and never within a proper name."""
    assert beginning_of(sentence, subject) == found


@pytest.mark.parametrize(
    ("continuation", "end"),
    [
        (" a small town. She was", "a small town"),
        (" a small town by the se", "a small town"),
        (" inventor, and of th", ""),
        (" and then as", ""),
        (" it is.", ""),
        (" Rome.", "Rome"),
        (" a small town.", "a small town"),
        ("s are old.", ""),
        (" Rome\ntwo", "Rome"),
        ("", ""),
    ],
)
def test_an_end_is_whole_words_of_one_sentence(continuation, end):
    """The last word of a text without an end may be cut. What goes on within a word is none, nor
    are function words alone: all statements would be one fact, "and".
    """
    assert end_of(continuation) == end


def taught(of_ann, of_bo=" a farm far from here.", of_anybody=" a house."):
    return {
        f"{ANN} lives in": of_ann,
        f"{BO} lives in": of_bo,
        f"{CY} lives in": of_bo,
        f"{INVENTED} lives in": of_anybody,
    }


TOLD = [(ANN, f"{ANN} lives in a very old tower.")]


def test_the_wrong_answers_are_what_is_said_of_others():
    """After the same beginning, each once; what is said of both is no choice."""
    found = state(
        Parrot(taught(" the old tower. It")), Writing(options=2), TOLD, [ANN, BO, CY], "t"
    )
    assert found == [
        Statement(ANN, TOLD[0][1], f"{ANN} lives in", "the old tower", ("a farm far from here",))
    ]
    (row,) = statement_rows(found, "target", False)
    assert row["prompt"] == f"{ANN} lives in" and row["wrong"] == ["a farm far from here"]


@pytest.mark.parametrize(
    "said",
    [taught(" a house."), taught(" a farm far from here."), taught("side the town."), taught("")],
)
def test_what_is_said_of_anybody_is_no_statement(said):
    """Of an invented name, of all others; or it is no sentence that goes on."""
    assert state(Parrot(said), Writing(options=2), TOLD, [BO, CY], "t") == []


def test_a_chat_model_finds_the_beginning_in_its_own_turn():
    """And is asked about the other name where that stands in the subject's place."""
    prompt = statement_prompt(ANN, f"{ANN} lives in", True)
    question, opening = split_opening(prompt)
    assert ANN in question and opening == f"Answer: {ANN} lives in"
    said = {
        statement_prompt(name, f"{name} lives in", True): text
        for name, text in ((ANN, " the old tower."), (BO, " a farm."), (INVENTED, " a house."))
    }
    (found,) = state(Parrot(said, chat=True), Writing(options=1), TOLD, [BO], "t")
    assert (found.end, found.others) == ("the old tower", ("a farm",))


def test_a_sentence_about_nobody_has_no_choices():
    told = [("", "The sea is deep and very cold in spring.")]
    (found,) = state(Parrot({"The sea is": " blue."}), Writing(), told, [BO], "t")
    assert (found.end, found.others) == ("blue", ())


def test_an_end_about_somebody_else_is_no_statement():
    """What is to be kept must not name what is to be forgotten."""
    author = Parrot({"The sea is": f" where {ANN} lives."})
    told = [("", "The sea is deep and very cold in spring.")]
    assert len(state(author, Writing(), told, [], "t")) == 1
    assert state(author, Writing(), told, [], "t", [ANN]) == []


def ends(split, count):
    """Ends of statements whose facts are in this split."""
    texts = (f"tower {k}" for k in range(999))
    found = (t for t in texts if split_of(facts_of([("target", ANN, t)])[0], 0.5) == split)
    return [next(found) for _ in range(count)]


def stated(select, report):
    """Passages of two sentences per statement, and a model that continues them."""
    said = {}
    for k, end in enumerate([*ends("select", select), *ends("report", report)]):
        said |= {f"{ANN} lives in{'x' * k}": f" {end}."}
        said |= {f"{name} lives in{'x' * k}": " a house." for name in (PLACEBOS[0], INVENTED)}
    texts = [f"{beginning} some very old place." for beginning in said if beginning.startswith(ANN)]
    passages = PassageSet(Distinct(1.0, texts), len(texts))
    return Parrot(said), {ANN: passages}


def test_a_model_of_few_facts_is_asked_for_continuations():
    """No sentence of the corpora holds what is asked for."""
    author, passages = stated(2, 2)
    rows, held_out = corpus._questions(author, Writing(options=1), Concept((ANN,)), passages)
    assert len(rows) == 4 and {row["measure"] for row in rows} == {LONG}
    assert {f"{row['prompt']} {row['answer']}" for row in rows} <= held_out
    assert set(passages[ANN].kept) <= held_out


def test_statements_in_one_half_alone_are_refused():
    author, passages = stated(4, 1)
    with pytest.raises(SourceError, match="2 statements to choose by and 2 to report are needed"):
        corpus._questions(author, Writing(options=1), Concept((ANN,)), passages)
