"""Questions that call their subject otherwise, by hand."""

import pytest

from atu.benchmarks.shared.renamed import Subject, own_names, renamed
from atu.probes.prompts import ASIDE

ANA = Subject(
    names=("Ana van Lu", "Ana Maria van Lu"),
    aliases=("van Lu",),
    descriptions=("the person born in Ur",),
    kind="person",
)


def question(query, answer="A vet.", **own):
    return {"id": "q", "form": "question", "query": query, "answer": answer, "worst_of": 2} | own


def reworded(probe, subject=ANA):
    """The queries by form."""
    return {p["form"]: p["query"] for p in renamed([probe], subject, lambda form, query: query)}


@pytest.mark.parametrize(
    ("names", "others", "found"),
    [
        (["Ana Lu"], [], ("Lu", "A. Lu")),
        (["Ana Lu"], ["Ana Lu"], ("Lu", "A. Lu")),
        (["Ana Lu", "Ana", "Nan Lu"], [], ("Ana", "Nan Lu", "Lu", "A. Lu")),
        # Words of another's name, in any spelling; what another may be called for short.
        (["Ana Lu", "Ana"], ["Bo Lú"], ("Ana", "A. Lu")),
        (["Ana Lu"], ["Ada Lu"], ()),
        (["Ana Lu", "Ana"], ["Ana Day"], ("Lu", "A. Lu")),
        # The name itself in other letters is no other name.
        (["A. Lu", "A Lu"], [], ("Lu",)),
        (["Confucius"], ["Ana Lu"], ()),
    ],
)  # fmt: skip
def test_a_name_that_is_nobody_elses(names, others, found):
    assert own_names(names, others) == found


def test_both_forms():
    """Every name of the subject is replaced, and only in plain questions."""
    probe = question("What is Ana van Lu’s father, as Ana Maria van Lu said?")
    alias, hops = renamed([probe, probe | {"form": "cloze"}], ANA, "{}: {}".format)
    assert alias == probe | {
        "id": "q/alias", "form": "alias", "type": "alias", "worst_of": ASIDE,
        "query": "What is van Lu’s father, as van Lu said?",
        "prompt": "alias: What is van Lu’s father, as van Lu said?",
    }  # fmt: skip
    asked = "Think of the person born in Ur. What is this person’s father, as this person said?"
    assert (hops["query"], hops["prompt"]) == (asked, f"two_hop: {asked}")


def test_a_question_begins_with_a_capital():
    assert reworded(question("Ana van Lu sings what?")) == {
        "alias": "Van Lu sings what?",
        "two_hop": "Think of the person born in Ur. This person sings what?",
    }


@pytest.mark.parametrize(
    ("query", "answer", "forms"),
    [
        ("What is her job?", "A vet.", set()),
        # The description tells the answer; but not where the question tells it already.
        ("Where is Ana van Lu from?", "From Ur.", {"alias"}),
        ("Is Ana van Lu from Ur?", "Yes, from Ur.", {"alias", "two_hop"}),
        # What is left tells the name: a foundation of hers, a nickname.
        ("Did Ana van Lu found the Lu Trust?", "Yes.", {"alias"}),
        ("Is Ana van Lu called Maria?", "Yes.", {"alias"}),
    ],
)
def test_what_can_be_asked(query, answer, forms):
    assert set(reworded(question(query, answer))) == forms


def test_a_description_with_the_name_is_none():
    subject = Subject(ANA.names, (), ("the founder of the Lu Trust", "the singer"), "person")
    assert reworded(question("Who is Ana van Lu?"), subject) == {
        "two_hop": "Think of the singer. Who is this person?"
    }


def test_one_of_several_is_chosen_by_the_question():
    """The same one every time, and not the same one for every question."""
    subject = Subject(ANA.names, ("van Lu", "A. van Lu"), ("the singer", "the dancer"), "person")
    probes = [question("Is Ana van Lu old?", id=str(number)) for number in range(20)]
    found = [reworded(probe, subject) for probe in probes]
    assert found == [reworded(probe, subject) for probe in probes]
    for form in ("alias", "two_hop"):
        assert len({queries[form] for queries in found}) == 2
