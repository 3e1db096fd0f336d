"""What guessing scores, by the probes themselves."""

import pytest

from atu.probes import chance
from atu.probes.chance import about_target, chances


def asked(fact, answer, form="question", **own):
    row = {
        "role": "target",
        "type": fact.split("/")[1],
        "fact": fact,
        "form": form,
        "answer": answer,
        "measure": "exact_match@own-2",
        "options": [],
        "worst_of": None,
    }
    return row | own  # fmt: skip


PETS = [
    asked("Ada/pet", "owl"), asked("Ada/pet", "owl"),
    asked("Bob/pet", "an owl", role="neighbour"), asked("Cyd/pet", "elk", role="other"),
    asked("Dan/pet", "emu", role="control"), asked("Eva/pet", "elk", "cloze"),
    asked("Ada/book", "Owl"), asked("Bob/pet", "owl", "choice", options=["owl", "elk"]),
]  # fmt: skip


def test_a_guess_is_the_answer_about_somebody_else():
    """Of Ada's pet: Bob, Cyd and Dan are asked plainly, each once, and Bob has an owl too: 1/3. Of
    Cyd's nobody's: 0. A fact asked in other forms has the same guesses; what else Ada has is no
    pet."""
    probes = [
        PETS[0],
        PETS[3],
        asked("Ada/pet", "owl", "two_hop"),
        asked("Eva/pet", "elk", "cloze"),
    ]
    assert chances(probes, PETS) == pytest.approx([1 / 3, 0.0, 1 / 3, 1 / 4])
    assert chances([asked("Ada/book", "Owl")], PETS) == [0.0]


def test_a_sort_of_question_that_is_never_asked_plainly_has_everybodys_answers():
    """RWKU calls its adversarial questions by their wording. Of Bob's pet in one: Ada's pet and
    book, Cyd's elk and Dan's emu: 2/4."""
    attack = asked("Bob/pet", "owl", "prefix_injection", type="prefix injection")
    assert chances([attack], PETS) == [0.5]


def test_shown_options_are_what_is_guessed_among():
    assert chances([asked("Ada/pet", "owl", "choice", options=list("abcd"))], PETS) == [0.25]


def test_a_guess_is_scored_by_the_probes_own_measure():
    """Words of the right answer that the guess has: 2 of 3 of one, none of the other."""
    recall = "rwku_rouge_l_recall@fixed-2"
    known = [
        asked(f"{who}/town", answer, measure=recall)
        for who, answer in (("Ada", "New York City"), ("Bob", "York City"), ("Cyd", "Rome"))
    ]
    assert chances(known[:1], known) == pytest.approx([1 / 3])  # fmt: skip


def test_of_many_others_some_are_tried(monkeypatch):
    """The same at every probe but for its own fact."""
    monkeypatch.setattr(chance, "GUESSES", 2)
    known = [asked(f"{n}/pet", "owl" if n < 2 else "elk") for n in range(9)]
    found = chances(known, known)
    assert {round(2 * value) / 2 for value in found} == set(found) and len(set(found)) > 1


def test_levels_of_the_target():
    """Plain questions 1 and 0; of Ada's pet the better form, (0 + 0) / 2 or 1; of the book 1. Of a
    target without plain questions all forms count; others never."""
    rows = [asked("Ada/pet", ""), asked("Ada/pet", ""), asked("Ada/pet", "", "cloze"),
            asked("Ada/book", "", "cloze"), asked("Bob/pet", "", role="neighbour")]  # fmt: skip
    assert about_target(rows, [0.5, 0.0, 1.0, 0.25, 0.7]) == (0.25, 0.625)
    assert about_target(rows[2:], [1.0, 0.25, 0.7]) == (0.625, 0.625)
    two = [row | {"worst_of": 2} for row in rows]
    assert about_target(two, [0.5, 0.0, 1.0, 0.25, 0.7]) == (0.25, pytest.approx(13 / 24))
    assert about_target(rows[4:], [0.7]) == (0.0, 0.0)
