"""What a user brings to `atu forget`: texts to forget, texts to keep, questions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from atu.benchmarks.base import passages
from atu.errors import SourceError, shown
from atu.forget.documents import Documents, account, read_documents
from atu.forget.passages import PassageSet
from atu.forget.question_file import (
    OPTION,
    QuestionFile,
    is_long,
    question_rows,
    read_questions,
    settled,
)
from atu.forget.settings import Writing
from atu.forget.texts import Distinct, mentions
from atu.metrics.answers import contains
from atu.probes.prompts import join_answer

TEXTS, RETAIN = "--texts", "--retain"
TAIL = 4
"""A last passage of fewer words joins the one before it."""
SPARE = 32
"""Tokens of the context for a chat template."""
MOST_TOKENS = 256
"""Of a passage. Texts without spaces between words, and lists of numbers, have more per word."""


@dataclass(frozen=True)
class Places:
    """Where it is, as the user names it."""

    texts: tuple[Path, ...] = ()
    retain: tuple[Path, ...] = ()
    questions: Path | None = None


NOWHERE = Places()


@dataclass(frozen=True)
class Passages:
    """Documents in passages."""

    option: str
    texts: tuple[str, ...]
    digests: list[list[str]]
    counts: dict[str, int]
    """Of files, documents and passages, and of what was left out, by its reason."""

    def fitted(self, size: Callable[[str], int], context: int | None) -> Passages:
        """The passages, those with too many tokens in parts."""
        most = min(context or MOST_TOKENS, MOST_TOKENS)
        texts = tuple(part for text in self.texts for part in halves(text, size, most))
        return replace(self, texts=texts, counts=self.counts | {"passages": len(texts)})


@dataclass(frozen=True)
class Brought:
    """What was read of the places; None where the user brings nothing."""

    texts: Passages | None = None
    retain: Passages | None = None
    questions: QuestionFile | None = None

    @property
    def digests(self) -> dict[str, list[list[str]]]:
        """The sha256 of every file, by option: they decide whether a corpus is written again."""
        return {option: part.digests for option, part in self._parts()}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """What was read and left out, by option."""
        return {option: part.counts for option, part in self._parts()}

    def lines(self) -> Iterator[str]:
        """One line for people per option."""
        for option, counts in self.counts.items():
            yield f"{option}: {account(counts)}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The questions as rows of `questions.json`."""
        return question_rows(self.questions.questions) if self.questions else []

    @property
    def neighbours(self) -> list[str]:
        """Whom questions are about beside the concept."""
        asked = self.questions.questions if self.questions else ()
        return list(dict.fromkeys(q.about for q in asked if q.role == "neighbour"))

    @property
    def told(self) -> dict[str, int]:
        """Of the questions about the concept, how many there are, and of how many the answer stands
        in the texts.
        """
        asked = self.questions.questions if self.questions else ()
        answers = [question.answer for question in asked if question.role == "target"]
        texts = self.texts.texts if self.texts else ()
        inside = sum(any(contains(text, answer) for text in texts) for answer in answers)
        return {"asked": len(answers), "in the texts": inside}

    def _parts(self) -> Iterator[tuple[str, Passages | QuestionFile]]:
        named = {TEXTS: self.texts, RETAIN: self.retain, OPTION: self.questions}
        yield from ((option, part) for option, part in named.items() if part)

    def has_long_answers(self, writing: Writing) -> bool:
        """Whether an answer to a question is more than a name."""
        asked = self.questions.questions if self.questions else ()
        return any(is_long(question.answer, writing) for question in asked)

    def fitted(self, size: Callable[[str], int], context: int | None) -> Brought:
        """With passages that fit the model.

        Args:
            size: tokens of a text.
            context: tokens that the model reads at most.

        Raises:
            SourceError: a question and its answer do not.
        """
        most = inf if context is None else context
        for row in self.rows:
            count = size(join_answer(row["prompt"], row["answer"]))
            if count + SPARE > most:
                raise SourceError(
                    f"{OPTION}: {shown(row['query'])} has {count} tokens with prompt and answer, "
                    f"{context} are the model's context; shorten it, or leave it out"
                )
        return replace(
            self,
            texts=self.texts and self.texts.fitted(size, context),
            retain=self.retain and self.retain.fitted(size, context),
        )


NOTHING = Brought()


def given_set(part: Passages) -> PassageSet:
    """A user's passages in place of those that the model would write."""
    return PassageSet(Distinct(1.0, list(part.texts)), len(part.texts))


