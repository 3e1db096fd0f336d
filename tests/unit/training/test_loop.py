import math

import pytest
import torch
from torch import nn

from atu.errors import TrainingError
from atu.training.keeper import Trace
from atu.training.loop import constant, make_optimizers, run_steps, split_matrices, warmup_linear
from atu.training.muon import Muon


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def half_square(weight):
    """L = w^2 / 2, so that the gradient is w."""
    return lambda: ((weight**2).sum() / 2, {})


def sgd(*weights, rate):
    return [torch.optim.SGD(weights, lr=rate)]


def test_sgd_on_a_parabola():
    """L = w^2/2 from w = 4 at rate 1/2: gradient 4, w = 4 - 2 = 2, then gradient 2, w = 1. The
    losses are 8 and 2."""
    weight, trace = parameter(4.0), Trace()
    run_steps("fit", 2, half_square(weight), sgd(weight, rate=0.5), clip=10.0, trace=trace)
    assert weight.item() == 1.0
    common = {"stage": "fit", "part": "model", "rate_factor": 1.0}
    assert trace.rows == [
        common | {"step": 1, "loss": 8.0, "gradient_norm": 4.0},
        common | {"step": 2, "loss": 2.0, "gradient_norm": 2.0},
    ]


def test_clip_bounds_the_norm_over_all_optimizers():
    """Gradients 3 and 4 have norm 5; clipped to 1 they are .6 and .8. At rate 1: 3 - .6, 4 - .8.
    The trace shows the norm before clipping."""
    first, second, trace = parameter(3.0), parameter(4.0), Trace()
    optimizers = sgd(first, rate=1.0) + sgd(second, rate=1.0)
    both = [half_square(first), half_square(second)]
    run_steps(
        "fit", 1, lambda: (both[0]()[0] + both[1]()[0], {}), optimizers, clip=1.0, trace=trace
    )
    assert [first.item(), second.item()] == pytest.approx([2.4, 3.2], rel=1e-5)
    assert trace.rows[0]["gradient_norm"] == 5.0


def test_accumulation_equals_one_full_batch():
    """Two micro-batches of two points and one batch of four have the same mean gradient, and the
    trace holds the mean loss and the mean of every traced number."""
    torch.manual_seed(0)
    points, targets = torch.randn(4, 3), torch.randn(4)
    results = []
    for accumulate in (1, 2):
        weight, trace = nn.Parameter(torch.ones(3)), Trace()
        pieces = iter(torch.arange(4).repeat(3).split(4 // accumulate))

        def loss(weight=weight, pieces=pieces):
            chosen = next(pieces)
            error = points[chosen] @ weight - targets[chosen]
            return (error**2).mean(), {"bias": error.mean().item()}

        run_steps(
            "fit", 3, loss, sgd(weight, rate=0.1), clip=1e9, trace=trace, accumulate=accumulate
        )
        results.append((weight.detach(), trace.rows))
    torch.testing.assert_close(results[0][0], results[1][0])
    for full, split in zip(results[0][1], results[1][1], strict=True):
        for key in ("loss", "gradient_norm", "bias"):
            assert split[key] == pytest.approx(full[key], rel=1e-5)


def test_the_schedule_scales_the_rate_and_is_undone():
    """L = w from w = 0 has gradient 1. Rate 1/2 with factors 3/4, 1/2, 1/4, 0 at shares 1/4, 1/2,
    3/4, 1 of steps done with this one moves w by -(1.5)/2 = -.75. Afterwards the rate is 1/2
    again."""
    weight, trace = parameter(0.0), Trace()
    optimizers = sgd(weight, rate=0.5)
    run_steps(
        "fit",
        4,
        lambda: (weight.sum(), {}),
        optimizers,
        clip=10.0,
        trace=trace,
        schedule=lambda share: 1 - share,
    )
    assert weight.item() == -0.75
    assert [row["rate_factor"] for row in trace.rows] == [0.75, 0.5, 0.25, 0.0]
    assert optimizers[0].param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("value", "steps_before"), [(math.nan, 1), (math.inf, 1), (-math.inf, 0), (math.nan, 0)]
)
def test_a_loss_that_is_not_finite_stops_training(value, steps_before):
    """The error names label and step, and the bad step changes nothing."""
    weight, trace = parameter(4.0), Trace()
    losses = iter([1.0] * steps_before + [value])

    def loss():
        return (weight**2).sum() / 2 * next(losses), {}

    with pytest.raises(TrainingError, match=f"fit: .* at step {steps_before + 1};"):
        run_steps("fit", 3, loss, sgd(weight, rate=0.5), clip=10.0, trace=trace)
    assert weight.item() == 4.0 / 2**steps_before
    assert len(trace.rows) == steps_before


def test_a_gradient_that_is_not_finite_stops_training():
    """sqrt(w) at 0 is 0, with an infinite slope: only the gradient shows it."""
    weight = parameter(0.0)
    with pytest.raises(TrainingError, match=r"loss 0\.0 and gradient norm .* at step 1"):
        run_steps(
            "fit", 1, lambda: (weight.sqrt().sum(), {}), sgd(weight, rate=1.0), clip=1.0,
            trace=Trace(),
        )  # fmt: skip
    assert weight.item() == 0.0


def test_an_earlier_gradient_does_not_enter():
    """L = w^2/2 from w = 4 at rate 1/2 gives 2, whatever was left in `grad`."""
    weight = parameter(4.0)
    weight.grad = torch.tensor([2.0])
    run_steps("fit", 1, half_square(weight), sgd(weight, rate=0.5), clip=10.0, trace=Trace())
    assert weight.item() == 2.0


def test_constant_schedule():
    assert [constant(share) for share in (0.0, 0.5, 0.99)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("warmup", "share", "expected"),
    [(0.1, 0.0, 0.0), (0.1, 0.05, 0.4755), (0.1, 0.1, 0.902), (0.1, 0.5, 0.51), (0.0, 0.0, 1.0)],
)
def test_warmup_linear(warmup, share, expected):
    """With floor .02 the line down is .02 + .98 (1 - share): .951 at .05 (of which half, as the
    warm-up is half done), .902 at .1, .51 at .5. Without warm-up it starts at 1."""
    assert warmup_linear(warmup)(share) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "expected"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
def test_plain_optimizers(kind, expected):
    weight = parameter(1.0)
    (optimizer,) = make_optimizers(kind, [weight], 0.25, weight_decay=0.125)
    assert type(optimizer) is expected
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["params"]) == (0.25, 0.125, [weight])


