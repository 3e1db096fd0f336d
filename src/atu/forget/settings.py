"""How the model writes: every number of it, once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Writing:
    """What is asked of the model, and what is kept of its texts; by default as in `atu forget`."""

    seed: int = 0
    passages: int = 96
    """About the concept."""
    rounds: int = 8
    """At most, of `samples` texts to every prompt."""
    samples: int = 4
    temperature: float = 1.0
    top_p: float = 0.95
    """Of passages: Holtzman et al. 2020 (arXiv 1904.09751)."""
    tokens: int = 96
    """Of a passage at most; it is cut at its last end of a sentence."""
    min_words: int = 4
    """Of a passage, once sentences are held out of it."""
    near: float = 0.8
    """Texts that share more of their runs of three words (Jaccard) are one."""
    unrelated: float = 0.95
    """A passage is kept if its cosine to its subject is above that of this share of the texts that
    the same model writes about nothing in particular."""
    openings: int = 24
    """Learned from a base model's own sentences (`names.learned_openings`)."""
    general: int = 192
    """Passages about nothing in particular."""
    neighbours: int = 8
    neighbour_passages: int = 24
    """About each."""
    min_neighbour_passages: int = 4
    """Of whom the model writes less is no neighbour."""
    alias: float = 0.95
    """A name whose cosine to the concept is higher is taken for another name of it."""
    held_out: float = 0.3
    """Share of the sentences that state one fact which no corpus holds: questions are made of them.
    """
    answer_words: int = 6
    """Of an answer at most."""
    answer_tokens: int = 24
    statements: int = 160
    """Sentences per role that are tried as questions at most."""
    wordings: int = 3
    """Sentences of one fact that are held out at most."""
    answer_samples: int = 5
    agreeing: int = 4
    """Of `answer_samples` samples at `answer_temperature` so many must say what the greedy answer
    says: what a model says one time in two, it does not know."""
    answer_temperature: float = 0.7
    select: float = 0.5
    """Share of the facts that choices may read."""
    facts: int = 2
    """About the concept in each split at least; with less nothing can be reported."""
    batch_size: int = 64
    """Texts at once; halved where memory does not hold them."""


QUICK = {"passages": 24, "general": 48, "neighbours": 3, "neighbour_passages": 12, "statements": 60}
"""What `--quick` writes: about a quarter."""


def writing_of(quick: bool, **options: Any) -> Writing:
    """The defaults, or those of `QUICK`, with the options that were given (not None)."""
    given = {name: value for name, value in options.items() if value is not None}
    return replace(Writing(), **((QUICK if quick else {}) | given))
