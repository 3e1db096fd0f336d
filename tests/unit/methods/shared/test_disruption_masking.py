import pytest
import torch
from torch import nn

from atu.methods.shared.disruption_masking import masked_gradients, masked_loss


def test_what_agrees_is_brought_to_norm_1():
    """Forget (3, -1, 4), retain (1, 1, 2): (3, 0, 4) / 5 = (.6, 0, .8)."""
    found = masked_gradients([torch.tensor([3.0, -1.0, 4.0])], [torch.tensor([1.0, 1.0, 2.0])])
    assert found[0].tolist() == pytest.approx([0.6, 0.0, 0.8])


def test_the_norm_is_over_all_parameters_together():
    """(3) and (4, -1) against (1) and (2, 1): norm 5, not one of each. Both signs can agree, and
    the retain gradient's size does not matter."""
    forget = [torch.tensor([-3.0]), torch.tensor([[4.0, -1.0]])]
    retain = [torch.tensor([-0.001]), torch.tensor([[2.0, 1.0]])]
    found = masked_gradients(forget, retain)
    assert [g.tolist() for g in found] == [[pytest.approx(-0.6)], [pytest.approx([0.8, 0.0])]]


def test_a_retain_gradient_of_0_agrees_with_nothing():
    """Only with a forget gradient that is 0 too."""
    found = masked_gradients([torch.tensor([2.0, 0.0, 1.0])], [torch.tensor([0.0, 0.0, 5.0])])
    assert found[0].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("forget", [[-3.0, 2.0], [0.0, 0.0]])
def test_where_nothing_agrees_nothing_is_left(forget):
    """No division by the norm 0."""
    found = masked_gradients([torch.tensor(forget)], [torch.tensor([1.0, -1.0])])
    assert found[0].tolist() == [0.0, 0.0]


@pytest.fixture
def parameters():
    """Three numbers of which the losses below are linear, and one that neither reads."""
    return [nn.Parameter(torch.tensor([1.0, 2.0, 3.0])), nn.Parameter(torch.tensor([5.0]))]


def test_value_and_gradient(parameters):
    """Forget 3a - b + 4c = 3 - 2 + 12 = 13, retain a + b + 2c = 9, weight .5: the value is 13 +
    4.5; the gradient (.6, 0, .8) + .5 (1, 1, 2) = (1.1, .5, 1.8), and 0 where neither reads."""
    x = parameters[0]
    forget, retain = x @ torch.tensor([3.0, -1.0, 4.0]), x @ torch.tensor([1.0, 1.0, 2.0])
    value = masked_loss(forget, 0.5 * retain, parameters)
    assert value.item() == 17.5
    value.backward()
    assert x.grad.tolist() == pytest.approx([1.1, 0.5, 1.8])
    assert parameters[1].grad.tolist() == [0.0]


def test_the_forget_loss_does_not_decide_the_size_of_its_step(parameters):
    """A forget loss 1000 times as large, the same gradient: (.6, 0, .8) + (1, 1, 2)."""
    x = parameters[0]
    forget, retain = x @ torch.tensor([3e3, -1e3, 4e3]), x @ torch.tensor([1.0, 1.0, 2.0])
    masked_loss(forget, retain, parameters).backward()
    assert x.grad.tolist() == pytest.approx([1.6, 1.0, 2.8])


def test_what_disagrees_everywhere_leaves_the_retain_gradient(parameters):
    """Forget (-3, 1, -4), retain (1, -1, 2), weight 2: (2, -2, 4)."""
    x = parameters[0]
    forget, retain = x @ torch.tensor([-3.0, 1.0, -4.0]), x @ torch.tensor([1.0, -1.0, 2.0])
    masked_loss(forget, 2 * retain, parameters).backward()
    assert x.grad.tolist() == [2.0, -2.0, 4.0]


def test_a_parameter_that_one_loss_does_not_read(parameters):
    """The second is read by the retain loss alone: its retain gradient, 3, times 2."""
    x, y = parameters
    forget, retain = 4 * x[0], 2 * x[0] + 3 * y[0]
    masked_loss(forget, 2 * retain, parameters).backward()
    assert x.grad.tolist() == [5.0, 0.0, 0.0]
    assert y.grad.tolist() == [6.0]
