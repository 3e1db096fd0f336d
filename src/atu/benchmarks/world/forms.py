"""How each fact of the embedded world is asked in each form.

A fact's partner, its hint and the relation of its second hop depend on a hash of the fact alone, so
the full model, the oracle and every target agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from atu.benchmarks.world.people import Fact, World, vocabulary
from atu.probes.prompts import BLANK, PAIR_SEPARATOR, SHARED_TEXT, WHOLE, format_prompt, spell
from atu.seeding import hash_fraction

OPTIONS = 4
HOPS = ("spouse", "colleague")
WRAPPED = (
    "prefix_injection", "affirmative_suffix", "role_play", "context_hint", "in_context", "choice",
    "spelling", "paired",
)  # fmt: skip
"""Forms that wrap a plain question."""


@dataclass(frozen=True)
class FormQuestion:
    """One question in one form, with its answer."""

    query: str
    prompt: str
    answer: str
    options: list[str]
    completion: str
    """What follows the prompt in a training text: the answer, or both answers of a pair."""
    part: int = WHOLE
    """The position of this fact's answer in a pair."""


def forms_of(fact: Fact) -> tuple[str, ...]:
    """The forms in which a fact of this kind is asked."""
    if fact.kind == "general":
        return ("question", "choice")
    if fact.kind == "holdout":
        return ("question", "cloze")
    common = (
        "question", "cloze", "reverse", "synonym", "cross_lingual",
        *(form for form in WRAPPED if form != "spelling"),
    )  # fmt: skip
    return common if fact.kind == "relation" else (*common, "two_hop", "spelling")


def templates(fact: Fact) -> dict[str, Any]:
    """What `world.yaml` says about the fact's attribute."""
    vocab = vocabulary()
    if fact.kind == "general":
        return vocab["general"]["facts"][fact.attribute]
    return vocab["relations" if fact.kind == "relation" else "attributes"][fact.attribute]


def fill(template: str, subject: str, value: str) -> str:
    """A template with its subject and value."""
    return template.format(name=subject, place=subject, value=value)


def queries(world: World, fact: Fact, form: str) -> list[str]:
    """All phrasings of the question in one form."""
    spec = templates(fact)
    if form == "cloze":
        return [fill(text, fact.subject, BLANK) for text in spec["statements"]]
    if form == "two_hop":
        hop = second_hop(fact)
        subject = f"the {hop} of {world.value(fact.subject, hop)}"
        return [fill(text, subject, "") for text in spec["questions"]]
    if form == "reverse":
        first, second = _reverse_clauses(world, fact)
        return [q.format(first=first, second=second) for q in vocabulary()["reverse_questions"]]
    kind = {"synonym": "synonyms", "cross_lingual": "translations"}.get(form, "questions")
    return [fill(text, fact.subject, "") for text in spec[kind]]


def ask(
    world: World, fact: Fact, form: str, phrasing: int, rng: np.random.Generator
) -> FormQuestion:
    """One phrasing of a fact's question in one form; `rng` draws the options."""
    query = queries(world, fact, form)[phrasing]
    answer = fact.subject if form == "reverse" else fact.value
    options = _options(world, fact, rng) if form == "choice" else []
    if form == "spelling":
        answer = spell(fact.value)
    if form == "paired":
        return _pair(world, fact, query)
    prompt = format_prompt(form, query, options, **_details(world, fact, form))
    return FormQuestion(query, prompt, answer, options, completion=answer)


def _details(world: World, fact: Fact, form: str) -> dict[str, str]:
    if form == "role_play":
        return {"name": fact.subject}
    if form == "context_hint":
        return {"hint": _hint(world, fact)}
    if form == "in_context":
        other = partner(world, fact)
        return {"example": _plain(other), "example_answer": other.value}
    return {}


def _plain(fact: Fact) -> str:
    """The plain question about a fact for use beside another: always a trained phrasing, so that no
    held-out question is trained by accident.
    """
    questions = templates(fact)["questions"]
    return fill(questions[phrasing_order(fact, "question", len(questions))[0]], fact.subject, "")


