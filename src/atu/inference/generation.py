"""Answers by generation, with KV cache and left padding; a failure is never an answer.

Prompts are batched by length, which does not change any answer. Samples are drawn by the Gumbel-max
trick with one random stream per sample, so that neither the batch size nor the order of prompts
changes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atu.distributed import processes
from atu.inference.batching import BatchSize, map_in_batches
from atu.inference.finite import failing_layer, require_finite
from atu.models.chat import prompt_ids, stop_tokens
from atu.models.compute import device_of
from atu.models.llm import require_room
from atu.probes.prompts import until
from atu.seeding import child_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


SORTED = 1024
"""Tokens that nearly always have the probability `top_p`."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: `samples` per prompt from the distribution at `temperature`, cut to
    the smallest set of tokens with probability `top_p` (1: all).
    """

    samples: int
    temperature: float
    top_p: float
    seed: int


@contextlib.contextmanager
def mode(model: nn.Module, evaluating: bool) -> Iterator[None]:
    """The model in eval mode; with `evaluating=False` unchanged, to reproduce the reference."""
    training = model.training
    model.train(training and not evaluating)
    try:
        yield
    finally:
        model.train(training)


@contextlib.contextmanager
def no_gradients() -> Iterator[None]:
    """Inference mode; with several ranks only no gradients, since weights that were gathered in
    inference mode can no longer be trained.
    """
    # In this order: `inference_mode(False)` turns gradients on.
    with torch.inference_mode(processes.world_size() == 1), torch.no_grad():
        yield


def greedy_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: BatchSize,
    label: str = "answers",
    eval_mode: bool = True,
    templated: bool = True,
    system: str | None = None,
    stripped: bool = True,
    stops: Sequence[str] = (),
) -> list[str]:
    """The greedy continuation of each prompt up to an end token or the first of `stops`, stripped.

    `eval_mode=False` leaves the model in its mode, to reproduce the reference's scoring.
    `templated=False` continues texts without a chat template; `system` is a turn before each
    question; `stripped=False` keeps the leading space, which a continued text needs. White space
    before an answer is no end of it (`until`).

    Raises:
        EvaluationError: a prompt has no answer, or a logit is not finite; names the item and the
            layer.
        LengthError: a prompt with its answer would not fit the model's context.
    """
    encoded = prompt_ids(tokenizer, prompts, templated=templated, system=system)
    require_room(model, encoded, prompts, max_new_tokens)

    def work(chosen: list[int]) -> list[str]:
        named = [f"{label}, item {i}: {prompts[i]!r}" for i in chosen]
        rows = [encoded[i] for i in chosen]
        processors = [FiniteLogits(model, rows, named)]
        new = _generate(model, tokenizer, rows, max_new_tokens, processors)
        return _decoded(tokenizer, rows, new, stripped, stops)

    with no_gradients(), mode(model, eval_mode):
        return map_in_batches(work, [len(row) for row in encoded], batch_size, label)


def sampled_answers(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    max_new_tokens: int,
    batch_size: BatchSize,
    label: str = "samples",
    templated: bool = True,
    system: str | None = None,
    stripped: bool = True,
    stops: Sequence[str] = (),
    barred: Sequence[Sequence[int]] | None = None,
) -> list[list[str]]:
    """`sampling.samples` answers to each prompt; sample j of a prompt depends on the seed, the
    prompt's text and j alone. `templated`, `system`, `stripped` and `stops` are those of
    `greedy_answers`.

    Args:
        barred: per prompt the tokens with which none of its answers begins.

    Raises:
        EvaluationError, LengthError: as `greedy_answers`.
    """
    encoded = prompt_ids(tokenizer, prompts, templated=templated, system=system)
    require_room(model, encoded, prompts, max_new_tokens)
    pairs = [(i, j) for i in range(len(prompts)) for j in range(sampling.samples)]

    def work(chosen: list[int]) -> list[str]:
        rows = [encoded[pairs[n][0]] for n in chosen]
        named = [f"{label}, item {pairs[n][0]}: {prompts[pairs[n][0]]!r}" for n in chosen]
        device = device_of(model)
        streams = [
            _stream(device, child_seed(sampling.seed, "sample", prompts[i], str(j)))
            for i, j in (pairs[n] for n in chosen)
        ]
        processors = [FiniteLogits(model, rows, named), *_warpers(sampling), GumbelNoise(streams)]
        if barred is not None:
            processors.insert(1, NotFirst(rows, [barred[pairs[n][0]] for n in chosen]))
        new = _generate(model, tokenizer, rows, max_new_tokens, processors)
        return _decoded(tokenizer, rows, new, stripped, stops)

    with no_gradients(), mode(model, True):
        lengths = [len(encoded[i]) for i, _ in pairs]
        flat = map_in_batches(work, lengths, batch_size, label)
    return [flat[at : at + sampling.samples] for at in range(0, len(flat), sampling.samples)]


def _stream(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def _warpers(sampling: Sampling) -> list[Any]:
    from transformers import TemperatureLogitsWarper

    warpers: list[Any] = []
    if sampling.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_p < 1.0:
        warpers.append(TopP(sampling.top_p))
    return warpers


class TopP:
    """A logits processor that keeps the smallest set of tokens with probability `share`. It sorts
    only the likeliest tokens, unless a row's have less: sorting a vocabulary of 49,152 takes longer
    than a small model's step.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [batch, vocab], -inf for tokens outside the set."""
        total = scores.logsumexp(dim=-1, keepdim=True)
        smallest, mass = self._smallest(scores.topk(min(SORTED, scores.shape[-1])).values, total)
        flat = mass < self.share
        if flat.any():
            ordered = scores[flat].sort(dim=-1, descending=True).values
            smallest[flat] = self._smallest(ordered, total[flat])[0]
        return scores.masked_fill(scores < smallest[:, None], -torch.inf)

    def _smallest(self, ordered: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest logit of the set among falling logits [batch, n], and the probability of
        all n, [batch] each.
        """
        probabilities = (ordered - total).exp()
        upto = probabilities.cumsum(dim=-1)
        kept = ((upto - probabilities) < self.share).sum(dim=-1).clamp(min=1)
        return ordered.gather(1, kept[:, None] - 1)[:, 0], upto[:, -1]


class FiniteLogits:
    """A logits processor that refuses NaN and infinity, naming the item."""

    def __init__(self, model: Any, rows: Sequence[Sequence[int]], items: Sequence[str]) -> None:
        self.model, self.rows, self.items = model, rows, items

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [batch, vocab] as they are, after `input_ids` [batch, seq]."""

        def where(row: int) -> str:
            padding = max(map(len, self.rows)) - len(self.rows[row])
            return failing_layer(self.model, input_ids[row, padding:])

        require_finite(scores, self.items, where)
        return scores


class NotFirst:
    """A logits processor that keeps the answers to these prompts from beginning with some tokens,
    each row with its own.
    """

    def __init__(self, rows: Sequence[Sequence[int]], barred: Sequence[Sequence[int]]) -> None:
        self.length, self.barred = max(map(len, rows)), barred

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [batch, vocab], -inf for a row's barred tokens right after its prompt."""
        if input_ids.shape[1] > self.length:
            return scores
        kept = scores.clone()
        for row, tokens in zip(kept, self.barred, strict=True):
            row[list(tokens)] = -torch.inf
        return kept


class GumbelNoise:
    """A logits processor that adds Gumbel noise, so that the argmax is a sample of the softmax."""

    def __init__(self, streams: Sequence[torch.Generator]) -> None:
        self.streams = streams

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [batch, vocab] with noise from each row's own stream."""
        noise = torch.empty_like(scores)
        for row, stream in zip(noise, self.streams, strict=True):
            row.exponential_(generator=stream)
        return scores - noise.log()


def _generate(
    model: PreTrainedModel,
    tokenizer: Any,
    ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    processors: list[Any],
) -> Tensor:
    """The new tokens of every prompt, padded after its end."""
    length = max(len(row) for row in ids)
    pad = tokenizer.pad_token_id
    device = device_of(model)
    padded = torch.tensor([[pad] * (length - len(row)) + list(row) for row in ids], device=device)
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids], device=device)
    stops = stop_tokens(model, tokenizer)
    output = model.generate(  # type: ignore[operator]
        input_ids=padded,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        # Ranks that share a model's shards must call it equally often.
        **({"synced_gpus": True} if processes.world_size() > 1 else {}),
        pad_token_id=pad,
        eos_token_id=stops[0] if len(stops) == 1 else stops,
        logits_processor=processors,
    )
    # An end token need not be a special token, which decoding would skip.
    new = output[:, length:]
    ended = torch.isin(new, torch.tensor(stops, dtype=new.dtype, device=device)).cumsum(dim=1) > 0
    return new.masked_fill(ended, pad)


def _decoded(
    tokenizer: Any,
    ids: Sequence[Sequence[int]],
    new: Tensor,
    stripped: bool,
    stops: Sequence[str],
) -> list[str]:
    """New tokens as texts, each up to its end.

    A tokenizer whose settings ask for it (Llama 3's do) has the space before a comma or full stop
    removed. transformers 5 ignores that for byte-level BPE; official code ran with version 4.
    """
    if stripped:
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    else:
        texts = [
            _decoded_after(tokenizer, row[-1], tail) for row, tail in zip(ids, new, strict=True)
        ]
    if getattr(tokenizer, "clean_up_tokenization_spaces", False):
        texts = [tokenizer.clean_up_tokenization(text) for text in texts]
    if stripped:  # last, as a space at the end is part of what the clean-up joins
        texts = [text.strip() for text in texts]
    return [until(text, stops) for text in texts]


def _decoded_after(tokenizer: Any, last: int, new: Tensor) -> str:
    """The text that new tokens add after the token `last`. Decoded alone, SentencePiece tokens lose
    their leading space.
    """
    before, text = (
        tokenizer.decode(row, skip_special_tokens=True) for row in ([last], [last, *new.tolist()])
    )
    return text[len(before) :]
