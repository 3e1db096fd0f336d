"""Settings of how the model writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Writing:
    """How much the model writes, and which texts are kept; the defaults of `atu forget`."""

    seed: int = 0
    writes: bool = True
    """Whether the model writes at all; otherwise texts and questions are all a user's."""
    passage_words: int = 72
    """Maximum words of the passages that a user's texts are cut into: some `tokens` tokens, so that
    they are as long as those that the model writes."""
    passages: int = 96
    """Passages about the concept."""
    rounds: int = 8
    """Maximum rounds, each of `samples` texts per prompt."""
    samples: int = 4
    temperature: float = 1.0
    top_p: float = 0.95
    """Nucleus sampling of passages: Holtzman et al. 2020 (arXiv 1904.09751)."""
    tokens: int = 96
    """Maximum tokens of a passage, which is cut after its last complete sentence."""
    min_words: int = 4
    """Minimum words of a passage after sentences are held out of it."""
    near: float = 0.8
    """Texts with a larger overlap (Jaccard, runs of three words) are duplicates."""
    unrelated: float = 0.95
    """A passage is kept if its cosine to its subject is above that of this share of the texts that
    the same model writes about nothing in particular."""
    openings: int = 24
    """Openings learned from a base model's sentences (`names.learned_openings`)."""
    general: int = 192
    """Passages about nothing in particular."""
    neighbours: int = 8
    neighbour_passages: int = 24
    """Passages about each neighbour."""
    min_passages: int = 4
    """A neighbour with fewer passages is dropped, and the concept is refused."""
    alias: float = 0.95
    """A name with a higher cosine to the concept counts as another name of it."""
    held_out: float = 0.3
    """Share of the sentences of a fact that are held out of the corpora and become questions."""
    answer_words: int = 6
    """Maximum words of an answer."""
    answer_tokens: int = 24
    statements: int = 160
    """Maximum sentences per role that are tried as questions."""
    continued: int = 48
    """Maximum beginnings of sentences per role that are continued, where facts are too few."""
    options: int = 3
    """Names of others that stand in the subject's place: the wrong answers of a choice."""
    wordings: int = 3
    """Maximum sentences of a fact that are held out."""
    answer_samples: int = 5
    agreeing: int = 4
    """Minimum of the `answer_samples` samples at `answer_temperature` that must agree with the
    greedy answer: a model does not know what it says only half of the time."""
    answer_temperature: float = 0.7
    select: float = 0.5
    """Share of the facts that choices may read."""
    facts: int = 2
    """Minimum facts about the concept in each split; with fewer nothing can be reported."""
    batch_size: int = 64
    """Texts per batch; halved when memory is short."""

    def keeping(self, share: float) -> Writing:
        """With this share of the passages that are not about the concept."""
        return replace(
            self, general=round(share * self.general),
            neighbour_passages=round(share * self.neighbour_passages),
        )  # fmt: skip


QUICK = {"passages": 24, "general": 48, "neighbours": 3, "neighbour_passages": 12, "statements": 60,
         "continued": 24}  # fmt: skip
"""Settings of `--quick`: about a quarter of the texts."""


def writing_of(quick: bool, **options: Any) -> Writing:
    """The defaults, or those of `QUICK`, overridden by the options that are not None."""
    overrides = {name: value for name, value in options.items() if value is not None}
    return replace(Writing(), **((QUICK if quick else {}) | overrides))
