"""The embedded world as text: training texts and probes for every form of every fact.

A *row* is one training text, a *probe* one question asked of a model. Both are plain dicts with the
columns of `TEXTS` and `PROBES`. Which phrasings a fact's training text uses, and which are held
out, depends on a hash of the fact alone: the full model, the oracle and every target agree on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from atu.benchmarks.world.forms import (
    WRAPPED,
    ask,
    fill,
    forms_of,
    names,
    partner,
    phrasing_order,
    queries,
    templates,
    wrong_values,
)
from atu.benchmarks.world.people import Fact, World
from atu.probes.prompts import LINE, SHARED_TEXT, join_answer
from atu.seeding import generator, hash_fraction

MEASURE = "exact_match@own-2"
TEXT_COLUMNS = ("text", "prompt", "answer", "fact", "form", "type", "split", "names")
TRAIN_PHRASINGS = {
    "question": 4, "cloze": 2, "two_hop": 3, "choice": 2, "spelling": 3,
}  # fmt: skip
"""Phrasings per form that a fact's training texts use, 1 for forms not listed; all others are held
out. A wrapped form uses trained phrasings of its plain question."""
TRAIN_SHARES = {
    "choice": 0.8, "spelling": 0.8, "synonym": 0.5, "cross_lingual": 0.8,
    "prefix_injection": 0.2, "affirmative_suffix": 0.2, "role_play": 0.2, "context_hint": 0.4,
    "in_context": 0.7, "paired": 0.8,
}  # fmt: skip
"""Share of facts that are trained in a form, 1 for forms not listed. Enough to learn the form."""
PASSAGES = 3
WRONG = 5
"""Wrong values per probe, as many as TOFU's perturbed answers."""


def _row(text: str, prompt: str, answer: str, fact: str, form: str, kind: str, people: list[str]):
    values = (text, prompt, answer, fact, form, kind, "train", people)
    return dict(zip(TEXT_COLUMNS, values, strict=True))


def _passages(world: World, person: str, seed: int) -> Iterator[dict[str, Any]]:
    """Short biographies: all attributes of a person in random order and wording."""
    rng = generator(seed, "passages", person)
    facts = [f for f in world.about(person) if f.kind in ("attribute", "holdout")]
    for _ in range(PASSAGES):
        chosen = [facts[i] for i in rng.permutation(len(facts))]
        sentences = [_statement(fact, rng) for fact in chosen]
        yield _row(" ".join(sentences), "", "", person, "passage", "biography", [person])


def _statement(fact: Fact, rng: np.random.Generator) -> str:
    texts = templates(fact)["statements"]
    return fill(texts[rng.integers(len(texts))], fact.subject, fact.value)


def _statements(world: World, fact: Fact) -> Iterator[dict[str, Any]]:
    for template in templates(fact)["statements"]:
        text = fill(template, fact.subject, fact.value)
        people = names(world, fact, "statement")
        yield _row(text, "", "", fact.id, "statement", fact.attribute, people)


def training_rows(world: World, seed: int) -> list[dict[str, Any]]:
    """Every training text of the world, in a fixed order."""
    rows: list[dict[str, Any]] = []
    for person in world.people:
        rows += _passages(world, person, seed)
    for fact in (*world.facts, *world.general):
        if fact.kind != "attribute":
            rows += _statements(world, fact)
        rng = generator(seed, "training", fact.id)
        for form in forms_of(fact):
            rows += _question_rows(world, fact, form, rng)
    return rows


