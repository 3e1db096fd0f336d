"""No attack takes NaN for an answer: it fails, and names the layer."""

import math
import re

import pytest
import torch

from atu import attacks
from atu.errors import EvaluationError
from atu.models.llm import decoder_layers

FAILURE = "is not finite; first in the hidden states of layer 2 of 3"


@pytest.mark.parametrize("name", sorted(attacks.registry()))
def test_a_model_with_nan_fails_every_attack(make_context, build_lm, name):
    """In its second layer: what is read below it is still finite."""
    model = build_lm()
    *_, weight = decoder_layers(model)[1].parameters()
    with torch.no_grad():
        weight.fill_(math.nan)
    settings = {"layers": [2]} if name == "fresh_predictor" else None
    with pytest.raises(EvaluationError, match=re.escape(FAILURE)):
        attacks.get(name).run(make_context(name, settings, model=model))


def test_a_fresh_predictor_below_the_bad_layer_is_refused_at_none(make_context, build_lm):
    """The states that it reads there are finite, so its scores are of numbers."""
    model = build_lm()
    *_, weight = decoder_layers(model)[1].parameters()
    with torch.no_grad():
        weight.fill_(math.nan)
    context = make_context("fresh_predictor", {"layers": [1], "steps": 1}, model=model)
    items = attacks.get("fresh_predictor").run(context).items
    assert items and all(math.isfinite(row["score"]) for row in items)
