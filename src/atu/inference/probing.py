"""The model's answers to probes: every phase, attack and trajectory asks them here, so that an
answer ends in one way only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling, greedy_answers, sampled_answers
from atu.probes.prompts import until

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = dict[str, Any]


def answer_probes(
    model: PreTrainedModel,
    tokenizer: Any,
    probes: Sequence[Row],
    *,
    max_new_tokens: int,
    batch_size: BatchSize,
    label: str,
    prompts: Sequence[str] | None = None,
    eval_mode: bool = True,
) -> list[str]:
    """The greedy answer to every probe, or to `prompts` in place of the probes' own, up to the
    probe's stops. A prompt that several probes share is asked once.

    Raises:
        EvaluationError, LengthError: as `greedy_answers`.
    """
    asked = [probe["prompt"] for probe in probes] if prompts is None else prompts
    distinct = list(dict.fromkeys(asked))
    outputs = greedy_answers(
        model,
        tokenizer,
        distinct,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        label=label,
        eval_mode=eval_mode,
    )
    answer_of = dict(zip(distinct, outputs, strict=True))
    return [
        until(answer_of[prompt], probe["stops"])
        for prompt, probe in zip(asked, probes, strict=True)
    ]


def sample_probes(
    model: PreTrainedModel,
    tokenizer: Any,
    probes: Sequence[Row],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    batch_size: BatchSize,
    label: str,
) -> list[list[str]]:
    """`sampling.samples` answers to every probe, each up to the probe's stops.

    Raises:
        EvaluationError, LengthError: as `greedy_answers`.
    """
    drawn = sampled_answers(
        model,
        tokenizer,
        [probe["prompt"] for probe in probes],
        sampling,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        label=label,
    )
    return [
        [until(text, probe["stops"]) for text in texts]
        for probe, texts in zip(probes, drawn, strict=True)
    ]