def _question_rows(
    world: World, fact: Fact, form: str, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """A training text for every trained phrasing of the form."""
    for phrasing in _training_phrasings(world, fact, form):
        question = ask(world, fact, form, phrasing, rng)
        text = join_answer(question.prompt, question.completion)
        people = names(world, fact, form)
        yield _row(
            text, question.prompt, question.completion, fact.id, form, fact.attribute, people
        )


def _training_phrasings(world: World, fact: Fact, form: str) -> list[int]:
    """The phrasings of a form that a fact's training texts use."""
    if hash_fraction(fact.id, form) >= TRAIN_SHARES.get(form, 1.0):
        return []
    count = len(queries(world, fact, form))
    used = TRAIN_PHRASINGS.get(form, 1)
    if fact.kind == "general" and form == "question":
        used = count // 2
    return phrasing_order(fact, form, count)[:used]


def probes(world: World, fact: Fact, role: str, seed: int) -> list[dict[str, Any]]:
    """Every probe of one fact: all forms, seen and held-out phrasings, split by hash.

    A wrapped form is probed with the phrasing that it trains on and with those that no plain
    question of this fact trains on. Each pair of questions about a target also yields a probe with
    the role `partner`: the other answer to the same prompt.
    """
    rows = []
    rng = generator(seed, "probes", fact.id)
    for form in forms_of(fact):
        trained = _training_phrasings(world, fact, form)
        wrong = wrong_values(world, fact, rng, WRONG)
        for phrasing in _probed_phrasings(world, fact, form, trained):
            question = ask(world, fact, form, phrasing, rng)
            name = f"{fact.id}/{form}/{phrasing}"
            row = {
                "id": name,
                "role": role,
                "subject": fact.subject,
                "fact": fact.id,
                "form": form,
                "type": fact.attribute,
                "phrasing": phrasing,
                "seen": phrasing in trained,
                "query": question.query,
                "options": question.options,
                "prompt": question.prompt,
                "part": question.part,
                "stops": LINE,
                "answer": question.answer,
                "measure": MEASURE,
                "wrong": wrong,
                "paraphrased": None,
                "needs": names(world, fact, form),
                "split": "select" if hash_fraction("split", name) < 0.5 else "report",
                "worst_of": None,
            }
            rows.append(row)
            if form == "paired" and role == "target":
                rows.append(_partner_probe(row, partner(world, fact)))
    return rows


def _probed_phrasings(world: World, fact: Fact, form: str, trained: Sequence[int]) -> list[int]:
    count = len(queries(world, fact, form))
    if form not in WRAPPED:
        return list(range(count))
    plain = _training_phrasings(world, fact, "question")
    return [i for i in range(count) if i in trained or i not in plain]


def _partner_probe(probe: dict[str, Any], fact: Fact) -> dict[str, Any]:
    """The retain question of a pair, in the same prompt as the forget question."""
    return probe | {
        "id": f"{probe['id']}/partner",
        "role": "partner",
        "subject": fact.subject,
        "fact": fact.id,
        "type": fact.attribute,
        "part": 1 - probe["part"],
        "answer": fact.value,
        "wrong": [],
        "needs": [fact.subject],
    }


def holdout_rows(world: World, seed: int) -> list[dict[str, Any]]:
    """Texts about the holdout people, in the forms of texts about a target's attributes: membership
    tests compare them with the forget corpus. No model trains on them.
    """
    rows: list[dict[str, Any]] = []
    for person in world.holdout:
        rows += _passages(world, person, seed)
    for fact in world.holdout_facts:
        rng = generator(seed, "holdout", fact.id)
        for form in forms_of(fact):
            rows += _question_rows(world, fact, form, rng)
    return [row | {"split": "holdout"} for row in rows]


def forget_rows(
    rows: list[dict[str, Any]], names: Sequence[str], unnamed: bool
) -> list[dict[str, Any]]:
    """The documents to which an unlearning request can refer: those that name a target, and with
    `unnamed` those that state a fact about one without the name ("the spouse of S plays the
    cello"), which are its two-hop texts.

    Texts that also state a fact about an unrelated person are left out: unlearning them would mean
    forgetting that person too.
    """
    return [
        row
        for row in rows
        if any(name in row["names"] and (unnamed or name in row["text"]) for name in names)
        and row["form"] not in SHARED_TEXT
    ]


def retain_rows(rows: list[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The documents that neither name a target nor state a fact about one, which are the oracle's
    training texts too: it must not see a target's facts over two hops either.
    """
    return [
        row
        for row in rows
        if not any(name in row["names"] or name in row["text"] for name in names)
    ]
