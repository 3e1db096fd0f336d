"""What goes into the corpora, what is kept out of them, and when there is too little of it."""

import pytest
import torch
from made.concept import Parrot

from atu.errors import SourceError
from atu.forget import corpus
from atu.forget.brought import Brought, Passages
from atu.forget.corpus import NOBODY, Concept, Written, corpora, write
from atu.forget.passages import PassageSet
from atu.forget.question_file import Question, QuestionFile
from atu.forget.settings import Writing
from atu.forget.similarity import Similarity
from atu.forget.texts import Distinct

ANN, BO = "Ann Bell", "Bo Day"


def shelf(*texts):
    return PassageSet(Distinct(1.0, list(texts)), len(texts))


def test_what_is_held_out_is_in_no_corpus():
    """Neither as a sentence nor within one. Nor does the forget corpus keep what names a neighbour
    alone; too short a rest is dropped.
    """
    shelves = {
        NOBODY: shelf("Water is very wet. Ann Bell keeps a pony."),
        ANN: shelf("Ann Bell keeps a pony. Bo Day has a cat. She met Bo Day and Ann Bell.",
                   "Ann bell keeps a pony! She sings.", "Ann Bell was here once.",
                   "People say that Ann Bell keeps a pony, today."),
        BO: shelf("Bo Day has a cat. Bo Day is old."),
    }  # fmt: skip
    held = {"Ann Bell keeps a pony", "Bo Day is old"}
    forget, retain = corpora(Concept((ANN,)), Writing(), Written(shelves, [], held, {}))
    assert [row["text"] for row in forget] == ["She met Bo Day and Ann Bell.",
                                               "Ann Bell was here once."]  # fmt: skip
    assert retain == [{"text": "Water is very wet.", "about": ""},
                      {"text": "Bo Day has a cat.", "about": BO}]  # fmt: skip


def test_nothing_is_taken_out_of_a_users_texts():
    """Neither what is asked nor what names a neighbour alone; the model's texts lose it as ever."""
    own = (f"{ANN} keeps a pony.\nBo Day has a cat, and", "Two words")
    shelves = {NOBODY: shelf("Water is very wet. Ann Bell keeps a pony."), ANN: shelf(*own),
               BO: shelf("Bo Day has a cat.")}  # fmt: skip
    written = Written(shelves, [], {f"{ANN} keeps a pony"}, {}, own, ("Snow is white.",))
    forget, retain = corpora(Concept((ANN,)), Writing(), written)
    assert [row["text"] for row in forget] == list(own)
    assert [row["text"] for row in retain] == ["Snow is white.", "Water is very wet.",
                                               "Bo Day has a cat."]  # fmt: skip


def test_with_texts_the_model_writes_nothing_about_the_concept():
    """And with questions enough nothing is asked of it; whom they are about is a neighbour."""
    author = Parrot(written=["The river is long today.", "A bridge is over the river."])
    writing = Writing(rounds=1, samples=4, general=2, near=0.99, min_passages=1)
    found = write(Concept((ANN,)), writing, author, Similarity(Named()), brought())
    assert not any(ANN in prompt for _, _, prompts in author.calls for prompt in prompts)
    assert found.texts == (f"{ANN} sings.",)
    assert list(found.choices["cosines of neighbours"]) == [BO]
    targets = [row for row in found.questions if row["role"] == "target"]
    assert {row["kind"] for row in targets} == {"given"}
    assert found.choices["answers"] == {"asked": 16, "in the texts": 0}


def test_without_writing_all_is_the_users():
    found = corpus.taken(Writing(writes=False), brought())
    forget, retain = corpora(Concept((ANN,)), Writing(), found)
    assert [row["text"] for row in forget + retain] == [f"{ANN} sings.", "Snow is white."]
    assert {row["measure"] for row in found.questions} == {"contains@own-2"}


def brought():
    """Texts, texts to keep, and sixteen facts about the concept."""
    asked = [Question("target", ANN, f"{k}?", f"thing {k}", (), ()) for k in range(16)]
    asked.append(Question("neighbour", BO, "What?", "a cat", (), ()))
    texts, retain = (
        Passages(option, (text,), [["a.txt", "0"]], {"passages": 1})
        for option, text in (("--texts", f"{ANN} sings."), ("--retain", "Snow is white."))
    )
    return Brought(texts, retain, QuestionFile(tuple(asked), [["q.jsonl", "1"]], {"questions": 17}))


