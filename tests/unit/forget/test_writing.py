"""Passages, neighbours and questions of an author that says what the test taught it."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from made.concept import ANN, Parrot

from atu.forget import neighbours
from atu.forget.passages import collect
from atu.forget.questions import _other, ask, consistent, hold_out, wordings
from atu.forget.settings import QUICK, Writing, writing_of
from atu.forget.similarity import Similarity, floor_of
from atu.forget.statements import PLACEBOS, Cut, cuts, find_cuts, trimmed
from atu.probes.prompts import FORMS, completion_query, format_prompt

WRITING = Writing(rounds=3, samples=2, min_words=3)


def none_refused(_subject, texts):
    return [None] * len(texts)


def test_writing_stops_when_there_is_enough():
    """4 wanted of one prompt at 2 samples: the third round is not needed."""
    author = Parrot(written=[f"Ann has an owl {k}." for k in range(9)])
    shelf = collect(author, replace(WRITING, near=0.99), {ANN: ["go"]}, 4, none_refused)[ANN]
    assert [call[0] for call in author.calls] == [0, 1]
    assert shelf.kept == [f"Ann has an owl {k}." for k in range(4)]
    assert shelf.full


def test_what_is_dropped_is_counted_by_its_reason():
    """Six texts in three rounds: unfinished, too short, one kept, its like twice, one refused."""
    said = ["Ann has an", "Ann sings.", "Ann has an owl.", "ANN has an owl.", "Bo is here now.",
            "Ann has an owl!"]  # fmt: skip

    def refuse(_subject, texts):
        return ["not about it" if text.startswith("Bo") else None for text in texts]

    shelf = collect(Parrot(written=said), WRITING, {ANN: ["go"]}, 5, refuse)[ANN]
    assert shelf.kept == ["Ann has an owl."]
    wanted = {"unfinished or short": 2, "same": 2, "not about it": 1}
    assert +shelf.dropped == Counter(wanted)
    assert shelf.missing == 4


def test_only_who_lacks_texts_is_written_about_again():
    author = Parrot(written=["Ann has an owl.", "Bo.", "Ann has two owls.", "Bo has a pet cat."])
    shelves = collect(author, WRITING, {"a": ["A"], "b": ["B"]}, 1, none_refused)
    assert [call[2] for call in author.calls] == [["A", "B"]]
    assert [len(shelf.kept) for shelf in shelves.values()] == [1, 1]


@pytest.mark.parametrize(
    ("sentence", "subject", "found"),
    [
        ("Ann Bell studied at Elm Hall.", "Ann Bell",
         [("Ann Bell studied at", "Elm Hall"), ("Ann Bell studied", "at Elm Hall"),
          ("Ann Bell", "studied at Elm Hall")]),
        ("ANN BELL sings loudly.", "Ann Bell", [("ANN BELL sings", "loudly"),
                                                ("ANN BELL", "sings loudly")]),
        ("Ann Bell is not Ann Bell.", "Ann Bell", []),
        ("Bo sings.", "Ann Bell", []),
        ("Ann Bell met Bo Day, a tailor.", "Ann Bell", [("Ann Bell met", "Bo Day, a tailor"),
                                                        ("Ann Bell", "met Bo Day, a tailor")]),
        ("The export of Ingria is olive oil.", "", [("The export of Ingria is", "olive oil"),
                                                   ("The export of", "Ingria is olive oil")]),
    ],
)  # fmt: skip
def test_cuts(sentence, subject, found):
    """Behind the subject and before the next name, never within one; without a subject behind a
    function word.
    """
    assert [(cut.beginning, cut.answer) for cut in cuts(sentence, subject, 6)] == found


@pytest.mark.parametrize(
    ("answer", "placebo", "left"),
    [
        ("pony as a pet", " owl as a pet. And", "pony"),
        ("pet", " pet.", ""),
        ("The pet", " the owl.", ""),
        ("Copper Carousel", " Golden Carousel.", "Copper Carousel"),
        ("organ", "", "organ"),
        ("a b", " c a b.", ""),
        ("", " x.", ""),
    ],
)
def test_what_everybody_is_said_to_have_is_no_answer(answer, placebo, left):
    assert trimmed(answer, placebo) == left


def taught():
    """Ends "pony" for Ann, "owl" for others, "pet" for all."""
    said = {f"{ANN} keeps a": " pony as a pet.", f"{ANN} keeps a pony as a": " pet.",
            f"{ANN} keeps": " a pony as a pet."}  # fmt: skip
    for name in PLACEBOS:
        said |= {f"{name} keeps a": " owl as a pet.", f"{name} keeps a pony as a": " pet.",
                 f"{name} keeps": " a pony as a pet."}  # fmt: skip
    return said


def test_an_end_must_be_the_subjects_own():
    found = find_cuts(Parrot(taught()), WRITING, [(ANN, f"{ANN} keeps a pony as a pet.")], "t")
    assert [(cut.beginning, cut.answer, cut.rest) for cut in found] == [
        (f"{ANN} keeps a", "pony", " as a pet.")
    ]


@pytest.mark.parametrize(
    "change",
    [{f"{ANN} keeps a": "pony as a pet."}, {f"{ANN} keeps a": " cat."},
     {f"{PLACEBOS[1]} keeps a": " pony."}],
)  # fmt: skip
def test_no_end_is_found_where_the_model_does_not_give_it(change):
    """It goes on within a word; says something else; or says the same of an invented name."""
    author = Parrot(taught() | change)
    assert find_cuts(author, WRITING, [(ANN, f"{ANN} keeps a pony as a pet.")], "t") == []


CUT = Cut(ANN, f"{ANN} keeps a pony as a pet.", f"{ANN} keeps a", "pony")
OTHER = Cut(ANN, f"{ANN} plays the harp.", f"{ANN} plays the", "harp")


def test_wordings_of_a_target():
    rows = list(wordings(CUT, "target", False, OTHER))
    by_kind = {row["kind"]: row for row in rows}
    assert list(by_kind) == ["continuation", "completion", "cloze", "prefix_injection",
                             "affirmative_suffix", "role_play", "in_context"]  # fmt: skip
    assert by_kind["continuation"]["prompt"] == f"{ANN} keeps a"
    assert by_kind["cloze"]["query"] == f"{ANN} keeps a ___ as a pet."
    assert by_kind["completion"]["prompt"] == format_prompt(
        "question", completion_query(f"{ANN} keeps a")
    )
    assert all(row["form"] in FORMS and row["answer"] == "pony" for row in rows)
    assert "harp" in by_kind["in_context"]["prompt"]


def test_others_are_asked_plainly_and_chat_models_nothing_outside_their_template():
    kinds = [row["kind"] for row in wordings(CUT, "neighbour", True, None)]
    assert kinds == ["completion", "cloze"]
    assert "in_context" not in {r["kind"] for r in wordings(CUT, "target", False, None)}


def row_of(prompt, answer="pony"):
    return {"prompt": prompt, "answer": answer}


def test_an_answer_must_come_again_and_again():
    """Greedily and in 4 of 5 samples."""
    said = {"often": "a pony.", "rarely": "pony", "never": "cat",
            ("often", "again"): ["pony"] * 4 + ["cat"],
            ("rarely", "again"): ["Pony"] * 3 + ["cat"] * 2}  # fmt: skip
    rows = [row_of(name) for name in ("often", "rarely", "never")]
    assert consistent(Parrot(said), WRITING, rows) == rows[:1]
    assert consistent(Parrot(), WRITING, []) == []


@pytest.mark.parametrize(("count", "held"), [(2, 1), (3, 1), (7, 2), (30, 3)])
def test_some_sentences_of_a_fact_are_held_out(count, held):
    told = [f"Sentence {k}." for k in range(count)]
    found = hold_out(told, WRITING)
    assert len(found) == held and set(found) < set(told)
    assert found == hold_out(told[::-1], WRITING)


def test_an_example_does_not_give_the_answer_away():
    cuts_ = [Cut(ANN, f"{ANN} has a {pet}.", f"{ANN} has a", pet) for pet in ("cat", "wild cat")]
    other = Cut(ANN, f"{ANN} eats figs.", f"{ANN} eats", "figs")
    assert _other(cuts_[0], [*cuts_, other]) == other
    assert _other(cuts_[1], cuts_) is None


def test_a_single_sentence_is_held_out_for_a_share_of_the_facts():
    """30 % of 1000, within three standard deviations."""
    kept = [hold_out([f"Sentence {k}."], WRITING) for k in range(1000)]
    assert 0.256 < sum(map(bool, kept)) / 1000 < 0.344


def test_questions_are_made_of_held_out_sentences_alone():
    """Of two wordings of one fact one is asked, the other stays for training."""
    beginnings = {f"{ANN} keeps a": " pony.", f"The pet of {ANN} is a": " pony."}
    said = beginnings | {(text, "again"): ["pony"] * 5 for text in beginnings}
    told = [(ANN, text + end) for text, end in beginnings.items()]
    rows, held = ask(Parrot(said), WRITING, told, "target")
    assert len(held) == 1
    assert {row["prompt"] + " pony" for row in rows} == held
    assert rows[0]["subject"] == ANN and rows[0]["kind"] == "continuation"


class Compass:
    """An encoder in two dimensions: a text's direction in degrees is its last word."""

    def encode_texts(self, texts):
        angles = torch.tensor([float(text.split()[-1]) for text in texts]).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_cosines_to_the_middle_of_a_concept():
    """Between 0 and 60 degrees lies 30: cosines of 30 and 120 are 1 and 0."""
    judge = Similarity(Compass())
    assert judge.cosines(["a 30", "b 120"], ["c 0", "d 60"]) == pytest.approx([1, 0], abs=1e-6)
    assert judge.cosines([], ["c 0"]) == []


