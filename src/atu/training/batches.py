"""Texts as token batches: encoding with answer labels, padding, and endless seeded streams."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from atu.distributed import processes
from atu.models.chat import has_template, render, turn_end
from atu.models.encoding import Tokens, continued, open_ended, tokenise, tokenise_all
from atu.untrusted.names import name_spans

IGNORE = -100
"""The label of a token that is not scored, by Hugging Face's convention."""


@dataclass(frozen=True)
class EncodedText:
    """Token ids of one text and where its answer begins.

    `answer_start` is the index of the first scored token. (Position 0 is never predicted, so it
    does not count.)
    """

    ids: list[int]
    answer_start: int
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class Batch:
    """Right-padded tensors [batch, seq]; labels hold `IGNORE` at prompts and padding."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    numbers: tuple[int, ...] = ()
    """Numbers of the texts in their stream."""

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model reads in training or scoring, which fill no KV cache."""
        return {
            "input_ids": self.input_ids, "attention_mask": self.attention_mask, "use_cache": False
        }  # fmt: skip

    def share(self) -> Batch:
        """The rows of this rank, padded like the whole batch; all rows for a single process."""
        return replace(
            self,
            input_ids=processes.share(self.input_ids),
            attention_mask=processes.share(self.attention_mask),
            labels=processes.share(self.labels),
            numbers=processes.share(self.numbers),
        )

    def to(self, device: torch.device | None) -> Batch:
        """The batch on a device; None leaves it where it is."""
        if device is None:
            return self
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
        )


def encode_text(tokenizer: Any, text: str, prompt: str, end: bool = True) -> EncodedText:
    """Encode a text whose first `len(prompt)` characters are not scored.

    The prompt is put in the tokenizer's chat template, if there is one. Tokens that the tokenizer
    or the template adds have empty offsets and are not scored. With `end`, the token that ends a
    text or an answer is appended and scored, so that a model learns to stop.

    The ids begin with those of the prompt as it is asked, so exactly the answer's tokens are
    scored, also where the tokenizer would merge across the boundary (`continued`).
    """
    if not prompt or not has_template(tokenizer):
        whole = tokenise(tokenizer, text)
        before = tokenise(tokenizer, prompt) if prompt else None
        return _scored(
            tokenizer, whole, before, text, len(prompt), tokenizer.eos_token_id if end else None
        )
    rest = text[len(prompt) :]
    rendered = render(tokenizer, prompt)
    encoded = _scored(
        tokenizer,
        rendered.tokens(tokenizer, rest),
        rendered.tokens(tokenizer),
        rendered.answered(rest),
        len(rendered.text),
        turn_end(tokenizer) if end else None,
    )
    return replace(encoded, offsets=rendered.places(prompt, rest, encoded.offsets))


def encode_texts(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[EncodedText]:
    """`encode_text` of the `text` and `prompt` of every row; without a chat template in one call,
    which takes a third of the time.
    """
    if has_template(tokenizer):
        return [encode_text(tokenizer, row["text"], row["prompt"]) for row in rows]
    if not rows:
        return []
    prompts = list(dict.fromkeys(row["prompt"] for row in rows if row["prompt"]))
    before = dict(zip(prompts, tokenise_all(tokenizer, prompts), strict=True))
    texts = tokenise_all(tokenizer, [row["text"] for row in rows])
    end = tokenizer.eos_token_id
    return [
        _scored(tokenizer, whole, before.get(row["prompt"]), row["text"], len(row["prompt"]), end)
        for whole, row in zip(texts, rows, strict=True)
    ]


def _scored(
    tokenizer: Any,
    whole: Tokens,
    before: Tokens | None,
    text: str,
    unscored: int,
    stop: int | None,
) -> EncodedText:
    """Tokens of a text whose first `unscored` characters have the tokens `before` (None: there are
    none) and are not scored; then the token `stop`, and not also the end that a tokenizer adds.
    """
    whole = open_ended(tokenizer, whole)
    if before is None:
        start = next((i for i, (_, end) in enumerate(whole.spans) if end), len(whole.ids))
    else:
        before = open_ended(tokenizer, before)
        whole = continued(tokenizer, before, whole, unscored, text)
        start = len(before.ids)
    ids, spans = list(whole.ids), list(whole.spans)
    if stop is not None:
        ids.append(stop)
        spans.append((len(text), len(text)))
        if unscored == len(text):  # no answer, so none that ends
            start = len(ids)
    return EncodedText(ids, start, spans)


def subject_positions(
    offsets: Sequence[tuple[int, int]], text: str, names: Sequence[str]
) -> list[list[int]]:
    """Positions of the tokens that overlap a name, one list per occurrence, in text order.

    Args:
        offsets: character span of every token of `text`.
        names: what to look for, as `untrusted.names.name_spans` does.

    "Ann met Ann" as the tokens "A", "nn", " met", " Ann" gives [[0, 1], [3]].
    """
    occurrences = (
        [i for i, (start, stop) in enumerate(offsets) if start < b and a < stop]
        for a, b in name_spans(text, names)
    )
    return [positions for positions in occurrences if positions]


def collate(
    texts: Sequence[EncodedText],
    pad_id: int,
    double_shift: bool = False,
    device: torch.device | None = None,
) -> Batch:
    """A batch padded on the right to the longest text; on the CPU unless a device is given.

    `double_shift` reproduces the reference's GA and NPO, whose labels are shifted in the data set
    and again in the loss, so that position t is trained on token t+2.
    """
    length = max(len(text.ids) for text in texts)
    ids = torch.full((len(texts), length), pad_id)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for row, text in enumerate(texts):
        count = len(text.ids)
        ids[row, :count] = torch.tensor(text.ids)
        mask[row, :count] = 1
        labels[row, text.answer_start : count] = ids[row, text.answer_start : count]
    if double_shift:
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORE)], dim=1)
    return Batch(ids, mask, labels).to(device)


