"""Questions that the original model answers consistently."""

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
"""Additional forms for the target alone: each wraps the plain question."""
Row = dict[str, Any]


def wordings(cut: Cut, role: str, chat: bool, example: Cut | None) -> Iterator[Row]:
    """All forms that ask for the end of a sentence, as rows of `questions.json`.

    For a base model the plain question is the beginning of the sentence, which it continues.

    Args:
        example: another sentence, for forms with an example.
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
    """The rows that the model answers correctly: greedily, and in `writing.agreeing` of
    `writing.answer_samples` samples.
    """
    prompts = [row["prompt"] for row in rows]
    greedy = author.answer(prompts, writing.answer_tokens, "questions") if rows else []
    known = [
        row for row, answer in zip(rows, greedy, strict=True) if contains(answer, row["answer"])
    ]
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
        if sum(contains(answer, row["answer"]) for answer in answers) >= writing.agreeing
    ]


def ask(
    author: Author, writing: Writing, statements: Sequence[tuple[str, str]], role: str
) -> tuple[list[Row], set[str]]:
    """Consistent questions of a role, and the statements they ask for (`Cut.statement`), which no
    sentence of a corpus may contain.

    Args:
        statements: subject and sentence; at most `writing.statements`, chosen by hash, are tried.
    """
    chosen = sorted(statements, key=lambda pair: hash_fraction("asked", *pair))[
        : writing.statements
    ]
    cuts = find_cuts(author, writing, chosen, f"{role} sentences")
    candidates = [
        (cut, row)
        for cut in cuts
        for row in wordings(cut, role, author.chat, _other(cut, cuts))
    ]  # fmt: skip
    consistent_ids = {
        id(row) for row in consistent(author, writing, [row for _, row in candidates])
    }
    known = [(cut, row) for cut, row in candidates if id(row) in consistent_ids]
    facts: dict[str, list[str]] = {}
    names = facts_of([(role, cut.subject, row["answer"]) for cut, row in known])
    for (cut, _), name in zip(known, names, strict=True):
        sentences = facts.setdefault(name, [])
        if cut.sentence not in sentences:
            sentences.append(cut.sentence)
    held_out = {
        sentence for sentences in facts.values() for sentence in hold_out(sentences, writing)
    }
    chosen_rows = [(cut, row) for cut, row in known if cut.sentence in held_out]
    return [row for _, row in chosen_rows], {cut.statement for cut, _ in chosen_rows}


def hold_out(sentences: Sequence[str], writing: Writing) -> list[str]:
    """The sentences of one fact to hold out of the corpora: the share `writing.held_out` by hash,
    at least one, at most `writing.wordings`. A single sentence is held out for this share of the
    facts.

    The share .3 of 7 sentences gives 2, of 2 sentences 1.
    """
    order = sorted(sentences, key=lambda text: hash_fraction("held out", text))
    if len(order) == 1:
        return order if hash_fraction("held out", order[0]) < writing.held_out else []
    return order[: min(max(int(writing.held_out * len(order)), 1), writing.wordings)]


def _other(cut: Cut, cuts: Sequence[Cut]) -> Cut | None:
    """The first sentence with another answer that does not give this one away."""
    others = (
        c for c in cuts
        if not contains(c.sentence, cut.answer) and not contains(cut.answer, c.answer)
    )  # fmt: skip
    return next(others, None)