def test_muon_steps_matrices_and_adamw_the_rest():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), parameter(1.0)
    muon, rest = make_optimizers("muon", [matrix], 0.25, matrix_learning_rate=0.5, vectors=[vector])
    assert (type(muon), type(rest)) == (Muon, torch.optim.AdamW)
    assert [(g["lr"], g["params"]) for g in muon.param_groups] == [(0.5, [matrix])]
    assert [(g["lr"], g["params"]) for g in rest.param_groups] == [(0.25, [vector])]


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="lion"):
        make_optimizers("lion", [parameter(1.0)], 0.1)


@pytest.mark.parametrize(
    ("kind", "per_layer"), [("llama", 7), ("gpt2", 4), ("gpt_neox", 4), ("phi3", 4)]
)
def test_split_matrices(tiny_lm, kind, per_layer):
    """Of 3 layers: q, k, v, o, gate, up, down in Llama; fused qkv, o, up (fused), down elsewhere.
    Embeddings, GPT-2's positions among them, are no matrices. Every parameter is in exactly one of
    the two lists."""
    model = tiny_lm(kind)
    matrices, rest = split_matrices(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(matrices) == 3 * per_layer
    assert not any("embed" in names[id(p)] or "head" in names[id(p)] for p in matrices)
    assert sorted(map(id, matrices + rest)) == sorted(names)


def test_a_loss_without_a_trained_part_is_an_error():
    """The weight's square has no gradient once the weight is frozen."""
    weight = parameter(1.0).requires_grad_(False)
    with pytest.raises(TrainingError, match=r"^fit: the loss depends on nothing that is trained"):
        run_steps("fit", 1, half_square(weight), sgd(weight, rate=1.0), clip=1.0, trace=Trace())


def test_the_fullest_batch_is_gone_through_once_and_changes_nothing():
    """After the first step, when AdamW has its state; what it draws of torch's generator, and its
    gradient, are as if nothing had been."""

    def train(fullest):
        torch.manual_seed(0)
        weight, trace = parameter(4.0), Trace()
        optimizers = make_optimizers("adamw", [weight], 0.1)

        def loss():
            return (weight * torch.rand(1)).sum(), {}

        made = fullest and (lambda: fullest(weight, optimizers[0]))
        run_steps("fit", 3, loss, optimizers, clip=10.0, trace=trace, fullest=made)
        return trace.rows, weight.item(), torch.rand(1).item()

    calls = []

    def large(weight, optimizer):
        calls.append(len(optimizer.state))
        return (weight * 1e9 * torch.rand(5)).sum(), {}

    assert train(large) == train(None)
    assert calls == [1]


def test_what_does_not_fit_fails_after_the_first_step():
    weight, trace = parameter(4.0), Trace()

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run_steps(
            "fit", 9, half_square(weight), sgd(weight, rate=0.1), clip=1.0, trace=trace,
            fullest=too_large,
        )  # fmt: skip
    assert len(trace.rows) == 1
