"""Batches of items of similar length, halved when one does not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from atu.distributed import processes
from atu.errors import EvaluationError
from atu.progress import Progress

T = TypeVar("T")


@dataclass
class BatchSize:
    """Items per batch; halved when the device runs out of memory.

    One object serves a whole job, so a size that did not fit is not tried again, and the final size
    is written to the job's provenance.
    """

    value: int

    def halve(self) -> None:
        """Halve the batch size from now on."""
        self.value = max(1, self.value // 2)


def map_in_batches(
    work: Callable[[list[int]], Sequence[T]],
    lengths: Sequence[int],
    batch_size: BatchSize,
    label: str,
    tokens: int | None = None,
) -> list[T]:
    """Call `work` with the numbers of items of similar length until every item is done.

    Args:
        tokens: at most so many in a batch with its padding, unless one item has more.

    Returns:
        One result per item, in the items' order.

    Raises:
        EvaluationError: the number of results differs from the batch's items.
        torch.OutOfMemoryError: a single item does not fit; with several ranks, any batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    results: dict[int, T] = {}
    progress = Progress(label, len(order))
    try:
        while len(results) < len(order):
            chosen = order[len(results) : len(results) + batch_size.value]
            while tokens and len(chosen) > 1 and len(chosen) * lengths[chosen[-1]] > tokens:
                del chosen[-1]
            try:
                batch_results = work(chosen)
            except torch.OutOfMemoryError:
                # The other ranks wait for this one inside the call that failed.
                if len(chosen) == 1 or processes.world_size() > 1:
                    raise
                batch_size.halve()
                continue
            if len(batch_results) != len(chosen):
                raise EvaluationError(
                    f"{label}: {len(batch_results)} results for {len(chosen)} items"
                )
            results.update(zip(chosen, batch_results, strict=True))
            progress.update(count=len(chosen))
    finally:
        progress.close()
    return [results[i] for i in range(len(order))]
