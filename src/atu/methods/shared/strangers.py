"""A stranger in the target's place: texts about the target in which another name stands.

A model that never knew the target reads its name as any name that it never met. What the original
model makes of a text with such a name is therefore an aim for unlearning that the request alone
gives. Name change (Liu et al. 2024, arXiv 2407.16997) takes its predictions as a teacher,
with names from a list. Here a name is drawn from the vocabulary: it has as many tokens as the
target's, so that everything else of the text stays where it is, and nobody bears any of them.

The forget corpus has few texts, in few wordings. A text about a neighbour of the target with the
target's name in place of the neighbour's (`visits`) is one more in which the target should be a
stranger, unless it is a question that somebody may ask.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress, cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from atu.models.encoding import control_tokens, tokenise, tokenise_all
from atu.models.llm import context_length
from atu.seeding import generator
from atu.training.batches import Batch, BatchStream, encode_texts, subject_positions
from atu.untrusted.names import name_spans, replace_spans

if TYPE_CHECKING:
    from atu.methods.base import Context


Spans = list[tuple[int, int]]
"""Of characters."""


class Shape(NamedTuple):
    """What a token of a name looks like."""

    begins_word: bool
    capital: bool
    ascii: bool


@dataclass(frozen=True)
class Introduced:
    """A batch in which strangers stand for the target; all [batch, seq]."""

    input_ids: Tensor
    named: Tensor
    """True at the tokens of names."""
    after: Tensor
    """1 from the first token of the first name on, 0 at padding; all 0 where no name stands."""


class Strangers:
    """The stranger of every text of a stream, drawn from the context's seed, the name of the
    strangers and the text's number.

    A text's stranger is the same whenever it is read, another text has another one, and equal
    tokens of the target's names become equal tokens of the stranger's.
    """

    def __init__(
        self, context: Context, stream: BatchStream, rows: Sequence[Mapping[str, Any]], name: str
    ) -> None:
        self._seed, self._name, self._stream = context.seed, name, stream
        texts = stream.texts
        self._named = {
            number: positions
            for number, (text, row) in enumerate(zip(texts, rows, strict=True))
            if (positions := _name_tokens(text.offsets, row["text"], context.called))
        }
        own = {texts[n].ids[i] for n, positions in self._named.items() for i in positions}
        shapes = token_shapes(context.tokenizer)
        self._shape_of = {token: shapes[token] for token in own if token in shapes}
        self._candidates: dict[Shape, list[int]] = defaultdict(list)
        taken = own | borne_tokens(context)
        for avoided in (taken, own):  # where all of a shape are borne, as letters are, any will do
            there = set(self._candidates)
            for token, shape in shapes.items():
                if token not in avoided and shape not in there:
                    self._candidates[shape].append(token)

    @property
    def share(self) -> float:
        """The share of the texts that name the target."""
        return len(self._named) / len(self._stream.texts)

    def draw(self) -> tuple[Batch, Introduced]:
        """The stream's next batch, and the same with strangers."""
        batch = next(self._stream)
        return batch, self.introduce(batch)

    def introduce(self, batch: Batch) -> Introduced:
        """The stream's batch with strangers in the target's place."""
        ids, after = batch.input_ids.clone(), torch.zeros_like(batch.attention_mask)
        named = torch.zeros_like(after, dtype=torch.bool)
        for row, number in enumerate(batch.numbers):
            if positions := self._named.get(number):
                ids[row, positions] = ids.new_tensor(self._name_for(number, positions))
                named[row, positions] = True
                after[row, positions[0] :] = 1
        return Introduced(ids, named, after * batch.attention_mask)

    def _name_for(self, number: int, positions: list[int]) -> list[int]:
        """What the tokens at these positions of a text become; a token without a shape stays, such
        as a dot or a part of a character.
        """
        rng = generator(self._seed, self._name, str(number))
        tokens = [self._stream.texts[number].ids[i] for i in positions]
        name: dict[int, int] = {}
        for token in tokens:
            if token not in name:
                shape = self._shape_of.get(token)
                others = self._candidates[shape] if shape else []
                name[token] = others[rng.integers(len(others))] if others else token
        return [name[token] for token in tokens]


def forget_strangers(context: Context) -> Strangers:
    """The strangers of the forget stream; what share of its texts names the target is measured."""
    found = Strangers(context, context.forget, context.rows["forget"], "stranger")
    context.measured["stranger_texts"] = found.share
    return found


def visits(context: Context) -> Strangers | None:
    """The strangers of a stream of its own: the retain texts about neighbours with the target's
    name in the place of one neighbour's. Of several subjects they take turns. A text that then does
    not fit the model's context is left out; the number of the others is measured. None where there
    is no such text, as in a user's corpus without neighbours.

    Only texts without a prompt count. A benchmark asks for everybody in the same wordings, so a
    neighbour's question with the target's name is a held-out question about the target: in the
    embedded world 36 of its 44 plain ones.

    Neighbours are whom the `select` questions of that role name.
    """
    limit = context_length(context.model.config)
    subjects = cycle(context.subjects)
    rows = [
        {"text": replace_spans(row["text"], spans, subject), "prompt": ""}
        for row in context.rows["retain"]
        if not row["prompt"]
        for spans, subject in zip(
            _mentions(row["text"], context.neighbours), subjects, strict=False
        )
    ]
    texts = encode_texts(context.tokenizer, rows)
    fits = [limit is None or len(text.ids) <= limit for text in texts]
    context.measured["visits_texts"] = float(sum(fits))
    if not any(fits):
        return None
    stream = context.stream("visits", list(compress(texts, fits)))
    return Strangers(context, stream, list(compress(rows, fits)), "visit")


def _mentions(text: str, names: Sequence[str]) -> list[Spans]:
    """For every name in a text, as it is written there, where it stands."""
    found: dict[str, Spans] = defaultdict(list)
    for start, stop in name_spans(text, names):
        found[text[start:stop]].append((start, stop))
    return list(found.values())


def borne_tokens(context: Context) -> set[int]:
    """The tokens of whom the retain corpus is about. Where a name has few tokens, one of them says
    who is meant: the embedded world's model answered 72 of 88 questions about strangers with such a
    token by the facts of whoever bears it, and none of 44 about others.
    """
    rows = context.rows["retain"]
    names = dict.fromkeys(name for row in rows for name in row.get("names") or [])
    written = [text for name in names for text in (name, f" {name}")]
    return {i for text in tokenise_all(context.tokenizer, written) for i in text.ids}


def _name_tokens(offsets: Sequence[tuple[int, int]], text: str, names: Sequence[str]) -> list[int]:
    """Positions of the tokens of a text that overlap one of these names, in order."""
    return [i for span in subject_positions(offsets, text, names) for i in span]


@lru_cache(maxsize=1)  # the strangers of both streams of a run read it
def token_shapes(tokenizer: Any) -> dict[int, Shape]:
    """The shape, inside a text, of every token of letters; of no control token."""
    before = tokenise(tokenizer, "a", special_tokens=False).ids[-1:]
    start = len(tokenizer.decode(before))
    controls = control_tokens(tokenizer)
    tokens = [token for token in range(len(tokenizer)) if token not in controls]
    found = {}
    for token, text in zip(
        tokens, tokenizer.batch_decode([[*before, token] for token in tokens]), strict=True
    ):
        piece = text[start:]
        letters = piece.strip()
        if letters.isalpha():
            found[token] = Shape(piece[0].isspace(), letters[0].isupper(), letters.isascii())
    return found
