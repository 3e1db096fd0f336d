"""Muon: torch's, in float32 on a CPU."""

import pytest
import torch
from torch import nn

from atu.training.muon import Muon, orthogonalised

TORCH = (3.4445, -4.775, 2.0315)


def test_singular_values_follow_the_polynomial():
    """diag(3, 4) scaled to norm 1 is diag(.6, .8). With a, b, c = 2, -1, .5 one step gives
    1.2 - .216 + .03888 = 1.02288 and 1.6 - .512 + .16384 = 1.25184."""
    found = orthogonalised(torch.diag(torch.tensor([3.0, 4.0]))[None], (2.0, -1.0, 0.5), 1, 1e-7)
    assert found.dtype == torch.float32
    assert torch.allclose(found[0], torch.diag(torch.tensor([1.02288, 1.25184])), atol=1e-6)


def test_a_tall_matrix_is_its_transposed_ones_transpose():
    matrices = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(matrices, TORCH, 5, 1e-7)
    assert torch.equal(found, orthogonalised(matrices.mT, TORCH, 5, 1e-7).mT)


def test_a_matrix_of_zeros_stays():
    assert torch.equal(orthogonalised(torch.zeros(1, 2, 3), TORCH, 5, 1e-7), torch.zeros(1, 2, 3))


@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_are_torchs_up_to_bfloat16(nesterov):
    """Three steps with weight decay over matrices of three shapes, two of them equal."""
    shapes, options = [(4, 4), (6, 3), (3, 6), (4, 4)], {"lr": 0.1, "weight_decay": 0.2}
    found = []
    for kind in (torch.optim.Muon, Muon):
        rng = torch.Generator().manual_seed(0)
        matrices = [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
        unused = nn.Parameter(torch.ones(2, 2))
        optimizer = kind([*matrices, unused], nesterov=nesterov, **options)
        for _ in range(3):
            for matrix in matrices:
                matrix.grad = torch.randn(matrix.shape, generator=rng)
            optimizer.step()
        assert torch.equal(unused, torch.ones(2, 2))
        state = optimizer.state_dict()["state"]
        assert [list(state[number]) for number in range(4)] == [["momentum_buffer"]] * 4
        found.append((matrices, [state[number]["momentum_buffer"] for number in range(4)]))
    (theirs, their_momenta), (ours, our_momenta) = found
    for one, other in zip(their_momenta, our_momenta, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(theirs, ours, strict=True):
        assert torch.allclose(one, other, atol=0.01)
