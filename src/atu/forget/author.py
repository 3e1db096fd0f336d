"""The model as the author of its corpora: it writes, continues and answers texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling, greedy_answers, sampled_answers
from atu.models.chat import has_template
from atu.probes.prompts import ANNOUNCING, LINE
from atu.seeding import child_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass
class Author:
    """A model with its tokenizer; its samples depend on `seed`, the prompt and the round."""

    model: PreTrainedModel
    tokenizer: Any
    seed: int
    batch_size: BatchSize

    @property
    def chat(self) -> bool:
        """Whether it has a chat template; otherwise it continues texts."""
        return has_template(self.tokenizer)

    def write(
        self, prompts: Sequence[str], *, number: int, samples: int, tokens: int, temperature: float,
        top_p: float,
    ) -> list[str]:  # fmt: skip
        """`samples` texts per prompt in round `number`: the first sample of every prompt, then the
        second. A base model's texts are one line and include the opening, unless it ends with
        `ANNOUNCING`.
        """
        texts_of_prompts = self._sampled(
            prompts,
            Sampling(samples, temperature, top_p, child_seed(self.seed, "write", str(number))),
            tokens,
            f"write, round {number + 1}",
            self.chat,
        )
        return [
            texts[j].strip() if self.chat or prompt.endswith(ANNOUNCING) else prompt + texts[j]
            for j in range(samples)
            for prompt, texts in zip(prompts, texts_of_prompts, strict=True)
        ]

    def proceed_sampled(
        self, beginnings: Sequence[str], *, samples: int, tokens: int, temperature: float,
        top_p: float, label: str,
    ) -> list[str]:  # fmt: skip
        """`samples` continuations of every beginning to the end of its line, without a chat
        template: what stands together in the texts that a model was trained on.
        """
        sampling = Sampling(samples, temperature, top_p, child_seed(self.seed, "proceed"))
        return list(itertools.chain(*self._sampled(beginnings, sampling, tokens, label, False)))

    def _sampled(
        self, prompts: Sequence[str], sampling: Sampling, tokens: int, label: str, templated: bool
    ) -> list[list[str]]:
        return sampled_answers(
            self.model,
            self.tokenizer,
            prompts,
            sampling,
            max_new_tokens=tokens,
            batch_size=self.batch_size,
            label=label,
            templated=templated,
            stripped=False,
            stops=() if templated else LINE,
        )

    def proceed(self, beginnings: Sequence[str], tokens: int, label: str) -> list[str]:
        """The greedy continuation of every beginning, up to the end of its line, without a chat
        template.
        """
        return self._greedy(beginnings, tokens, label, LINE, templated=False, stripped=False)

    def complete(
        self, prompts: Sequence[str], tokens: int, label: str, stops: Sequence[str]
    ) -> list[str]:
        """The greedy continuation of every prompt, asked like a probe, with the space before it."""
        return self._greedy(prompts, tokens, label, stops, stripped=False)

    def answer(
        self, prompts: Sequence[str], tokens: int, label: str, stops: Sequence[str] = LINE
    ) -> list[str]:
        """The greedy answer to every prompt, asked like a probe: its first line, or up to other
        stops.
        """
        return self._greedy(prompts, tokens, label, stops)

    def _greedy(
        self, prompts: Sequence[str], tokens: int, label: str, stops: Sequence[str],
        templated: bool = True, stripped: bool = True,
    ) -> list[str]:  # fmt: skip
        return greedy_answers(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=tokens,
            batch_size=self.batch_size,
            label=label,
            stops=stops,
            templated=templated,
            stripped=stripped,
        )

    def answer_again(
        self, prompts: Sequence[str], tokens: int, samples: int, temperature: float, label: str
    ) -> list[list[str]]:
        """`samples` sampled answers to every prompt."""
        return sampled_answers(
            self.model,
            self.tokenizer,
            prompts,
            Sampling(samples, temperature, 1.0, child_seed(self.seed, "answer")),
            max_new_tokens=tokens,
            batch_size=self.batch_size,
            label=label,
            stops=LINE,
        )
