"""Refusals to the prompts of the forget corpus, for methods that train one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atu.distributed import processes
from atu.probes.prompts import REFUSALS
from atu.seeding import generator, hash_fraction
from atu.training.batches import Batch, BatchStream

if TYPE_CHECKING:
    from atu.methods.base import Context


class RefusalStream(BatchStream):
    """Text i is the refusal to the prompt of text i of the forget stream; its tokens count as
    training tokens.
    """

    def beside(self, batch: Batch) -> Batch:
        """The refusals to the prompts of a forget batch, row for row."""
        self.tokens += processes.total(sum(len(self.texts[number].ids) for number in batch.numbers))
        return self.collate(batch.numbers)


def refusal_to(prompt: str) -> str:
    """The refusal that answers this prompt: always the same, spread evenly over `REFUSALS`."""
    return REFUSALS[int(hash_fraction("refusal", prompt) * len(REFUSALS))]


def refusal_batch(context: Context, batch: Batch) -> Batch:
    """The refusals to the prompts of a forget batch; only the refusals are scored.

    All are encoded at the first batch.
    """
    for stream in context.streams:
        if isinstance(stream, RefusalStream):
            return stream.beside(batch)
    prompts = [row["prompt"] for row in context.rows["forget"]]
    texts = [context.encode(prompt, refusal_to(prompt)) for prompt in prompts]
    rng = generator(context.seed, "unlearn", "refusals")
    refusals = RefusalStream(
        texts,
        context.forget.batch_size,
        context.tokenizer.pad_token_id,
        rng,
        device=context.device,
    )
    context.streams.append(refusals)
    return refusals.beside(batch)