def read_brought(places: Places, names: Sequence[str], writing: Writing) -> Brought:
    """Read all of it, before any work.

    Args:
        names: the concept's.

    Raises:
        SourceError, ArtifactError: as `read_documents` and `read_questions`, or nothing is left to
            keep.
    """
    texts = retain = None
    if places.texts:
        texts = _cut(TEXTS, read_documents(TEXTS, places.texts), writing, lambda _: None)
    if places.retain:
        forgotten = {_same(text) for text in texts.texts} if texts else set()

        def refuse(text: str) -> str | None:
            if _same(text) in forgotten:
                return f"also in {TEXTS}"
            return "name the concept" if mentions(text, names) else None

        retain = _cut(RETAIN, read_documents(RETAIN, places.retain), writing, refuse)
        if not retain.texts:
            raise SourceError(
                f"{RETAIN} {places.retain[0]}: no passage is left "
                f"({next(Brought(retain=retain).lines())}); name texts about other things"
            )
    questions = read_questions(places.questions, names) if places.questions else None
    brought = Brought(texts, retain, questions)
    if not writing.writes:
        _require_all(brought, writing)
    return brought


def unread(brought: Brought, values: Mapping[str, Any], method: str) -> Iterator[str]:
    """What of the texts training cannot reach with these parameters, and what to change."""
    unlearn = values["unlearn"]["methods"][method]
    steps, size, embedded = unlearn["steps"], unlearn["batch_size"], values["embed"]["retain_texts"]
    if brought.texts and len(brought.texts.texts) > steps * size:
        yield (
            f"{TEXTS}: {len(brought.texts.texts)} passages, of which {steps} steps of {size} read "
            f"{steps * size}; for all of them raise unlearn.methods.{method}.steps in params.yaml"
        )
    if brought.retain and len(brought.retain.texts) > embedded:
        yield (
            f"{RETAIN}: {len(brought.retain.texts)} passages, of which {embedded} are aligned on; "
            "for all of them raise embed.retain_texts in params.yaml"
        )


def _require_all(brought: Brought, writing: Writing) -> None:
    """Refuse `--no-writing` where the model would have to write something."""
    parts = {TEXTS: brought.texts, RETAIN: brought.retain, OPTION: brought.questions}
    missing = [option for option, part in parts.items() if part is None]
    if missing:
        raise SourceError(f"--no-writing: nothing is there of {', '.join(missing)}; add it, or let "
                          "the model write")  # fmt: skip
    if not settled(brought.rows, "target", writing.select, writing.facts):
        raise SourceError(
            f"--no-writing: {OPTION} has too few answers about the concept: {writing.facts} "
            "different ones are needed to choose the checkpoint and as many to report, and a hash "
            "of the answer says which does what; add questions, or let the model write"
        )


def _cut(
    option: str, documents: Documents, writing: Writing, refuse: Callable[[str], str | None]
) -> Passages:
    kept: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for text in documents.texts:
        for part in parts_of(text, writing.passage_words):
            reason = refuse(part) or ("passages twice" if _same(part) in kept else None)
            if reason:
                dropped[reason] += 1
            else:
                kept[_same(part)] = part
    counts = documents.counts | {"passages": len(kept)} | dropped
    return Passages(option, tuple(kept.values()), documents.digests, counts)


def _same(text: str) -> str:
    """Equal for passages that differ in white space alone."""
    return " ".join(text.split())


def parts_of(text: str, words: int) -> list[str]:
    """The passages of a document, of at most `words` words and some: as long as each other, and a
    last one of fewer than `TAIL` words joins the one before it.
    """
    count = len(text.split())
    even = ceil(count / ceil(count / words))
    parts = passages(text, even)
    if len(parts) > 1 and len(parts[-1].split()) < min(TAIL, even):
        parts[-2:] = [f"{parts[-2]} {parts[-1]}"]
    return parts


def halves(text: str, size: Callable[[str], int], most: int) -> list[str]:
    """A text in parts of at most `most` tokens: cut in two, at white space near the middle where
    there is some, and again.
    """
    if size(text) <= most or len(text) < 2:
        return [text]
    middle = len(text) // 2
    spaces = [m.start() for m in re.finditer(r"\s", text) if 0 < m.start() < len(text) - 1]
    near = min(spaces, key=lambda at: abs(at - middle), default=middle)
    cut = near if abs(near - middle) < middle / 2 else middle
    parts = (text[:cut].strip(), text[cut:].strip())
    return [part for half in parts if half for part in halves(half, size, most)]
