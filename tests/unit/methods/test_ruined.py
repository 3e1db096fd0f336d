"""A model that unlearning has ruined, with logits of 1e4: every loss stays a number, and so does
its gradient."""

from functools import partial

import pytest
import torch

from atu.methods import (
    ceu,
    dpo,
    flat,
    ga,
    npo,
    rt,
    satimp,
    simnpo,
    uld,
    undial,
    wga,
    whp,
)  # fmt: skip
from atu.methods.base import combined_loss
from atu.training.batches import Batch

LABELS = torch.tensor([[-100, 0, 1, 1], [-100, 1, 0, -100]])
SIZE = 1e4
LOSSES = {
    "ga": (ga, "ga", {}),
    "npo": (npo, "npo", {"beta": 0.1}),
    "npo, beta 10": (npo, "npo", {"beta": 10.0}),
    "simnpo": (simnpo, "simnpo", {"beta": 4.5, "gamma": 1.0}),
    "wga": (wga, "wga", {"beta": 0.5}),
    "wga, beta 0": (wga, "wga", {"beta": 0.0}),
    "satimp": (satimp, "satimp", {"beta1": 5.0, "beta2": 0.5}),
    "satimp, betas 0": (satimp, "satimp", {"beta1": 0.0, "beta2": 0.0}),
    "ceu": (ceu, "ceu", {"skip": 1}),
    "dpo": (dpo, "dpo", {"beta": 0.1}),
    "rt": (rt, "rt", {}),
    "undial": (undial, "undial", {"variant": "paper", "beta": 30.0}),
    "whp": (
        whp, "whp", {"alpha": 30.0, "reinforce_steps": 1, "reinforce_learning_rate": 0.1}
    ),
    **{f"flat, {d}": (flat, "flat", {"divergence": d}) for d in ("kl", "tv", "js", "pearson")},
}  # fmt: skip


def ruined(build, sign=1.0):
    """Logits of SIZE, 0 and -SIZE: half of the scored tokens have a probability of 0."""
    model = build([[0.5] * 4, [0.5] * 4])
    with torch.no_grad():
        model.logits.copy_(sign * SIZE * torch.tensor([[[1, -1], [1, -1], [-1, 1], [0, 0]]] * 2))
    return model


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_ruined_model(
    make_settings, make_context, given_probabilities, monkeypatch, name, sign
):  # fmt: skip
    """Beside a sound reference, with both terms of the likelihood on retain texts."""
    module, loss, own = LOSSES[name]
    batch = Batch(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4), LABELS)
    for user in (dpo, flat, rt):
        monkeypatch.setattr(user, "refusal_batch", lambda context, batch: batch)
    model, reference = (
        ruined(given_probabilities, sign), given_probabilities([[0.5] * 4, [0.25] * 4])
    )  # fmt: skip
    context = make_context(
        make_settings(module.Settings, retain={"nll": 1.0, "kl": 1.0}, loss=loss, **own),
        model, reference, forget=iter([batch]), retain=iter([batch]),
    )  # fmt: skip
    forget_loss = getattr(module, f"{loss}_loss")
    if loss == "whp":
        forget_loss = partial(forget_loss, reinforced=ruined(given_probabilities, -sign))
    value, _ = combined_loss(context, forget_loss)
    value.backward()
    assert value.isfinite() and model.logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["undial", "npo", "dpo"])
def test_a_ruined_reference(make_settings, make_context, given_probabilities, monkeypatch, name):
    """The second of two requests starts from what the first one left."""
    module, loss, own = LOSSES[name]
    batch = Batch(torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4), LABELS)
    monkeypatch.setattr(dpo, "refusal_batch", lambda context, batch: batch)
    model = given_probabilities([[0.5] * 4, [0.25] * 4])
    context = make_context(
        make_settings(module.Settings, retain={"kl": 1.0}, loss=loss, **own),
        model, ruined(given_probabilities), forget=iter([batch]), retain=iter([batch]),
    )  # fmt: skip
    value, _ = combined_loss(context, getattr(module, f"{loss}_loss"))
    value.backward()
    assert value.isfinite() and model.logits.grad.isfinite().all()


def test_uld(given_probabilities):
    """The assistant's uniform term."""
    model = ruined(given_probabilities)
    value = uld.uniform_divergence(model.logits, torch.ones(2, 4))
    value.backward()
    assert value.isfinite() and model.logits.grad.isfinite().all()
