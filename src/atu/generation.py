"""Greedy answers: length-sorted batches, KV cache, left padding; a failure is never an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from atu.data.prompts import STOP
from atu.errors import EvaluationError
from atu.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def greedy_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    label: str = "answers",
    eval_mode: bool = True,
) -> list[str]:
    """The greedy continuation of each prompt up to the end token or the first line break, stripped.

    Prompts are batched by length and padded on the left, which leaves every answer what it is
    alone. The model is in eval mode for the call; `eval_mode=False` leaves it as it is, which only
    the reproduction of the reference's scoring wants. On an out-of-memory error the batch size is
    halved, down to 1.

    Raises:
        EvaluationError: not every prompt got an answer string.
    """
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), i))
    answers: dict[int, str] = {}
    training = model.training
    model.train(training and not eval_mode)
    progress = Progress(label, len(prompts))
    try:
        at = 0
        while at < len(order):
            chosen = order[at : at + batch_size]
            try:
                texts = _generate(model, tokenizer, [encoded[i] for i in chosen], max_new_tokens)
            except torch.cuda.OutOfMemoryError:
                if batch_size == 1:
                    raise
                batch_size //= 2
                continue
            if len(texts) != len(chosen):
                raise EvaluationError(f"{label}: {len(texts)} answers for {len(chosen)} prompts")
            answers.update(zip(chosen, texts, strict=True))
            at += len(chosen)
            progress.update(count=len(chosen))
    finally:
        model.train(training)
        progress.close()
    return [answers[i] for i in range(len(prompts))]


def _generate(
    model: PreTrainedModel, tokenizer: Any, ids: Sequence[Sequence[int]], max_new_tokens: int
) -> list[str]:
    length = max(len(row) for row in ids)
    pad = tokenizer.pad_token_id
    device = next(model.parameters()).device
    padded = torch.tensor([[pad] * (length - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=device)
    output = model.generate(  # type: ignore[operator]
        input_ids=padded,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    texts = tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
    return [text.strip(" ").split(STOP)[0].strip() for text in texts]
