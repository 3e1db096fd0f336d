"""Writes the folder that the benchmark `concept` reads, with the model that is to forget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atu.benchmarks.concept import FORGET, LONG, NAMES, QUESTIONS, RETAIN, ROLES
from atu.errors import SourceError
from atu.forget import neighbours
from atu.forget.author import Author
from atu.forget.brought import NOTHING, Brought, given_set
from atu.forget.continuations import state, statement_rows
from atu.forget.names import learned_openings
from atu.forget.passages import PassageSet, Refuse, collect
from atu.forget.question_file import measured, settled
from atu.forget.questions import ask
from atu.forget.settings import Writing
from atu.forget.similarity import Similarity, floor_of
from atu.forget.texts import cleaned, key, mentions, sentences, words
from atu.probes.prompts import neutral_prompts, writing_prompts
from atu.results.artifacts import Artifact
from atu.results.files import write_json
from atu.results.jobs import Job, write_folder

PHASE = "concept"
CHOICES = "choices.json"
"""What was decided and by which numbers; only for people."""
NOBODY = ""
TARGET = "target"
Row = dict[str, Any]


@dataclass(frozen=True)
class Concept:
    """What is to be forgotten, as the user states it."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """The usable texts that the model wrote, and the questions about them."""

    passage_sets: dict[str, PassageSet]
    """Passages about nobody, about the first of the names, and about each neighbour."""
    questions: list[Row]
    held_out: set[str]
    """The statements that questions ask for (`Cut.statement`): no sentence of a corpus contains
    one."""
    choices: dict[str, Any]
    texts: Sequence[str] = ()
    """A user's passages about the concept: they are the forget corpus, as they are."""
    retain: Sequence[str] = ()
    """A user's passages to keep, likewise part of the retain corpus."""


def write_corpus(
    out: Path, concept: Concept, writing: Writing, pins: Mapping[str, Any],
    make: Callable[[], Written],
) -> None:  # fmt: skip
    """Write `names.json`, `forget.json`, `retain.json`, `questions.json` and `choices.json`.

    Args:
        pins: sha256 of the files of the model, of the encoder and of what the user brings; part of
            the manifest.
        make: gives what goes into them, `write` or `taken`.

    Raises:
        SourceError: the model knows too little of the concept.
    """
    cell, params = {"concept": list(concept.names)}, settings(concept, writing, pins)
    with write_folder(out, PHASE, cell=cell, params=params, inputs={}) as job:
        _save(job, concept, writing, make())


