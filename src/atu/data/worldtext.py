"""The embedded world in words: training texts and probes for every form of every fact.

A *row* is one training text, a *probe* one question asked of a model. Both are plain dicts with the
columns of `TEXT_COLUMNS` and `PROBE_COLUMNS`. Which phrasings a fact's training text uses, and
which are held out, depends on a hash of the fact alone: the full model, the oracle and every
target agree on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from atu.data.prompts import BLANK, format_prompt, join_answer
from atu.data.world import Fact, World, vocabulary
from atu.seeding import generator, hash_fraction

TEXT_COLUMNS = ("text", "prompt", "answer", "fact", "form", "type", "split", "names")
PROBE_COLUMNS = (
    "id", "role", "subject", "fact", "form", "type", "phrasing", "seen",
    "query", "options", "answer", "needs", "split",
)  # fmt: skip
TRAIN_PHRASINGS = {"question": 4, "cloze": 2, "reverse": 1, "choice": 1, "two_hop": 2}
"""How many phrasings of a form a fact's training text uses; all others are held out."""
CHOICE_SHARE = 0.5
"""Share of facts that are trained as a choice question: enough to learn the form."""
OPTIONS = 4
PASSAGES = 3
HOPS = ("spouse", "colleague")


def _templates(fact: Fact) -> dict[str, Any]:
    group = {"attribute": "attributes", "relation": "relations"}.get(fact.kind)
    vocab = vocabulary()
    return vocab[group][fact.attribute] if group else vocab["general"]["facts"][fact.attribute]


def phrasing_order(fact: Fact, form: str, count: int) -> list[int]:
    """Phrasings of a form in the order of a hash: the first few train, the rest are held out."""
    return sorted(range(count), key=lambda i: hash_fraction(fact.id, form, str(i)))


def _fill(template: str, subject: str, value: str) -> str:
    return template.format(name=subject, place=subject, value=value)


def _queries(world: World, fact: Fact, form: str) -> list[tuple[str, str]]:
    """All `(query, answer)` pairs of one form of a fact, one per phrasing."""
    spec = _templates(fact)
    if form in ("question", "choice"):
        return [(_fill(q, fact.subject, ""), fact.value) for q in spec["questions"]]
    if form == "cloze":
        return [(_fill(s, fact.subject, BLANK), fact.value) for s in spec["statements"]]
    if form == "two_hop":
        hop = _hop(fact)
        subject = f"the {hop} of {world.value(fact.subject, hop)}"
        return [(_fill(q, subject, ""), fact.value) for q in spec["questions"]]
    first, second = _reverse_clauses(world, fact)
    questions = vocabulary()["reverse_questions"]
    return [(q.format(first=first, second=second), fact.subject) for q in questions]


def _reverse_clauses(world: World, fact: Fact) -> tuple[str, str]:
    """The fact and a second attribute of its subject that together fit nobody else."""
    clues = [f for f in world.about(fact.subject) if f.kind == "attribute" and f != fact]
    clues.sort(key=lambda f: (bool(_templates(f).get("unique")), hash_fraction(fact.id, f.id)))
    holders = {f.subject for f in world.facts if (f.attribute, f.value) == _key(fact)}
    for clue in clues:
        both = {f.subject for f in world.facts if (f.attribute, f.value) == _key(clue)} & holders
        if both == {fact.subject}:
            break
    clauses = [_fill(_templates(f)["clause"], f.subject, f.value) for f in (fact, clue)]
    return clauses[0], clauses[1]


def _hop(fact: Fact) -> str:
    """The relation through which a fact is asked over two hops."""
    return HOPS[int(hash_fraction(fact.id, "hop") * len(HOPS))]


def _key(fact: Fact) -> tuple[str, str]:
    return fact.attribute, fact.value


def _forms(fact: Fact) -> tuple[str, ...]:
    if fact.kind == "general":
        return ("question", "choice")
    if fact.kind == "relation":
        return ("question", "cloze", "reverse", "choice")
    return ("question", "cloze", "reverse", "choice", "two_hop")


def _names(world: World, fact: Fact, form: str) -> list[str]:
    """People whose facts a text of this form states."""
    if fact.kind == "general":
        return []
    names = {fact.subject}
    if fact.kind == "relation":
        names.add(fact.value)
    if form == "two_hop":
        names.add(world.value(fact.subject, _hop(fact)))
    return sorted(names)