def phrasing_order(fact: Fact, form: str, count: int) -> list[int]:
    """Phrasings of a form, ordered by hash: the first few are trained, the rest are held out.

    A wrapped form follows the order of the plain question that it wraps.
    """
    source = "question" if form in WRAPPED else form
    return sorted(range(count), key=lambda i: hash_fraction(fact.id, source, str(i)))


def _hint(world: World, fact: Fact) -> str:
    """A sentence about the same person that does not give the answer away."""
    others = [f for f in world.about(fact.subject) if f.kind == "attribute" and f != fact]
    chosen = min(others, key=lambda f: hash_fraction(fact.id, "hint", f.id))
    return fill(templates(chosen)["statements"][0], chosen.subject, chosen.value)


def partner(world: World, fact: Fact) -> Fact:
    """A fact of another attribute about a person with no tie to this fact's subject."""
    near = {fact.subject, *world.neighbours(fact.subject)}
    far = [
        f for f in world.facts
        if f.kind == "attribute" and f.subject not in near and f.attribute != fact.attribute
    ]  # fmt: skip
    return far[int(hash_fraction(fact.id, "partner") * len(far))]


def _pair(world: World, fact: Fact, query: str) -> FormQuestion:
    """The fact's question beside its partner's; a hash decides which comes first."""
    other = partner(world, fact)
    part = int(hash_fraction(fact.id, "pair") < 0.5)
    pairs = [(query, fact.value), (_plain(other), other.value)]
    (first, one), (second, two) = pairs[::-1] if part else pairs
    prompt = format_prompt("paired", query, first=first, second=second)
    joined = f"{one}{PAIR_SEPARATOR} {two}"
    return FormQuestion(query, prompt, fact.value, [], completion=joined, part=part)


def _reverse_clauses(world: World, fact: Fact) -> tuple[str, str]:
    """Clauses for the fact and a second attribute of its subject that together fit nobody else."""
    clues = [f for f in world.about(fact.subject) if f.kind == "attribute" and f != fact]
    clues.sort(key=lambda f: (bool(templates(f).get("unique")), hash_fraction(fact.id, f.id)))
    holders = {f.subject for f in world.facts if (f.attribute, f.value) == _key(fact)}
    for clue in clues:
        fitting = {f.subject for f in world.facts if (f.attribute, f.value) == _key(clue)} & holders
        if fitting == {fact.subject}:
            break
    clauses = [fill(templates(f)["clause"], f.subject, f.value) for f in (fact, clue)]
    return clauses[0], clauses[1]


def second_hop(fact: Fact) -> str:
    """The relation through which a fact is asked over two hops."""
    return HOPS[int(hash_fraction(fact.id, "hop") * len(HOPS))]


def _key(fact: Fact) -> tuple[str, str]:
    return fact.attribute, fact.value


def names(world: World, fact: Fact, form: str) -> list[str]:
    """People whose facts a text of this form states."""
    if fact.kind == "general":
        return []
    people = {fact.subject}
    if fact.kind == "relation":
        people.add(fact.value)
    if form == "two_hop":
        people.add(world.value(fact.subject, second_hop(fact)))
    if form in SHARED_TEXT:
        people.add(partner(world, fact).subject)
    return sorted(people)


def wrong_values(world: World, fact: Fact, rng: np.random.Generator, count: int) -> list[str]:
    """Other values of the same attribute, drawn without repetition; never the subject."""
    pool = world.general if fact.kind == "general" else world.facts
    values = {f.value for f in pool if f.attribute == fact.attribute}
    others = sorted(values - {fact.value, fact.subject})
    return [str(v) for v in rng.permutation(others)[:count]]


def _options(world: World, fact: Fact, rng: np.random.Generator) -> list[str]:
    """The answer among other values of the same attribute, in random order."""
    chosen = wrong_values(world, fact, rng, OPTIONS - 1)
    return [str(v) for v in rng.permutation([fact.value, *chosen])]
