import math

import pytest
import torch

from atu.methods import flat
from atu.methods.flat import (
    METHOD,
    Settings,
    flat_from_probabilities,
    flat_loss,
    mean_probability,
    variational,
)
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import Batch

DIVERGENCES = ["kl", "tv", "js", "pearson"]
LN2 = math.log(2)


def batch_of(labels):
    return Batch(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4), torch.tensor(labels))


# Two texts over two tokens: forget answers of token 0, one and two long, refusals of token 1.
FORGET = batch_of([[-100, 0, -100, -100], [-100, 0, 0, -100]])
REFUSAL = batch_of([[-100, 1, -100, -100], [-100, 1, -100, -100]])


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("kl", 0.5),
        ("tv", (math.tanh(1) - math.tanh(0.5)) / 2),
        ("js", math.log(1 + math.e) + math.log(1 + math.exp(-0.5)) - 2 * LN2),
        ("pearson", 0.75),
    ],
)
def test_value(divergence, expected):
    """Template .5, forget 1. kl: -.5 + exp(1 - 1). tv: (tanh 1 - tanh .5) / 2 = .1497. js:
    f*(g*(1)) = -ln(2 - 2 / (1 + 1/e)) = ln(1 + e) - ln 2 and -g*(.5) = ln(1 + exp(-.5)) - ln 2.
    pearson: -.5 + 1/4 + 1."""
    value = flat_from_probabilities(torch.tensor([0.5]), torch.tensor([1.0]), divergence)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_at_no_probability(divergence):
    """g*(0) = 0 and f*(0) = 0, but 1/e for kl."""
    g, conjugate = variational(torch.zeros(1), divergence)
    assert g.item() == pytest.approx(0, abs=1e-6)
    assert conjugate.item() == pytest.approx(1 / math.e if divergence == "kl" else 0, abs=1e-6)


@pytest.mark.parametrize(
    ("divergence", "f"),
    [
        ("kl", lambda t: t * t.log()),
        ("js", lambda t: t * t.log() - (t + 1) * ((t + 1) / 2).log()),
        ("pearson", lambda t: (t - 1).square()),
        ("tv", lambda t: (t - 1).abs() / 2),
    ],
)
def test_the_pairs_are_conjugates(divergence, f):
    """f*(u) = max over t of u t - f(t), sought on a fine grid, at u = g*(v) for v in [0, 1]."""
    grid = torch.linspace(1e-4, 8, 400001, dtype=torch.float64)
    for v in (0.1, 0.5, 0.9):
        u, conjugate = variational(torch.tensor(v, dtype=torch.float64), divergence)
        assert conjugate.item() == pytest.approx((u * grid - f(grid)).max().item(), abs=1e-4)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_lower_with_the_template_and_without_the_forget_answer(divergence):
    template = torch.tensor([0.3], requires_grad=True)
    forget = torch.tensor([0.7], requires_grad=True)
    flat_from_probabilities(template, forget, divergence).backward()
    assert template.grad.item() < 0 < forget.grad.item()


def test_mean_probability(given_probabilities):
    """Text A has one token of probability 1/2; text B two, 1/2 and 1/4: their mean 3/8."""
    model = given_probabilities([[1 / 2, 0.9, 0.9, 0.9], [1 / 2, 1 / 4, 0.9, 0.9]])
    found = mean_probability(model.logits, FORGET.labels)
    assert found.tolist() == pytest.approx([1 / 2, 3 / 8])


def test_batches_of_texts(make_settings, make_context, given_probabilities, monkeypatch):
    """Token 0 has probability 1/2 in text A and 1, then 1/2, in text B: forget 1/2 and 3/4,
    template 1/2 and 0. pearson: -1/2 + 1/16 + 1/2 = 1/16 and 9/64 + 3/4 = 57/64; their mean
    61/128."""
    monkeypatch.setattr(flat, "refusal_batch", lambda context, batch: REFUSAL)
    context = make_context(
        make_settings(Settings, loss="flat", divergence="pearson"),
        given_probabilities([[1 / 2] * 4, [1.0, 1 / 2, 1 / 2, 1 / 2]]),
    )
    assert flat_loss(context, FORGET).item() == pytest.approx(61 / 128)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_steps_prefer_the_refusals(make_settings, make_context, tiny_lm, divergence):
    settings = make_settings(Settings, loss="flat", divergence=divergence)
    context = make_context(settings, tiny_lm(vocab_size=300))
    batch = next(context.forget)
    refusal = refusal_batch(context, batch)

    @torch.no_grad()
    def probability(part):
        inputs = {"input_ids": part.input_ids, "attention_mask": part.attention_mask}
        return mean_probability(context.model(**inputs).logits, part.labels)

    before = probability(refusal), probability(batch)
    optimizer = torch.optim.AdamW(context.model.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        flat_loss(context, batch).backward()
        optimizer.step()
    assert (probability(refusal) > before[0]).all()
    assert (probability(batch) < before[1]).all()


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.start) == (False, True, "full")


def test_the_expectation_is_over_pairs():
    """Forget probabilities 0 and 1, templates 1/2, kl: (1/e + 1) / 2 - 1/2 = 1 / (2 e). The paper's
    code takes the mean of the probabilities first: exp(1/2 - 1) - 1/2, half as large."""
    pairs = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    value = flat_from_probabilities(*pairs, "kl").item()
    assert value == pytest.approx(1 / (2 * math.e))
    averaged = flat_from_probabilities(*(p.mean()[None] for p in pairs), "kl").item()
    assert averaged == pytest.approx(math.exp(-0.5) - 0.5)
