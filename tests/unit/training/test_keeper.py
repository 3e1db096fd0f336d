"""What a checkpoint keeps of a part: weights and the state of its optimizers."""

import signal

import pytest
import torch
from torch import nn

from atu.training.keeper import Part, Stop, load_part, save_part


def make(kind):
    """A matrix, a vector and a matrix that the loss may leave out, with their optimizers."""
    torch.manual_seed(0)
    first, vector, last = (nn.Parameter(torch.randn(size)) for size in ((4, 4), 4, (4, 4)))
    parameters = [first, vector, last]
    optimizers = {
        "adamw": lambda: [torch.optim.AdamW(parameters)],
        "sgd": lambda: [torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)],
        "muon": lambda: [torch.optim.Muon([first, last]), torch.optim.AdamW([vector])],
    }[kind]()
    order = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    return parameters, Part(order, optimizers)


def step(parameters, part, whole):
    first, vector, last = parameters
    ((first @ vector).square().sum() + whole * (last @ vector).square().sum()).backward()
    if not whole:
        last.grad = None
    for optimizer in part.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_what_is_put_back_goes_on_to_the_bit(kind):
    """Also the matrix that gets its first gradient after the checkpoint. Red when torch's
    `set_optimizer_state_dict` puts back: it counts a step of it, and fails on SGD."""
    parameters, part = make(kind)
    step(parameters, part, whole=False)
    saved = {name: value.clone() for name, value in save_part(part).items()}
    others, again = make(kind)
    load_part(again, saved)
    for _ in range(2):
        step(parameters, part, whole=True)
        step(others, again, whole=True)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_names():
    """The vector is the third in the order of the optimizers; the last matrix has no state yet."""
    parameters, part = make("muon")
    step(parameters, part, whole=False)
    assert set(save_part(part)) == {
        "parameter/0", "parameter/1", "parameter/2", "momentum_buffer/0", "step/2", "exp_avg/2",
        "exp_avg_sq/2",
    }  # fmt: skip


@pytest.mark.parametrize(("size", "says"), [("1", True), ("2", False)])
def test_one_of_several_ranks_is_asked_in_silence(monkeypatch, capsys, size, says):
    """Where another has failed its message is the only one."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setattr(Stop, "requested", False)
    before = signal.getsignal(signal.SIGTERM)
    try:
        Stop.listen()
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert Stop.requested
    assert ("asked to stop" in capsys.readouterr().err) is says
