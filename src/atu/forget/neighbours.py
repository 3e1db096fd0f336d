"""Which things are near a concept without being it: proposed by the model, ranked by cosine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from atu.forget.author import Author
from atu.forget.names import counted, is_same, listed
from atu.forget.settings import Writing
from atu.forget.similarity import Judge
from atu.forget.texts import key
from atu.probes.prompts import alike_prompt

ASKED_TIMES = 2
"""A model asked for a list is asked for so many times the neighbours that are wanted."""
LIST_TOKENS = 200
HELD_IN = 2
"""Texts of a base model that must hold a name at least: what stands in one was made up once."""


def propose(
    author: Author,
    writing: Writing,
    names: Sequence[str],
    passages: Sequence[str],
    general: Sequence[str],
) -> list[str]:
    """Names of other things, those that belong together with the concept first: a chat model's own
    list; of a base model the names in its passages about the concept, then, if these are too few,
    in those about nothing in particular.
    """
    if author.chat:
        prompts = [alike_prompt(name, ASKED_TIMES * writing.neighbours) for name in names]
        answers = author.answer(prompts, LIST_TOKENS, "neighbours", one_line=False)
        return list({key(n): n for text in answers for n in listed(text, names)}.values())
    beside = _frequent(counted(passages, names))
    if len(beside) >= writing.neighbours:
        return beside
    return list(dict.fromkeys([*beside, *_frequent(counted(general, names))]))


def _frequent(found: Counter[str]) -> list[str]:
    return [name for name, count in found.items() if count >= HELD_IN]


def choose(
    judge: Judge,
    writing: Writing,
    concept: Sequence[str],
    given: Sequence[str],
    proposed: Sequence[str],
) -> dict[str, float]:
    """The neighbours with their cosines to the concept: all that were given, then the nearest of
    those proposed, up to twice `writing.neighbours` in all, since the model may know little of
    some. A proposed one that is nearer than `writing.alias`, or shares its name with the concept,
    is taken for the concept itself; one that was given ("Paris Hilton" beside "Paris") is not.
    """
    own = {key(name) for name in given}
    others = {key(name): name for name in proposed if not is_same(name, concept)}
    names = [*given, *(name for own_key, name in others.items() if own_key not in own)]
    cosines = dict(zip(names, judge.cosines(names, concept), strict=True))
    fit = [name for name in names[len(given) :] if cosines[name] < writing.alias]
    nearest = sorted(fit, key=lambda name: -cosines[name])
    return {name: cosines[name] for name in [*given, *nearest][: 2 * writing.neighbours]}
