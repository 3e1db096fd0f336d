"""Neighbours of a concept: proposed by the model, ranked by cosine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

from atu.forget.author import Author
from atu.forget.names import counted, is_same, listed
from atu.forget.settings import Writing
from atu.forget.similarity import Similarity
from atu.forget.texts import key
from atu.probes.prompts import alike_prompt, examples_beginning

LIST_FACTOR = 2
"""A chat model is asked for this many times the number of neighbours."""
LIST_TOKENS = 120
LISTS = 8
"""Sampled lists per name of the concept, of a chat model."""
EXAMPLES = 24
"""Sampled continuations of a list that begins with the concept, and of one that goes on with the
name most often found in them."""
EXAMPLE_TOKENS = 40
EXAMPLE_TEMPERATURE = 0.7
"""At 1, a list of SmolLM2-135M is made up."""
MIN_TEXTS = 2
"""Minimum texts with a name: one in a single text may be made up."""


def propose(
    author: Author,
    writing: Writing,
    names: Sequence[str],
    passages: Sequence[str],
    general: Sequence[str],
) -> list[str]:
    """Names of other things, most often named first, from one source after the other until they
    suffice: lists, then passages about the concept (of a base model the other way round), then what
    stands in one list only, then general passages. "Michelangelo da Roma" is Michelangelo again.
    """
    lists = cache(lambda: _in_lists(author, writing, names))

    def often() -> list[str]:
        return _frequent(lists())

    def beside() -> list[str]:
        return _frequent(counted(passages, names))

    sources = (often, beside, lambda: list(lists())) if author.chat else (beside, often)
    related: list[str] = []
    for more in (*sources, lambda: _frequent(counted(general, names))):
        for name in more():
            if not is_same(name, related):
                related.append(name)
        if len(related) >= writing.neighbours:
            break
    return related


def _in_lists(author: Author, writing: Writing, names: Sequence[str]) -> Counter[str]:
    """In how many lists each name stands, most frequent first: in continuations of "Examples: Ann,"
    and, of a chat model, in the lists that it was asked for, a greedy one and sampled ones. A small
    chat model's answers are one name again and again, or made up; its continuations are not.
    """
    texts: list[str] = []
    if author.chat:
        prompts = [alike_prompt(name, LIST_FACTOR * writing.neighbours) for name in names]
        texts += author.write(
            prompts, number=0, samples=LISTS, tokens=LIST_TOKENS, temperature=writing.temperature,
            top_p=writing.top_p,
        )  # fmt: skip
        texts += author.answer(prompts, LIST_TOKENS, "neighbours", stops=())
    texts += _examples(author, writing, [examples_beginning([name]) for name in names])
    first = _counted_lists(texts, names).most_common(1)
    if first:
        texts += _examples(author, writing, [examples_beginning([n, first[0][0]]) for n in names])
    return Counter(dict(_counted_lists(texts, names).most_common()))


def _examples(author: Author, writing: Writing, beginnings: Sequence[str]) -> list[str]:
    return author.proceed_sampled(
        beginnings, samples=EXAMPLES, tokens=EXAMPLE_TOKENS, temperature=EXAMPLE_TEMPERATURE,
        top_p=writing.top_p, label="examples",
    )  # fmt: skip


def _counted_lists(texts: Sequence[str], concept: Sequence[str]) -> Counter[str]:
    """The number of lists with each name; the first spelling counts."""
    counts: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for text in texts:
        counts.update(spelled.setdefault(key(name), name) for name in listed(text, concept))
    return counts


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
