"""Refusals to the prompts of the forget corpus, for methods that train one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atu.methods.shared.other_answers import other_answers
from atu.probes.prompts import REFUSALS
from atu.seeding import hash_fraction
from atu.training.batches import Batch

if TYPE_CHECKING:
    from atu.methods.base import Context


def refusal_to(prompt: str) -> str:
    """The refusal that answers this prompt: always the same, spread evenly over `REFUSALS`."""
    return REFUSALS[int(hash_fraction("refusal", prompt) * len(REFUSALS))]


def refusal_batch(context: Context, batch: Batch) -> Batch:
    """The refusals to the prompts of a forget batch; only the refusals are scored."""
    rows = context.rows["forget"]
    return other_answers(context, lambda: [[refusal_to(row["prompt"])] for row in rows]).beside(
        batch
    )
