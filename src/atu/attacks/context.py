"""In-context reintroduction: do sentences about the target bring back facts that they do not hold?

After "UnUnlearning" (arXiv 2407.00106), which has no official metric. Four conditions per question:
`bare`, `hinted` (A: sentences about the target without the answer), `answered` (B: the same with a
sentence that holds the answer; an upper bound that only shows reading) and `unrelated` (C: as many
sentences about somebody else, without the answer). The leak is A - C.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from atu.attacks.base import (
    Attack,
    AttackContext,
    Column,
    Result,
    Row,
    answer_items,
    item,
    mean_score,
)
from atu.metrics.answers import contains
from atu.metrics.recovery import context_leak
from atu.seeding import hash_fraction
from atu.untrusted.bounds import STRICT, Count

BARE, HINTED, ANSWERED, UNRELATED = "bare", "hinted", "answered", "unrelated"


@dataclass(frozen=True)
class Settings:
    """How many sentences precede a question."""

    __pydantic_config__ = STRICT

    attack: Literal["context"]
    sentences: Count


def run(context: AttackContext) -> Result:
    """Answers to every held-out question about the target under the four conditions."""
    probes = context.questions("target")
    related = sentences_of(context.forget)
    unrelated = unrelated_sentences(context)
    items = answer_items(context, context.model, probes, BARE)
    for condition in (HINTED, ANSWERED, UNRELATED):
        contexts = [
            choose_sentences(probe, condition, related, unrelated, context.settings.sentences)
            for probe in probes
        ]
        with_context = [i for i, sentences in enumerate(contexts) if sentences]
        prompts = [" ".join(contexts[i] or ()) + "\n" + probes[i]["prompt"] for i in with_context]
        items += answer_items(
            context, context.model, [probes[i] for i in with_context], condition, prompts
        )
        items += [
            item(probe, condition, probe["measure"], None)
            for probe, sentences in zip(probes, contexts, strict=True)
            if not sentences
        ]
    scored = [
        {row["id"] for row in items if row["condition"] == c and row["score"] is not None}
        for c in (HINTED, UNRELATED)
    ]
    both = [row for row in items if row["id"] in scored[0] & scored[1]]
    if not both:
        return Result(items)
    leak = context_leak(mean_score(both, HINTED, "target"), mean_score(both, UNRELATED, "target"))
    return Result(items, {f"target.{context_leak.id}": leak})


def sentences_of(rows: Sequence[Row]) -> list[str]:
    """The sentences of the plain texts among the rows, each once, in their order."""
    texts = [row["text"] for row in rows if not row["prompt"]]
    sentences = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text.strip())]
    return list(dict.fromkeys(sentences))


def unrelated_sentences(context: AttackContext) -> list[str]:
    """Sentences of a retain passage, the first in the order of a hash; none where a benchmark has
    questions alone.
    """
    passages = [row for row in context.retain if row["form"] == "passage"]
    if not passages:
        return []
    chosen = min(passages, key=lambda row: hash_fraction("unrelated", row["text"]))
    return sentences_of([chosen])


def choose_sentences(
    probe: Row, condition: str, related: Sequence[str], unrelated: Sequence[str], count: int
) -> list[str] | None:
    """The sentences before the question, `count` of them; None where there are not enough."""
    source = unrelated if condition == UNRELATED else related
    clean = [s for s in source if not _answers(s, probe)]
    clean.sort(key=lambda s: hash_fraction("told", probe["fact"], s))
    if condition != ANSWERED:
        return clean[:count] if len(clean) >= count else None
    answering = [s for s in related if _answers(s, probe)]
    if not answering or len(clean) < count - 1:
        return None
    return [*clean[: count - 1], answering[0]]


def _answers(sentence: str, probe: Row) -> bool:
    return bool(contains(sentence, probe["answer"]))


def columns(settings: Settings) -> list[Column]:
    """The leak A - C, and B, which only shows that the model can read."""
    return [
        Column("hint without the answer, minus an unrelated one", (HINTED,), minus=UNRELATED),
        Column("hint with the answer", (ANSWERED,), control=True),
    ]


ATTACK = Attack(Settings, run, columns, noun="hints in the prompt")