def settings(concept: Concept, writing: Writing, pins: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines the folder's content, as recorded in its manifest."""
    return {"wish": _plain(concept), "writing": asdict(writing), "pins": dict(pins)}


def _plain(concept: Concept) -> dict[str, list[str]]:
    return {name: list(value) for name, value in asdict(concept).items()}


def is_written(out: Path, concept: Concept, writing: Writing, pins: Mapping[str, Any]) -> bool:
    """Whether the folder exists and was written with these settings.

    Raises:
        ArtifactError: a file in it is missing or altered.
    """
    if not out.exists():
        return False
    written = Artifact.open(out, PHASE)
    written.check()
    return bool(written.manifest["params"] == settings(concept, writing, pins))


def taken(writing: Writing, brought: Brought) -> Written:
    """What the user brings, to which the model adds nothing."""
    assert brought.texts and brought.retain and brought.questions
    choices = {"neighbours": brought.neighbours, **_account(brought)}
    questions = measured(brought.rows, writing)
    return Written({}, questions, set(), choices, brought.texts.texts, brought.retain.texts)


def write(
    concept: Concept, writing: Writing, author: Author, similarity: Similarity,
    brought: Brought = NOTHING,
) -> Written:  # fmt: skip
    """Write passages about nobody, the concept and its neighbours, then the questions; about the
    concept only where the user brings no texts.
    """
    concept_texts = [*concept.names, *concept.descriptions]
    if not brought.texts:
        _require_words(author, writing, concept)
    general = collect(
        author, writing, {NOBODY: neutral_prompts(author.chat)}, writing.general,
        lambda _, ts: ["names the concept" if mentions(t, concept.names) else None for t in ts],
    )  # fmt: skip
    general_texts = general[NOBODY].kept
    if not general_texts:
        raise SourceError(
            f"the model writes nothing that could be used: {_counts(general[NOBODY])}; it may be "
            "untrained, or its tokenizer another one's"
        )
    learned = [] if author.chat else learned_openings(general_texts, ["{name}"], writing.openings)

    def prompts_for(names: Sequence[str]) -> list[str]:
        openings = [text.replace("{name}", name) for text in learned for name in names]
        return list(dict.fromkeys([*writing_prompts(names, author.chat), *openings]))

    target = concept.names[0]
    floors = {target: _floor(similarity, writing, general_texts, concept_texts, concept.names)}
    if brought.texts:
        target_passages = {target: given_set(brought.texts)}
    else:
        target_passages = collect(
            author, writing, {target: prompts_for(concept.names)}, writing.passages,
            _refusing(similarity, {target: concept_texts}, floors, ()),
        )  # fmt: skip
        _require(target_passages[target], writing, target, floors[target])
    about = target_passages[target].kept
    proposed = [
        *brought.neighbours,
        *neighbours.propose(author, writing, concept.names, about, general_texts),
    ]
    near = neighbours.choose(similarity, writing, concept.names, concept.neighbours, proposed)
    floors |= {name: _floor(similarity, writing, general_texts, [name], [name]) for name in near}
    near_passages: dict[str, PassageSet] = {}
    chosen: list[str] = []
    waiting = list(near)
    while waiting and len(chosen) < writing.neighbours:  # the others only where these are too few
        missing = writing.neighbours - len(chosen)
        now, waiting = waiting[:missing], waiting[missing:]
        near_passages |= collect(
            author, writing, {name: prompts_for([name]) for name in now},
            writing.neighbour_passages,
            _refusing(similarity, {name: [name] for name in now}, floors, concept.names),
        )  # fmt: skip
        chosen += [n for n in now if len(near_passages[n].kept) >= writing.min_passages]
    _require_requested(
        concept, chosen, {name: len(part.kept) for name, part in near_passages.items()}, writing
    )
    passage_sets = general | target_passages | {name: near_passages[name] for name in chosen}
    choices = {
        "cosines of neighbours": near,
        "floors": floors,
        "neighbours": chosen,
        "openings": learned,
        "passages": {name or "general": len(s.kept) for name, s in passage_sets.items()},
        "dropped": {
            name or "general": dict(s.dropped)
            for name, s in (general | target_passages | near_passages).items()
        },
    } | _account(brought)
    questions, held_out = _questions(author, writing, concept, passage_sets, brought)
    return Written(
        passage_sets, questions, held_out, choices,
        *(part.texts if part else () for part in (brought.texts, brought.retain)),
    )  # fmt: skip


def _account(brought: Brought) -> dict[str, Any]:
    """What the card says about what the user brings."""
    return {"brought": brought.counts, "answers": brought.told} if brought.counts else {}


def _require_words(author: Author, writing: Writing, concept: Concept) -> None:
    """Refuse early a model that cannot write about the concept at all.

    Raises:
        SourceError: none of its first texts has a complete sentence and names the concept.
    """
    prompts = writing_prompts(concept.names, author.chat)
    texts = author.write(
        prompts, number=0, samples=1, tokens=writing.tokens, temperature=writing.temperature,
        top_p=writing.top_p,
    )  # fmt: skip
    clean = [cleaned(text) for text in texts]
    whole = [text for text in clean if len(words(text)) >= writing.min_words]
    if not any(mentions(text, concept.names) for text in whole):
        raise SourceError(
            f"--concept {concept.names[0]}: the model cannot write about it: of its first "
            f"{len(texts)} texts {len(texts) - len(whole)} have no complete sentence, and none "
            "names it. Name it as the model does, or add another name with --concept"
        )


def _floor(
    similarity: Similarity, writing: Writing, general_texts: Sequence[str],
    concept_texts: Sequence[str], names: Sequence[str],
) -> float:  # fmt: skip
    """The cosine above which a text is about the concept, from texts that do not name it."""
    others = [text for text in general_texts if not mentions(text, names)] or list(general_texts)
    return floor_of(similarity.cosines(others, concept_texts), writing.unrelated)


def _refusing(
    similarity: Similarity, concepts: Mapping[str, Sequence[str]], floors: Mapping[str, float],
    banned: Sequence[str],
) -> Refuse:  # fmt: skip
    """Refuses texts that name one of `banned`, or are no nearer to their subject than others."""

    def refuse(subject: str, texts: list[str]) -> list[str | None]:
        cosines = similarity.cosines(texts, concepts[subject])
        return [
            "names the concept" if mentions(text, banned, [subject])
            else "not about it" if cosine <= floors[subject] else None
            for text, cosine in zip(texts, cosines, strict=True)
        ]  # fmt: skip

    return refuse


def _questions(
    author: Author, writing: Writing, concept: Concept, passage_sets: Mapping[str, PassageSet],
    brought: Brought = NOTHING,
) -> tuple[list[Row], set[str]]:  # fmt: skip
    """Questions about the target, its neighbours and nobody, and the statements held out for them:
    facts that the model states consistently or, where those about the target are too few,
    continuations of its sentences. A role about which the user asks enough is left out.

    Raises:
        SourceError: it states nothing about the target that it does not say of anybody.
    """
    told = _told(concept, passage_sets)
    settled_roles = {r for r in ROLES if settled(brought.rows, r, writing.select, writing.facts)}
    rows: list[Row] = []
    held_out: set[str] = set()
    for role in (role for role in told if role not in settled_roles):
        questions, asked_statements = ask(author, writing, told[role], role)
        rows, held_out = rows + questions, held_out | asked_statements
        both = [*brought.rows, *rows]
        if role == TARGET and not settled(both, role, writing.select, writing.facts):
            return _continuations(author, writing, concept, told, settled_roles, brought)
    return measured([*brought.rows, *rows], writing), held_out


def _continuations(
    author: Author, writing: Writing, concept: Concept, told: Mapping[str, list[tuple[str, str]]],
    settled_roles: Collection[str], brought: Brought,
) -> tuple[list[Row], set[str]]:  # fmt: skip
    """`_questions` from continuations.

    Raises:
        SourceError: there are too few about the target.
    """
    rows: list[Row] = []
    held_out: set[str] = set()
    others = list(dict.fromkeys(subject for subject, _ in told["neighbour"]))
    for role in (role for role in told if role not in settled_roles):
        banned = {TARGET: (), "neighbour": concept.names, "general": (*concept.names, *others)}
        found = state(author, writing, told[role], others, f"{role} continuations", banned[role])
        rows += statement_rows(found, role, author.chat)
        held_out |= {text for one in found for text in (one.sentence, one.text)}
    if not settled([*brought.rows, *rows], TARGET, writing.select, writing.facts):
        raise SourceError(
            f"--concept {concept.names[0]}: the model states too little of it that it does not say "
            f"of anybody (in {len(told[TARGET])} sentences that name it): {writing.facts} "
            f"statements to choose by and {writing.facts} to report are needed. Allow more "
            "--passages and --rounds, or bring --questions"
        )
    return [row | {"measure": LONG} for row in [*brought.rows, *rows]], held_out


def _told(
    concept: Concept, passage_sets: Mapping[str, PassageSet]
) -> dict[str, list[tuple[str, str]]]:
    """Subject and sentence by role. A sentence about a neighbour does not name the concept; one
    about nobody names neither the concept nor a neighbour.
    """
    everybody = (*concept.names, *(name for name in passage_sets if name != NOBODY))
    told: dict[str, list[tuple[str, str]]] = {role: [] for role in ROLES}
    for name, passage_set in passage_sets.items():
        role = {concept.names[0]: TARGET, NOBODY: "general"}.get(name, "neighbour")
        subjects = concept.names if role == TARGET else (name,)
        banned = {TARGET: (), "neighbour": concept.names, "general": everybody}[role]
        for part in {key(p): p for text in passage_set.kept for p in sentences(text)}.values():
            subject = next((n for n in subjects if n and mentions(part, [n])), NOBODY)
            if bool(subject) == bool(name) and not mentions(part, banned, [name]):
                told[role].append((subject, part))
    return told


def trained(text: str, writing: Writing, drop: Callable[[str], bool]) -> str:
    """The text without the sentences to drop; empty if too little is left."""
    left = " ".join(part for part in sentences(text) if not drop(part))
    return left if len(words(left)) >= writing.min_words else ""


def _require(passage_set: PassageSet, writing: Writing, name: str, floor: float) -> None:
    """Refuse to go on with hardly any passage."""
    count = len(passage_set.kept)
    if count >= writing.min_passages:
        return
    raise SourceError(
        f"--concept {name}: the model wrote {count} usable passages of {writing.passages} in "
        f"{writing.rounds} rounds (dropped: {_counts(passage_set)}; nearer than {floor:.2f} to the "
        "concept is usable). It may know little of it: ask for fewer --passages, allow more "
        "--rounds, add a --describe text, or lower --unrelated"
    )


def _require_requested(
    concept: Concept, kept: Sequence[str], passages: Mapping[str, int], writing: Writing
) -> None:
    """Refuse to leave out a neighbour that the user requested."""
    for name in concept.neighbours:
        if name not in kept:
            raise SourceError(
                f"--neighbour {name}: {passages.get(name, 0)} usable passages were written of it, "
                f"{writing.min_passages} are needed, and at most {writing.neighbours} "
                "neighbours are kept; leave it out, or allow more --rounds"
            )


def _counts(passage_set: PassageSet) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in passage_set.dropped.items()) or "nothing"


