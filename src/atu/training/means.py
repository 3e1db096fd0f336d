"""Means over the whole batch, of which each rank has a share. Every loss takes its mean by one of
these functions.
"""

from __future__ import annotations

from torch import Tensor

from atu.distributed import processes


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is not 0; 0 where all is masked. Same shapes; a scalar.

    mean([2, 4, 9] under [1, 1, 0]) = 3.
    """
    weights = mask.to(values.dtype)
    return processes.mean((values * weights).sum(), weights.sum())


def batch_mean(values: Tensor) -> Tensor:
    """Mean of one value per row of the batch, [batch]; a scalar."""
    if processes.world_size() == 1:
        return values.mean()
    return processes.mean(values.sum(), values.new_tensor(len(values)))