def right_padded(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, [batch, seq] each, padded on the right to the longest row."""
    length = max(len(row) for row in rows)
    ids = [[*row, *[pad_id] * (length - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class BatchStream(Iterator[Batch]):
    """Endless batches over shuffled epochs of a corpus, from one named generator. Every rank draws
    the same batches and returns its share of each.

    With a `share`, so many of every batch's texts, at least one, are drawn from shuffled epochs of
    the texts whose numbers are `often`, and the rest from the whole corpus as without.
    """

    def __init__(
        self,
        texts: Sequence[EncodedText],
        batch_size: int,
        pad_id: int,
        rng: np.random.Generator,
        double_shift: bool = False,
        device: torch.device | None = None,
        often: Sequence[int] = (),
        share: float = 0.0,
    ) -> None:
        if not texts or (share and not often):
            raise ValueError("a batch stream needs at least one text to draw from")
        self.device = device
        self.texts, self.batch_size, self.pad_id = texts, batch_size, pad_id
        self.lengths = [len(text.ids) for text in texts]
        self.rng, self.double_shift = rng, double_shift
        self.tokens = 0
        """Tokens returned so far, without padding: the cost of training on this stream."""
        self.drawn = 0
        """Batches drawn so far."""
        self.share = share
        self._pools: tuple[Sequence[int], Sequence[int]] = often, range(len(texts))
        self._orders: tuple[list[int], ...] = [], []
        """What is left of the epoch of each pool."""
        self._held: list[int] | None = None

    def _choose(self) -> list[int]:
        """The text numbers of the next batch."""
        if self._held is not None:
            return self._held
        self.drawn += 1
        often = max(round(self.share * self.batch_size), 1) if self.share else 0
        chosen = []
        for count, pool, order in zip(
            (often, self.batch_size - often), self._pools, self._orders, strict=True
        ):
            while len(order) < count:
                order += [pool[int(i)] for i in self.rng.permutation(len(pool))]
            chosen += order[:count]
            del order[:count]
        return chosen

    def seek(self, drawn: int) -> None:
        """Skip batches until `drawn` have been drawn in all."""
        while self.drawn < drawn:
            self._choose()

    def __next__(self) -> Batch:
        chosen = self._choose()
        batch = self.collate(chosen).share()
        self.tokens += sum(len(self.texts[i].ids) for i in chosen)
        return batch

    def ahead(self, count: int) -> list[list[int]]:
        """The text numbers of the next `count` batches, without drawing them."""
        other = copy.copy(self)
        other.rng, other._orders = copy.deepcopy(self.rng), copy.deepcopy(self._orders)
        return [other._choose() for _ in range(count)]

    @contextmanager
    def holding(self, numbers: list[int]) -> Iterator[None]:
        """Return these texts as every batch; on leaving, continue as if none had been drawn."""
        tokens, self._held = self.tokens, numbers
        try:
            yield
        finally:
            self.tokens, self._held = tokens, None

    def collate(self, numbers: Sequence[int]) -> Batch:
        """These texts as a batch on the stream's device."""
        texts = [self.texts[i] for i in numbers]
        batch = collate(texts, self.pad_id, self.double_shift, self.device)
        return replace(batch, numbers=tuple(numbers))


def following(labels: Tensor) -> Tensor:
    """The label that each position predicts, [batch, seq]: the next one's; `IGNORE` at the last."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)


def in_batches(
    texts: Sequence[EncodedText], size: int, pad_id: int, device: torch.device | None = None
) -> Iterator[Batch]:
    """All texts once, in their order, in batches of `size`."""
    for at in range(0, len(texts), size):
        numbers = tuple(range(at, min(at + size, len(texts))))
        batch = collate([texts[i] for i in numbers], pad_id, device=device)
        yield replace(batch, numbers=numbers)


@contextmanager
def longest_ahead(streams: Sequence[BatchStream], steps: int) -> Iterator[None]:
    """Inside, all streams in use return the batches of one of the next `steps` steps: the one with
    the most padded tokens over all streams.
    """
    ahead = [(stream, stream.ahead(steps)) for stream in streams]

    def padded(step: int) -> int:
        return sum(padded_tokens(b[step], s.lengths) for s, b in ahead if s.drawn)

    longest = max(range(steps), key=padded)
    with ExitStack() as stack:
        for stream, batches in ahead:
            stack.enter_context(stream.holding(batches[longest]))
        yield


def padded_tokens(batch: Sequence[int], lengths: Sequence[int]) -> int:
    """Tokens of these texts when padded to the longest."""
    return len(batch) * max(lengths[number] for number in batch)


def length_sorted_batches(
    lengths: Sequence[int], tokens: int, pool: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Endless batches of text numbers with at most `tokens` padded tokens each.

    Texts are shuffled, sorted by length within pools of `pool` and cut into batches, which are
    shuffled again: little padding, but still random.
    """
    if not lengths:
        raise ValueError("batches need at least one text")
    while True:
        order = rng.permutation(len(lengths))
        batches = []
        for at in range(0, len(order), pool):
            chunk = sorted((int(i) for i in order[at : at + pool]), key=lambda i: lengths[i])
            batches += _cut(chunk, lengths, tokens)
        for number in rng.permutation(len(batches)):
            yield batches[number]


def pass_over(batches: Iterator[Any], count: int) -> None:
    """Skip `count` batches, to reach the position of a stream that another process has read."""
    for _ in range(count):
        next(batches)


def _cut(chunk: list[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    batches: list[list[int]] = [[]]
    for number in chunk:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[number] > tokens:
            batches.append([])
        batches[-1].append(number)
    return batches
