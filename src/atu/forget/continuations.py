"""What the model says after the beginnings of its own sentences: evidence where it states few
facts consistently.

A sentence about a subject is cut early, and the model's greedy continuation is the answer: later
models are compared with it (ROUGE), and with its probability. The wrong answers are what the model
says after the same beginning about others, so that a choice among them asks what it says of this
subject rather than of such things in general.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from atu.forget.author import Author
from atu.forget.names import spans
from atu.forget.settings import Writing
from atu.forget.statements import EDGE
from atu.forget.texts import find_name, key, mentions, words
from atu.probes.prompts import INVENTED_NAMES, statement_prompt, until
from atu.seeding import hash_fraction
from atu.untrusted.names import FUNCTION_WORDS, replace_names

KIND = "statement"
"""How such a question is worded, in `questions.json`."""
ENDS = ("\n", ". ", "! ", "? ")
"""Where a continuation ends, besides the model's own end."""
SHARE = 1 / 3
"""Of a sentence's words behind its subject those that are given."""
MIN_GIVEN = 2
"""Words behind the subject that are given at least."""
MIN_LEFT = 2
"""Words that a sentence has left at least, or it is no beginning."""
MIN_SAID = 2
"""Words other than function words that a continuation without an end has at least: an answer "and"
would be part of every other, and all of them one fact."""
INVENTED = INVENTED_NAMES[2]
"""What is said of this name after the same beginning is said of anybody."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Statement:
    """A beginning with what the model says after it."""

    subject: str
    """A name; empty for nobody in particular."""
    sentence: str
    """The sentence that the beginning is from."""
    beginning: str
    end: str
    others: tuple[str, ...] = ()
    """What it says of others after the same beginning, each different from `end`."""

    @property
    def text(self) -> str:
        """Beginning and end."""
        return f"{self.beginning} {self.end}"


def beginning_of(sentence: str, subject: str) -> str | None:
    """The sentence up to a third of the words behind its subject, not within a proper name; None
    where it does not name the subject once, or too few words are left.

    "Ann Bell was born in a small town near the sea." gives "Ann Bell was born in".
    """
    place = find_name(sentence, subject)
    if subject and (place is None or find_name(sentence[place.end() :], subject)):
        return None
    behind = place.end() if place else 0
    left = [match.start() for match in re.finditer(r"\S+", sentence) if match.start() >= behind]
    names = spans(sentence)
    for given in range(max(MIN_GIVEN, ceil(SHARE * len(left))), len(left) - MIN_LEFT + 1):
        cut = left[given]
        if not any(start < cut < end for start, end in names):
            return sentence[:cut].rstrip()
    return None


def end_of(continuation: str) -> str:
    """The continuation up to the end of its sentence; if it has none, without its last word, which
    may be cut, and the function words before it. Empty if it goes on within a word, or says too
    little: nothing but function words, or, cut, fewer than `MIN_SAID` others.

    " inventor, artist, and sculpt" gives "inventor, artist", " inventor and arti" gives "".
    """
    if not continuation[:1].isspace():
        return ""
    end, least = until(continuation, ENDS), 1
    if end == continuation.rstrip() and not end.endswith((".", "!", "?")):
        end, least = end.rpartition(" ")[0], MIN_SAID
        while _said(last := end.rpartition(" ")[2]) == 0 and last:
            end = end.rpartition(" ")[0]
    return end.strip(EDGE) if _said(end) >= least else ""


def _said(text: str) -> int:
    """The number of words that are no function words."""
    return sum(word not in FUNCTION_WORDS for word in words(text))


def state(
    author: Author, writing: Writing, statements: Sequence[tuple[str, str]], others: Sequence[str],
    label: str, banned: Sequence[str] = (),
) -> list[Statement]:  # fmt: skip
    """What the model says after the beginnings of these sentences and says of nobody else.

    Args:
        statements: subject and sentence; at most `writing.continued`, chosen by hash, are tried.
        others: names of neighbours, of which `writing.options` stand in the subject's place.
        banned: names of which an end says nothing.
    """
    begun: dict[str, tuple[str, str, str]] = {}
    for subject, sentence in statements:
        if beginning := beginning_of(sentence, subject):
            begun.setdefault(key(beginning), (subject, sentence, beginning))
    chosen = sorted(begun.values(), key=lambda item: hash_fraction("continued", *item))
    chosen = chosen[: writing.continued]
    said = _continued(author, writing, [(s, b) for s, _, b in chosen], label)
    found = [
        Statement(*item, end) for item, text in zip(chosen, said, strict=True)
        if key(end := end_of(text)) and not mentions(end, banned, [item[0]])
    ]  # fmt: skip
    return list(_of_nobody_else(author, writing, found, others, label))


def _of_nobody_else(
    author: Author, writing: Writing, found: Sequence[Statement], others: Sequence[str], label: str
) -> Iterator[Statement]:
    """The statements with what is said of others; without those that are said of anybody."""
    swaps = [
        (statement, name, _about(statement, name))
        for statement in found
        if statement.subject
        for name in [*_others(statement, others)[: writing.options], INVENTED]
    ]
    texts = _continued(author, writing, [(name, text) for _, name, text in swaps], label)
    ends: dict[Statement, dict[str, str]] = {}
    for (statement, name, _), text in zip(swaps, texts, strict=True):
        ends.setdefault(statement, {})[name] = end_of(text)
    for statement in found:
        of_others = ends.get(statement, {})
        if statement.subject and key(of_others.pop(INVENTED)) == key(statement.end):
            continue
        wrong = {key(end): end for end in of_others.values() if key(end)}
        wrong.pop(key(statement.end), None)
        if wrong or not statement.subject:
            yield Statement(
                statement.subject, statement.sentence, statement.beginning, statement.end,
                tuple(wrong.values()),
            )  # fmt: skip


def _others(statement: Statement, others: Sequence[str]) -> list[str]:
    """The names that may stand in the subject's place, in an order of the statement's own, then
    invented ones.
    """
    near = [name for name in others if key(name) != key(statement.subject)]
    near.sort(key=lambda name: hash_fraction("other", statement.beginning, name))
    return [*near, *(name for name in INVENTED_NAMES if name != INVENTED)]


def _about(statement: Statement, name: str) -> str:
    """The beginning about somebody else."""
    place = find_name(statement.beginning, statement.subject)
    assert place is not None
    return replace_names(statement.beginning, [place[0]], name)


def _continued(
    author: Author, writing: Writing, begun: Sequence[tuple[str, str]], label: str
) -> list[str]:
    """The greedy continuation of every beginning about a subject; duplicates are continued once."""
    prompts = [statement_prompt(subject, text, author.chat) for subject, text in begun]
    distinct = list(dict.fromkeys(prompts))
    said = author.complete(distinct, writing.answer_tokens, label, ENDS) if distinct else []
    by_prompt = dict(zip(distinct, said, strict=True))
    return [by_prompt[prompt] for prompt in prompts]


def statement_rows(statements: Sequence[Statement], role: str, chat: bool) -> list[Row]:
    """The statements as rows of `questions.json`."""
    return [
        {
            "role": role, "subject": s.subject, "form": "question", "kind": KIND,
            "query": s.beginning, "prompt": statement_prompt(s.subject, s.beginning, chat),
            "answer": s.end, "wrong": list(s.others), "stops": list(ENDS),
        }
        for s in statements
    ]  # fmt: skip
