import copy
import math

import pytest
import torch

from atu.errors import ConfigError
from atu.methods.undial import (
    METHOD,
    Settings,
    as_token_numbers,
    lowered_logits,
    undial_loss,
)
from atu.training.batches import Batch
from atu.training.likelihood import mean_nll

LN2, LN3 = math.log(2), math.log(3)
LABELS = torch.tensor([[-100, -100, 1, 0]])
SCORED = torch.tensor([[-100, -100, 0, 0]])


def test_only_the_following_scored_token_is_lowered():
    """Positions 1 and 2 predict the tokens 1 and 0, which are scored; positions 0 and 3 predict
    nothing that is."""
    found = lowered_logits(torch.zeros(1, 4, 2), LABELS, 5.0)
    assert found.tolist() == [[[0, 0], [0, -5], [-5, 0], [0, 0]]]


@pytest.mark.parametrize(
    ("model", "beta", "expected"),
    [
        (1 / 2, LN3, LN2),
        (1 / 4, LN3, 2 * LN2 - 0.75 * LN3),
        (1 / 4, 0.0, math.log(16 / 3) / 2),
        (1 / 4, 1e3, math.log(4 / 3)),
    ],
)
def test_value(make_settings, make_context, given_probabilities, model, beta, expected):
    """The original is uniform, the forget token 0: the targets are (1/4, 3/4) at beta ln 3,
    (1/2, 1/2) at beta 0, (0, 1) far above. Cross-entropies to models (1/2, 1/2): ln 2; (1/4, 3/4):
    (ln 4 + 3 ln 4/3) / 4 = .5623, (ln 4 + ln 4/3) / 2 and ln 4/3."""
    context = make_context(
        make_settings(Settings, loss="undial", variant="paper", beta=beta),
        given_probabilities([[model] * 4]),
        given_probabilities([[1 / 2] * 4]),
    )
    labels = torch.tensor([[-100, 0, 0, -100]])
    batch = Batch(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4), labels)
    value = undial_loss(context, batch)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert context.reference.logits.grad is None


@pytest.mark.parametrize(("beta", "still"), [(0.0, True), (1.0, False)])
def test_without_beta_the_original_stays(make_settings, make_context, beta, still):
    """At model = original and beta 0 the targets are the model's own predictions."""
    context = make_context(make_settings(Settings, loss="undial", variant="paper", beta=beta))
    undial_loss(context, next(context.forget)).backward()
    norm = torch.stack([p.grad.norm() for p in context.model.parameters()]).norm()
    assert (norm.item() < 1e-5) is still


@pytest.mark.parametrize(("model", "expected"), [(1 / 4, 0.0), (1 / 2, 1 / 8)])
def test_the_gradient_stops_at_the_targets(
    make_settings, make_context, given_probabilities, model, expected
):
    """A uniform original, beta ln 3, two forget tokens 0: targets (1/4, 3/4). The gradient at each,
    (model - target) / 2: 0 there, 1/8 at the original."""
    context = make_context(
        make_settings(Settings, loss="undial", variant="paper", beta=LN3),
        given_probabilities([[model] * 4]),
        given_probabilities([[1 / 2] * 4]),
    )
    undial_loss(
        context, Batch(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4), SCORED)
    ).backward()
    grad = context.model.logits.grad[0, :, 0]
    assert grad.tolist() == pytest.approx([0, expected, expected, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("variant", "expected"), [("paper", LN2), ("open_unlearning", (2 * LN2 + math.log(101)) / 3)]
)
def test_what_is_not_scored(make_settings, make_context, given_logits, variant, expected):
    """Over 101 tokens: two scored tokens of which the model gives 1/2 to one of two others, and an
    unscored one of which it knows nothing. open-unlearning lowers token 1 there, and counts it."""
    logits = torch.full((1, 4, 101), -1e9)
    logits[:, 1:, :2] = 0.0
    logits[:, 0] = 0.0
    settings = make_settings(Settings, loss="undial", variant=variant, beta=0.0)
    context = make_context(settings, given_logits(logits), given_logits(logits))
    labels = torch.tensor([[-100, -100, 1, 0]])
    batch = Batch(torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4), labels)
    assert undial_loss(context, batch).item() == pytest.approx(expected)


def test_labels_as_open_unlearning_reads_them():
    """-100 counts from the end; a first one is of no position."""
    assert as_token_numbers(torch.tensor([[-100, 5, -100]]), 101).tolist() == [[1, 5, 1]]
    assert as_token_numbers(torch.tensor([[-100, 5, 6]]), 7)[:, 1:].tolist() == [[5, 6]]
    with pytest.raises(ConfigError, match=r"lowers token 99 - 100 .* use `paper`"):
        as_token_numbers(torch.tensor([[-100, 5, -100]]), 99)


def test_steps_make_the_forget_texts_less_likely(make_settings, make_context):
    context = make_context(make_settings(Settings, loss="undial", variant="paper", beta=10.0))
    model, batch = context.model, next(context.forget)
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(5):
        optimizer.zero_grad()
        undial_loss(context, batch).backward()
        optimizer.step()
    with torch.no_grad():
        nll = [
            mean_nll(
                m(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits,
                batch.labels,
            ).item()
            for m in (before, model)
        ]
    assert nll[1] > nll[0] + 1e-3


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (True, False, "full")
