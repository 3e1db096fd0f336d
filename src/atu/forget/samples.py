"""What the model writes before and after, to the same openings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from atu.inference.batching import BatchSize
from atu.inference.generation import greedy_answers
from atu.models.chat import has_template
from atu.models.compute import Compute
from atu.models.llm import open_lm
from atu.probes.prompts import neutral_prompts, writing_prompts
from atu.results.artifacts import Artifact

TOKENS = 64
PLACES = (1, 3)
"""Which of the prompts about a name are shown: "{name} is" and "{name} has", or two questions."""
NEIGHBOURS = 2
NEUTRAL = 2
PURPOSE = "card"


@dataclass(frozen=True)
class Sample:
    """One opening with the greedy texts of both models."""

    about: str
    """A name; empty for nobody in particular."""
    opening: str
    before: str
    after: str

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def openings(name: str, neighbours: Sequence[str], chat: bool) -> list[tuple[str, str]]:
    """Subject and prompt of every sample: two about the concept, one about each of the first
    neighbours, and the first neutral ones.
    """
    about = [(name, writing_prompts([name], chat)[place]) for place in PLACES]
    about += [(n, writing_prompts([n], chat)[PLACES[0]]) for n in neighbours[:NEIGHBOURS]]
    return [*about, *(("", prompt) for prompt in neutral_prompts(chat)[:NEUTRAL])]


def write_samples(
    models: Sequence[Artifact], compute: Compute, name: str, neighbours: Sequence[str]
) -> list[Sample]:
    """The samples of the original and the unlearned model.

    Args:
        models: the folders of `unlearn` of both.
    """
    written: list[list[str]] = []
    for artifact in models:
        model, tokenizer = open_lm(artifact, compute, training=False)
        chosen = openings(name, neighbours, has_template(tokenizer))
        written.append(
            greedy_answers(
                model, tokenizer, [prompt for _, prompt in chosen], max_new_tokens=TOKENS,
                batch_size=BatchSize(len(chosen)), label=PURPOSE,
            )
        )  # fmt: skip
        del model
    return [
        Sample(about, prompt, *(" ".join(text.split()) for text in texts))
        for (about, prompt), *texts in zip(chosen, *written, strict=True)
    ]
