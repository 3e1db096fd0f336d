"""Means over the batch, worked out by hand."""

import pytest
import torch

from atu.training.means import masked_mean


@pytest.mark.parametrize(("mask", "expected"), [([1, 1, 0], 3.0), ([0, 0, 1], 9.0), ([0] * 3, 0.0)])
def test_masked_mean(mask, expected):
    """Of 2, 4, 9: (2 + 4) / 2 = 3; 9 alone; nothing left gives 0."""
    assert masked_mean(torch.tensor([2.0, 4.0, 9.0]), torch.tensor(mask)).item() == expected
