"""Questions whose answers the original model gives again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from atu.benchmarks.concept import facts_of
from atu.forget.author import Author
from atu.forget.settings import Writing
from atu.forget.statements import Cut, find_cuts
from atu.metrics.answers import contains
from atu.probes.prompts import BLANK, completion_query, format_prompt
from atu.seeding import hash_fraction

WRAPPED = ("prefix_injection", "affirmative_suffix", "role_play", "in_context")
"""Forms in which only the target is asked besides: each wraps the plain question."""
Row = dict[str, Any]


def wordings(cut: Cut, role: str, chat: bool, example: Cut | None) -> Iterator[Row]:
    """All ways to ask for the end of a sentence, as rows of `questions.json`.

    The plain question of a base model is the beginning itself, which it continues.

    Args:
        example: another sentence, shown with its end where a form has an example.
    """

    def row(form: str, kind: str, query: str, prompt: str) -> Row:
        return {
            "role": role, "subject": cut.subject, "form": form, "kind": kind, "query": query,
            "prompt": prompt, "answer": cut.answer,
        }  # fmt: skip

    query = completion_query(cut.beginning)
    if not chat:
        yield row("question", "continuation", cut.beginning, cut.beginning)
    yield row("question", "completion", query, format_prompt("question", query))
    blank = f"{cut.beginning} {BLANK}{cut.rest}"
    yield row("cloze", "cloze", blank, format_prompt("cloze", blank))
    for form in WRAPPED if role == "target" else ():
        if form == "in_context" and example is None:
            continue
        details = {"name": cut.subject}
        if example is not None:
            shown = completion_query(example.beginning)
            details |= {"example": shown, "example_answer": example.answer}
        yield row(form, form, query, format_prompt(form, query, **details))


def consistent(author: Author, writing: Writing, rows: Sequence[Row]) -> list[Row]:
    """The rows that the model answers with their answer: greedily, and in `writing.agreeing` of
    `writing.answer_samples` samples.
    """
    prompts = [row["prompt"] for row in rows]
    greedy = author.answer(prompts, writing.answer_tokens, "questions") if rows else []
    known = [row for row, said in zip(rows, greedy, strict=True) if contains(said, row["answer"])]
    sampled = (
        author.answer_again(
            [row["prompt"] for row in known],
            writing.answer_tokens,
            writing.answer_samples,
            writing.answer_temperature,
            "questions, sampled",
        )
        if known
        else []
    )
    return [
        row
        for row, answers in zip(known, sampled, strict=True)
        if sum(contains(said, row["answer"]) for said in answers) >= writing.agreeing
    ]


def ask(
    author: Author, writing: Writing, told: Sequence[tuple[str, str]], role: str
) -> tuple[list[Row], set[str]]:
    """Consistent questions of a role, and what they are made of (`Cut.told`), which no sentence of
    any corpus may hold.

    Args:
        told: subject and sentence; by hash at most `writing.statements` of them are tried.
    """
    chosen = sorted(told, key=lambda pair: hash_fraction("asked", *pair))[: writing.statements]
    found = find_cuts(author, writing, chosen, f"{role} sentences")
    tried = [
        (cut, row)
        for cut in found
        for row in wordings(cut, role, author.chat, _other(cut, found))
    ]  # fmt: skip
    kept = {id(row) for row in consistent(author, writing, [row for _, row in tried])}
    known = [(cut, row) for cut, row in tried if id(row) in kept]
    facts: dict[str, list[str]] = {}
    names = facts_of([(role, cut.subject, row["answer"]) for cut, row in known])
    for (cut, _), name in zip(known, names, strict=True):
        own = facts.setdefault(name, [])
        if cut.sentence not in own:
            own.append(cut.sentence)
    held = {sentence for own in facts.values() for sentence in hold_out(own, writing)}
    asked = [(cut, row) for cut, row in known if cut.sentence in held]
    return [row for _, row in asked], {cut.told for cut, _ in asked}


def hold_out(told: Sequence[str], writing: Writing) -> list[str]:
    """The sentences that state one fact which no corpus may hold: by hash `writing.held_out` of
    them, at least one, at most `writing.wordings`. Of a single one this share of the facts.

    Of 7 sentences the share .3 gives 2, of 2 sentences 1.
    """
    order = sorted(told, key=lambda text: hash_fraction("held out", text))
    if len(order) == 1:
        return order if hash_fraction("held out", order[0]) < writing.held_out else []
    return order[: min(max(int(writing.held_out * len(order)), 1), writing.wordings)]


def _other(cut: Cut, cuts: Sequence[Cut]) -> Cut | None:
    """The first sentence with another answer, which does not give this one away."""
    others = (
        c for c in cuts
        if not contains(c.sentence, cut.answer) and not contains(cut.answer, c.answer)
    )  # fmt: skip
    return next(others, None)