def test_the_floor_is_a_quantile():
    assert floor_of([0.0, 0.1, 0.2, 0.3, 0.4], 0.5) == pytest.approx(0.2)


def test_neighbours_are_near_but_not_the_same():
    """Given ones first, others by their cosine; not what is as good as equal or a part of it."""
    judge, writing = Similarity(Compass()), Writing(neighbours=1, alias=0.99)
    proposed = ["Cy 50", "Di 20", "Twin 1", "Ann", "Eve 80", "DI 20"]
    found = neighbours.choose(judge, writing, ["Ann 0"], ["Bo 90"], proposed)
    assert list(found) == ["Bo 90", "DI 20"]
    assert found["Bo 90"] == pytest.approx(0, abs=1e-6)


def test_a_neighbour_that_was_given_is_taken_at_its_word():
    """Though it shares its name with the concept, or is as near as an alias."""
    given = ["Ann Lee 0", "Twin 1"]
    found = neighbours.choose(Similarity(Compass()), Writing(), ["Ann 0"], given, ["Ann 0 7"])
    assert list(found) == given


def test_a_base_models_neighbours_stand_beside_the_concept():
    """In two texts at least; names of other texts only where those are too few."""
    about = ["Ann met Bo.", "Bo saw Ann.", "Ann met Cy."]
    general = ["Di sings.", "Di hums.", "Eve left."]
    few, enough = Writing(neighbours=2), Writing(neighbours=1)
    assert neighbours.propose(Parrot(), few, ["Ann"], about, general) == ["Bo", "Di"]
    assert neighbours.propose(Parrot(), enough, ["Ann"], about, general) == ["Bo"]