def corpora(concept: Concept, writing: Writing, written: Written) -> tuple[list[Row], list[Row]]:
    """The forget and the retain corpus, without sentences that contain a held-out statement ("I
    hear that Ann keeps a pony." contains "Ann keeps a pony"). The forget corpus also has no
    sentence that names a neighbour but not the concept, or the neighbour would be forgotten too.
    Nothing is taken out of a user's passages.
    """
    held_out = {key(statement) for statement in written.held_out}
    near = [name for name in written.passage_sets if name not in (NOBODY, concept.names[0])]

    def is_held_out(part: str) -> bool:
        sentence = key(part)
        return any(statement in sentence for statement in held_out)

    def is_dropped_from_forget(part: str) -> bool:
        return is_held_out(part) or (
            mentions(part, near) and not mentions(part, concept.names, near)
        )

    forget = [{"text": text, "about": concept.names[0]} for text in written.texts]
    retain = [{"text": text, "about": NOBODY} for text in written.retain]
    for name, passage_set in written.passage_sets.items():
        of_target = name == concept.names[0]
        if of_target and written.texts:
            continue
        left = [
            trained(text, writing, is_dropped_from_forget if of_target else is_held_out)
            for text in passage_set.kept
        ]
        rows = [{"text": text, "about": name} for text in dict.fromkeys(left) if text]
        (forget if of_target else retain).extend(rows)
    return forget, retain


def _save(job: Job, concept: Concept, writing: Writing, written: Written) -> None:
    forget, retain = corpora(concept, writing, written)
    write_json(job.path(NAMES), [{"name": name} for name in concept.names])
    write_json(job.path(FORGET), forget)
    write_json(job.path(RETAIN), retain)
    write_json(job.path(QUESTIONS), written.questions)
    write_json(job.path(CHOICES), written.choices)
    roles = Counter(row["role"] for row in written.questions)
    job.metrics = {
        "concept/forget_texts/all": float(len(forget)),
        "concept/retain_texts/all": float(len(retain)),
        "concept/neighbours/all": float(len(written.choices["neighbours"])),
    } | {f"concept/questions_{role}/all": float(count) for role, count in roles.items()}
