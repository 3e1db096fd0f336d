"""Questions that call their subject otherwise: by another name, or through another of its facts.

"The Unlearning Mirage" (arXiv 2603.11266) finds that what is forgotten under a name is often still
told under an alias or over two hops. It has a model write such questions about what that model
knows; here they are the benchmark's own, reworded without a model, so every model is asked the
same. Each plain question about the target that names it gives at most one of either form, by hash.

They are no wordings of the benchmark, and not every fact has them. So they are not among those of
which the worst is taken (`ASIDE`), stand in lines of their own, and change no official number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atu.metrics.words import words
from atu.probes.prompts import ASIDE, over_two_hops
from atu.seeding import hash_fraction
from atu.untrusted.names import (
    FUNCTION_WORDS,
    PARTICLES,
    TITLES,
    composed,
    has_name,
    name_spans,
    replace_names,
    short_names,
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """Somebody who is asked about, and by what else to call them."""

    names: tuple[str, ...]
    """All that texts call them; first the benchmark's name."""
    aliases: tuple[str, ...]
    """Names that are nobody else's (`own_names`)."""
    descriptions: tuple[str, ...]
    """What says who is meant without a name, each as "the author born in Ur"."""
    kind: str
    """What they are: "this person" stands in the place of a name."""


def own_names(names: Sequence[str], others: Iterable[str]) -> tuple[str, ...]:
    """What else the first of these names may be called: the other names, and the short forms of
    the first; none that another subject may be called too.

    "Stephen King" beside "Martin Luther King": S. King, but not King.
    """
    first = names[0]
    strangers = [other for other in others if composed(other) != composed(first)]
    taken = {short for other in strangers for short in short_names(other)}
    found = dict.fromkeys([*names[1:], *short_names(first)])
    return tuple(
        name
        for name in found
        if name_spans(name, [first]) != [(0, len(name))]
        and name not in taken
        and not any(has_name(other, [name]) for other in strangers)
    )


def renamed(
    probes: Iterable[Mapping[str, Any]], subject: Subject, prompt: Callable[[str, str], str]
) -> Iterator[Row]:
    """The plain questions among the probes that name the subject, in the forms `alias` and
    `two_hop`.

    Args:
        prompt: gives the prompt of a form and a query.
    """
    for probe in probes:
        if probe["form"] != "question" or not has_name(probe["query"], subject.names):
            continue
        forms = {"alias": by_alias(probe, subject), "two_hop": by_description(probe, subject)}
        for form, query in forms.items():
            if query is not None:
                own = {"form": form, "type": form, "query": query, "prompt": prompt(form, query)}
                yield {**probe, **own, "id": f"{probe['id']}/{form}", "worst_of": ASIDE}


def by_alias(probe: Mapping[str, Any], subject: Subject) -> str | None:
    """The question with one of the aliases for the name; None where that changes nothing."""
    queries = [_with(probe["query"], subject, alias) for alias in subject.aliases]
    changed = [query for query in queries if query != probe["query"]]
    return _chosen(probe, "alias", changed)


def by_description(probe: Mapping[str, Any], subject: Subject) -> str | None:
    """The question about somebody who is described; None where every description tells the name or
    something of the answer, or the question still tells the name.
    """
    query = _with(probe["query"], subject, f"this {subject.kind}")
    parts = _parts(subject.names)
    told = set(words(probe["answer"])) - set(words(probe["query"])) - FUNCTION_WORDS
    fitting = [
        over_two_hops(description, query)
        for description in subject.descriptions
        if not has_name(f"{description}\n{query}", parts) and told.isdisjoint(words(description))
    ]
    return _chosen(probe, "two_hop", fitting)


def _with(query: str, subject: Subject, new: str) -> str:
    text = replace_names(query, subject.names, new)
    return text[:1].upper() + text[1:]


def _parts(names: Iterable[str]) -> list[str]:
    """The words that tell a name: none that many names have."""
    common = {*PARTICLES, *TITLES, *FUNCTION_WORDS}
    found = (word for name in names for word in name.replace(",", " ").replace(".", " ").split())
    return [word for word in dict.fromkeys(found) if len(word) > 1 and word not in common]


def _chosen(probe: Mapping[str, Any], form: str, queries: Sequence[str]) -> str | None:
    return min(queries, key=lambda query: hash_fraction(form, probe["id"], query), default=None)
