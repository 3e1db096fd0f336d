"""Other answers to the prompts of the forget corpus, beside the forget batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from atu.distributed import processes
from atu.seeding import generator
from atu.training.batches import Batch, BatchStream

if TYPE_CHECKING:
    from atu.methods.base import Context


class OtherAnswers(BatchStream):
    """Texts n * `each` to (n + 1) * `each` - 1 answer the prompt of text n of the forget stream;
    their tokens count as training tokens.
    """

    each = 1

    def beside(self, batch: Batch, turn: int = 0) -> Batch:
        """One other answer to each prompt of a forget batch, row for row: of several the next one
        every turn.
        """
        chosen = [number * self.each + turn % self.each for number in batch.numbers]
        self.tokens += processes.total(sum(len(self.texts[number].ids) for number in chosen))
        return replace(self.collate(chosen), numbers=batch.numbers)


def other_answers(context: Context, write: Callable[[], Sequence[Sequence[str]]]) -> OtherAnswers:
    """The context's other answers, of which only the answers are scored.

    Args:
        write: gives equally many answers to the prompt of every forget text; called once.
    """
    for stream in context.streams:
        if isinstance(stream, OtherAnswers):
            return stream
    answers = write()
    stream = OtherAnswers(
        [
            context.encode(row["prompt"], answer)
            for row, own in zip(context.rows["forget"], answers, strict=True)
            for answer in own
        ],
        context.forget.batch_size,
        context.tokenizer.pad_token_id,
        generator(context.seed, "unlearn", "other answers"),
        device=context.device,
    )
    stream.each = len(answers[0])
    context.streams.append(stream)
    return stream
