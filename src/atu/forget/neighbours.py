"""Neighbours of a concept: proposed by the model, ranked by cosine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from atu.forget.author import Author
from atu.forget.names import counted, is_same, listed
from atu.forget.settings import Writing
from atu.forget.similarity import Similarity
from atu.forget.texts import key
from atu.probes.prompts import alike_prompt

LIST_FACTOR = 2
"""A chat model is asked for this many times the number of neighbours."""
LIST_TOKENS = 120
LISTS = 8
"""Sampled lists per name of the concept."""
MIN_TEXTS = 2
"""Minimum texts of a base model with a name: a name in a single text may be made up."""


def propose(
    author: Author,
    writing: Writing,
    names: Sequence[str],
    passages: Sequence[str],
    general: Sequence[str],
) -> list[str]:
    """Names of other things, most related first: those in a chat model's lists; if these are too
    few, those in passages about the concept; then those in general passages.
    """
    related: list[str] = []
    for more in (
        lambda: _listed(author, writing, names),
        lambda: _frequent(counted(passages, names)),
        lambda: _frequent(counted(general, names)),
    ):
        related = list({key(name): name for name in [*related, *more()]}.values())
        if len(related) >= writing.neighbours:
            break
    return related


def _listed(author: Author, writing: Writing, names: Sequence[str]) -> list[str]:
    """Names in a chat model's lists: a greedy one, which a small model fills with one name, and
    sampled ones. Those in most lists come first.
    """
    if not author.chat:
        return []
    prompts = [alike_prompt(name, LIST_FACTOR * writing.neighbours) for name in names]
    texts = author.write(
        prompts, number=0, samples=LISTS, tokens=LIST_TOKENS, temperature=writing.temperature,
        top_p=writing.top_p,
    )  # fmt: skip
    texts += author.answer(prompts, LIST_TOKENS, "neighbours", stops=())
    counts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for text in texts:
        counts.update(spelled.setdefault(key(name), name) for name in listed(text, names))
    return [name for name, _ in counts.most_common()]


def _frequent(counts: Counter[str]) -> list[str]:
    return [name for name, count in counts.items() if count >= MIN_TEXTS]


def choose(
    similarity: Similarity,
    writing: Writing,
    concept: Sequence[str],
    requested: Sequence[str],
    proposed: Sequence[str],
) -> dict[str, float]:
    """The neighbours with their cosines to the concept: all requested ones, then the nearest
    proposed ones, up to twice `writing.neighbours`, since the model may know little about some. A
    proposed one that is nearer than `writing.alias`, or shares its name with the concept, counts as
    the concept itself; a requested one ("Paris Hilton" beside "Paris") does not.
    """
    requested_keys = {key(name) for name in requested}
    others = {key(name): name for name in proposed if not is_same(name, concept)}
    names = [
        *requested,
        *(name for name_key, name in others.items() if name_key not in requested_keys),
    ]
    cosines = dict(zip(names, similarity.cosines(names, concept), strict=True))
    fit = [name for name in names[len(requested) :] if cosines[name] < writing.alias]
    nearest = sorted(fit, key=lambda name: -cosines[name])
    return {name: cosines[name] for name in [*requested, *nearest][: 2 * writing.neighbours]}