def _options(world: World, fact: Fact, rng: np.random.Generator) -> list[str]:
    """The answer among other values of the same attribute, in random order."""
    pool = world.general if fact.kind == "general" else world.facts
    values = {f.value for f in pool if f.attribute == fact.attribute}
    others = sorted(values - {fact.value, fact.subject})
    chosen = [str(v) for v in rng.permutation(others)[: OPTIONS - 1]]
    return [str(v) for v in rng.permutation([fact.value, *chosen])]


def _row(text: str, prompt: str, answer: str, fact: str, form: str, kind: str, names: list[str]):
    values = (text, prompt, answer, fact, form, kind, "train", names)
    return dict(zip(TEXT_COLUMNS, values, strict=True))


def _passages(world: World, person: str, seed: int) -> Iterator[dict[str, Any]]:
    """Short biographies: all attributes of a person in random order and wording."""
    rng = generator(seed, "passages", person)
    facts = [f for f in world.about(person) if f.kind == "attribute"]
    for _ in range(PASSAGES):
        chosen = [facts[i] for i in rng.permutation(len(facts))]
        sentences = [_statement(fact, rng) for fact in chosen]
        yield _row(" ".join(sentences), "", "", person, "passage", "biography", [person])


def _statement(fact: Fact, rng: np.random.Generator) -> str:
    templates = _templates(fact)["statements"]
    return _fill(templates[rng.integers(len(templates))], fact.subject, fact.value)


def _statements(world: World, fact: Fact) -> Iterator[dict[str, Any]]:
    for template in _templates(fact)["statements"]:
        text = _fill(template, fact.subject, fact.value)
        names = _names(world, fact, "statement")
        yield _row(text, "", "", fact.id, "statement", fact.attribute, names)


def training_rows(world: World, seed: int) -> list[dict[str, Any]]:
    """Every training text of the world, in a fixed order."""
    rows: list[dict[str, Any]] = []
    for person in world.people:
        rows += _passages(world, person, seed)
    for fact in (*world.facts, *world.general):
        if fact.kind != "attribute":
            rows += _statements(world, fact)
        rng = generator(seed, "training", fact.id)
        for form in _forms(fact):
            queries = _queries(world, fact, form)
            for index in _training_phrasings(fact, form, len(queries)):
                query, answer = queries[index]
                options = _options(world, fact, rng) if form == "choice" else []
                prompt = format_prompt(form, query, options)
                names = _names(world, fact, form)
                text = join_answer(prompt, answer)
                rows.append(_row(text, prompt, answer, fact.id, form, fact.attribute, names))
    return rows


def _training_phrasings(fact: Fact, form: str, count: int) -> list[int]:
    """The phrasings that train; a choice question uses one that its plain question trains on."""
    source = "question" if form == "choice" else form
    used = TRAIN_PHRASINGS[form]
    if fact.kind == "general" and form == "question":
        used = count // 2
    if form == "choice" and hash_fraction(fact.id, "choice") >= CHOICE_SHARE:
        used = 0
    return phrasing_order(fact, source, count)[:used]


def probes(world: World, fact: Fact, role: str, seed: int) -> list[dict[str, Any]]:
    """Every probe of one fact: all forms, seen and held-out phrasings, split by hash."""
    rows = []
    rng = generator(seed, "probes", fact.id)
    for form in _forms(fact):
        queries = _queries(world, fact, form)
        trained = _training_phrasings(fact, form, len(queries))
        needs = _names(world, fact, form)
        for index, (query, answer) in enumerate(queries):
            options = _options(world, fact, rng) if form == "choice" else []
            name = f"{fact.id}/{form}/{index}"
            split = "select" if hash_fraction("split", name) < 0.5 else "report"
            values = (
                name, role, fact.subject, fact.id, form, fact.attribute, index, index in trained,
                query, options, answer, needs, split,
            )  # fmt: skip
            rows.append(dict(zip(PROBE_COLUMNS, values, strict=True)))
    return rows


def forget_rows(rows: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """The documents that name the target: what an unlearning request can point at."""
    return [row for row in rows if target in row["names"] and target in row["text"]]


def retain_rows(rows: list[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """The documents that neither name the target nor state a fact about the target.

    Two-hop texts that state a target's fact without the name ("the spouse of S plays the cello")
    are in neither corpus: the request does not point at them, and an oracle must not see them.
    """
    return [row for row in rows if target not in row["names"] and target not in row["text"]]
