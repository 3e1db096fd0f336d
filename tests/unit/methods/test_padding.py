"""The loss of a batch is the mean of its texts' losses alone: padding changes nothing."""

from functools import partial

import pytest
import torch

from atu.methods import ceu, dpo, flat, rt, satimp, simnpo, undial, wga, whp
from atu.methods.shared.refusals import refusal_batch
from atu.training.batches import Batch

LOSSES = {
    "simnpo": (simnpo.simnpo_loss, simnpo.Settings, {"beta": 1.0, "gamma": 0.5}),
    "dpo": (dpo.dpo_loss, dpo.Settings, {"beta": 0.5}),
    "rt": (rt.rt_loss, rt.Settings, {}),
    "wga": (wga.wga_loss, wga.Settings, {"beta": 1.0}),
    "satimp": (satimp.satimp_loss, satimp.Settings, {"beta1": 1.0, "beta2": 1.0}),
    "ceu": (ceu.ceu_loss, ceu.Settings, {"skip": 1}),
    "undial": (undial.undial_loss, undial.Settings, {"variant": "paper", "beta": 3.0}),
    "flat": (flat.flat_loss, flat.Settings, {"divergence": "kl"}),
    "whp": (
        whp.whp_loss,
        whp.Settings,
        {"alpha": 5.0, "reinforce_steps": 1, "reinforce_learning_rate": 0.1},
    ),
}


def alone(batch, row):
    length = int(batch.attention_mask[row].sum())
    tensors = batch.input_ids, batch.attention_mask, batch.labels
    cut = (tensor[row : row + 1, :length] for tensor in tensors)
    return Batch(*cut, numbers=batch.numbers[row : row + 1])


@pytest.mark.parametrize("name", LOSSES)
def test_padding_does_not_matter(make_settings, make_context, tiny_lm, name):
    """Means over tokens weigh each text by its scored tokens: 3 and 3 in the forget texts, as many
    as they have in the refusals, which differ in length."""
    loss, kind, own = LOSSES[name]
    settings = make_settings(kind, loss=name, **own)
    models = [tiny_lm(seed=seed, vocab_size=300) for seed in (0, 1)]
    context = make_context(settings, *models)
    if name == "whp":
        loss = partial(loss, reinforced=tiny_lm(seed=2, vocab_size=300))
    whole = next(context.forget)
    assert len(set(whole.attention_mask.sum(dim=1).tolist())) == 2
    weights = torch.ones(2)
    if name == "rt":
        weights = (refusal_batch(context, whole).labels != -100).sum(dim=1)
        assert weights[0] != weights[1]
    with torch.no_grad():
        parts = torch.stack([loss(context, alone(whole, row)) for row in range(2)])
        assert parts[0].item() != pytest.approx(parts[1].item())
        expected = (weights * parts).sum() / weights.sum()
        assert loss(context, whole).item() == pytest.approx(expected.item(), rel=1e-5)