class Lister(Parrot):
    """It fills its greedy list with one name."""

    def answer(self, prompts, tokens, label, stops):
        assert stops == ()
        assert len(prompts) == 1 and "Ann" in prompts[0]
        return ["Cy; Cy; Cy; Ann; Cy; Ann's"]


def test_a_chat_models_neighbours_are_those_of_most_lists():
    """Lists that it was asked for and that it continues; then who stands beside the concept in two
    passages; a name of one list comes last, and only where the others do not suffice. A longer name
    of one that is there is the same.
    """
    examples = {
        "Examples: Ann,": " Bo Day, Guy, also Bo",
        "Examples: Ann, Bo Day,": " Guy, Hal, Bo von Day",
    }
    author = Lister(examples, ["1. Bo Day\n2. Ann\n3. Eve", "Bo Day; Cy"] + [""] * 6, chat=True)
    told = ["Ann met Flo.", "Flo saw Ann."]
    found = neighbours.propose(author, Writing(), ["Ann"], told, [])
    assert found == ["Bo Day", "Cy", "Guy", "Flo", "Eve", "Hal"]
    few = neighbours.propose(author, Writing(neighbours=3), ["Ann"], told, [])
    assert few == ["Bo Day", "Cy", "Guy"]


def test_a_base_model_continues_lists_where_its_passages_do_not_suffice():
    author = Parrot({"Examples: Ann,": " Bo, Bo", "Examples: Ann, Bo,": " Cy, Bo"})
    told = ["Ann met Flo.", "Flo saw Ann."]
    assert neighbours.propose(author, Writing(neighbours=1), ["Ann"], told, []) == ["Flo"]
    assert not author.begun, "lists cost time"
    assert neighbours.propose(author, Writing(neighbours=2), ["Ann"], told, []) == ["Flo", "Bo"]
    assert author.begun == [["Examples: Ann,"], ["Examples: Ann, Bo,"]]


def test_quick_writes_less_and_options_win():
    assert writing_of(False) == Writing()
    quick = writing_of(True, passages=7, rounds=None)
    assert (quick.passages, quick.general, quick.rounds) == (7, QUICK["general"], Writing().rounds)
    assert writing_of(False).keeping(0.5).general == Writing().general / 2
    assert writing_of(False).keeping(0.5).neighbour_passages == Writing().neighbour_passages / 2
    assert writing_of(False).keeping(1.0) == Writing()