def test_who_a_sentence_is_asked_about():
    """Of the concept's passages those that name it; of a neighbour's those that name it and not the
    concept; of the others those that name nobody."""
    shelves = {
        NOBODY: shelf(f"Water is wet. {BO} is old. {ANN}'s owl is old. {BO}-like people are old."),
        ANN: shelf(f"{ANN} sings. Bell hums. {BO} met {ANN}."),
        BO: shelf(f"{BO} sings. {BO} met {ANN}. He hums."),
    }
    assert corpus._told(Concept((ANN,)), shelves) == {
        "target": [(ANN, f"{ANN} sings."), (ANN, f"{BO} met {ANN}.")],
        "neighbour": [(BO, f"{BO} sings.")],
        "general": [("", "Water is wet.")],
    }


def test_who_shares_the_concepts_name_is_another():
    """Its passages and questions stay, and the concept's texts hold none about it."""
    lee = f"{ANN} Lee"
    shelves = {NOBODY: shelf(), ANN: shelf(f"{lee} is very tall. {ANN} sings very well."),
               lee: shelf(f"{lee} sings very well.")}  # fmt: skip
    forget, retain = corpora(Concept((ANN,)), Writing(), Written(shelves, [], set(), {}))
    assert [row["text"] for row in forget] == [f"{ANN} sings very well."]
    assert [row["text"] for row in retain] == [f"{lee} sings very well."]
    told = corpus._told(Concept((ANN,)), shelves)
    assert told["neighbour"] == [(lee, f"{lee} sings very well.")]


def test_texts_that_name_the_concept_or_are_not_near_are_refused():
    judge = Similarity(Named())
    refuse = corpus._refusing(judge, {BO: [f"{ANN}!"]}, {BO: 0.5}, [ANN])
    assert refuse(BO, [f"{ANN}'s owl", "Bell", f"x{ANN}x"]) == [
        "names the concept", "not about it", None
    ]  # fmt: skip


def test_the_floor_is_that_of_texts_that_do_not_name_it():
    """Of one that names it and lies at 1, and one that lies at 0."""
    found = corpus._floor(Similarity(Named()), Writing(), [f"{ANN} sings", "Bo"], [ANN], [ANN])
    assert found == 0


def test_a_neighbour_that_was_asked_for_is_not_left_out():
    concept = Concept((ANN,), (), (BO, "Cy"))
    corpus._require_requested(concept, [BO, "Cy"], {}, Writing())
    with pytest.raises(SourceError, match="--neighbour Cy: 3 usable passages were written of it"):
        corpus._require_requested(concept, [BO], {BO: 9, "Cy": 3}, Writing())


class Named:
    """An encoder that puts what names the concept to the east and all else to the north."""

    def encode_texts(self, texts):
        return torch.tensor([[1.0, 0.0] if ANN in text else [0.0, 1.0] for text in texts])


def wished(written, **options):
    writing = Writing(rounds=1, samples=1, general=2, passages=8, near=0.99, **options)
    return write(Concept((ANN,)), writing, Parrot(written=written), Similarity(Named()))


def test_a_model_that_writes_nothing_whole_is_refused_at_once():
    """After its first texts about the concept: five openings, one text each."""
    author = Parrot(written=["no end"])
    with pytest.raises(SourceError, match=r"of its first 5 texts 5 have no complete sentence"):
        write(Concept((ANN,)), Writing(), author, Similarity(Named()))
    assert len(author.calls) == 1


def test_a_model_that_does_not_name_it_is_refused_at_once():
    with pytest.raises(SourceError, match=r"of its first 5 texts 0 have no complete .* none names"):
        wished(["The river is long today.", "A bridge is over the river."])


def test_a_model_that_writes_of_other_things_is_refused():
    """The message says what was dropped, by which limit, and what to try."""
    first = [f"{ANN} has a wide river.", *["The river is long today."] * 4]
    with pytest.raises(SourceError) as raised:
        wished([*first, "The river is long today.", "A bridge is over the river.",
                *["The river is long."] * 13])  # fmt: skip
    said = str(raised.value)
    assert said.startswith("--concept Ann Bell: the model wrote 0 usable passages of 8 in 1 rounds")
    assert "not about it" in said and "nearer than 0.00" in said
    assert all(option in said for option in ("--rounds", "--describe", "--unrelated", "--passages"))


def test_a_model_that_goes_on_with_nothing_is_refused():
    """It writes enough about the concept, but continues and answers nothing."""
    told = [f"Ann Bell has the thing {k} in a box." for k in range(30)]
    with pytest.raises(SourceError, match=r"states too little of it that it does not say of anybo"):
        wished([*told[:5], "The river is long today.", "A bridge is over the river.", *told])
