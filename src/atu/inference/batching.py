"""Batches of similar length, and what happens when one does not fit."""

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
    """Items per batch; halved where the device's memory does not hold them.

    One object serves a whole job, so a size that did not fit is not tried again, and the size that
    was used in the end is written to the job's provenance.
    """

    value: int

    def halve(self) -> None:
        """Half as many items from now on."""
        self.value = max(1, self.value // 2)


def map_in_batches(
    work: Callable[[list[int]], Sequence[T]],
    lengths: Sequence[int],
    batch_size: BatchSize,
    label: str,
) -> list[T]:
    """`work` on every item, called with the numbers of items of similar length.

    Returns:
        One result per item, in the items' order, whatever order they were batched in.

    Raises:
        EvaluationError: a batch has not one result per item.
        torch.OutOfMemoryError: a single item does not fit; or a batch of one of several processes.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    results: dict[int, T] = {}
    progress = Progress(label, len(order))
    try:
        while len(results) < len(order):
            chosen = order[len(results) : len(results) + batch_size.value]
            try:
                found = work(chosen)
            except torch.OutOfMemoryError:
                # The other processes wait for this one inside the call that failed.
                if len(chosen) == 1 or processes.count() > 1:
                    raise
                batch_size.halve()
                continue
            if len(found) != len(chosen):
                raise EvaluationError(f"{label}: {len(found)} results for {len(chosen)} items")
            results.update(zip(chosen, found, strict=True))
            progress.update(count=len(chosen))
    finally:
        progress.close()
    return [results[i] for i in range(len(order))]
