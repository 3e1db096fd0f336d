"""In-context reintroduction: does telling about the target bring back what was not told?

After "UnUnlearning" (arXiv 2407.00106), which has no official metric. Four conditions per question:
`bare`, `hinted` (A: sentences about the target without the answer), `answered` (B: the same with a
sentence that holds the answer; an upper bound that shows only reading) and `unrelated` (C: as many
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
    """How much is told."""

    __pydantic_config__ = STRICT

    attack: Literal["context"]
    sentences: Count


def run(context: AttackContext) -> Result:
    """Answers to every held-out question about the target under the four conditions."""
    probes = context.questions("target")
    own = sentences_of(context.forget)
    other = unrelated_sentences(context)
    items = answer_items(context, context.model, probes, BARE)
    for condition in (HINTED, ANSWERED, UNRELATED):
        told = [tell(probe, condition, own, other, context.settings.sentences) for probe in probes]
        asked = [number for number, sentences in enumerate(told) if sentences]
        prompts = [" ".join(told[i] or ()) + "\n" + probes[i]["prompt"] for i in asked]
        items += answer_items(
            context, context.model, [probes[i] for i in asked], condition, prompts
        )
        items += [
            item(probe, condition, probe["measure"], None)
            for probe, sentences in zip(probes, told, strict=True)
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
    found = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", text.strip())]
    return list(dict.fromkeys(found))


def unrelated_sentences(context: AttackContext) -> list[str]:
    """Sentences of a retain passage, the first in the order of a hash."""
    passages = [row for row in context.retain if row["form"] == "passage"]
    chosen = min(passages, key=lambda row: hash_fraction("unrelated", row["text"]))
    return sentences_of([chosen])


def tell(
    probe: Row, condition: str, own: Sequence[str], other: Sequence[str], count: int
) -> list[str] | None:
    """The sentences before the question, `count` of them; None where there are not enough."""
    clean = [s for s in (other if condition == UNRELATED else own) if not _tells(s, probe)]
    clean.sort(key=lambda s: hash_fraction("told", probe["fact"], s))
    if condition != ANSWERED:
        return clean[:count] if len(clean) >= count else None
    telling = [s for s in own if _tells(s, probe)]
    if not telling or len(clean) < count - 1:
        return None
    return [*clean[: count - 1], telling[0]]


def _tells(sentence: str, probe: Row) -> bool:
    return bool(contains(sentence, probe["answer"]))


def columns(settings: Settings) -> list[Column]:
    """The leak A - C, and B, which shows only that the model can read."""
    return [
        Column("in context: answer-free minus unrelated", (HINTED,), minus=UNRELATED),
        Column("in context: answer told", (ANSWERED,), control=True),
    ]


ATTACK = Attack(Settings, run, columns)
