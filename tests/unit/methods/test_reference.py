"""`reference_compat`, loss for loss: what the reference implementation computes, written out with
nothing but torch and transformers, against what we compute in its place.

The behaviours are those of ExplainableML/align-then-unlearn at 670be43: a decoder whose memory is
its own input, unmasked; a hinge over every position, padding included; GA and NPO on labels that
are shifted in the data set and again by the model; one sigmoid of NPO's batch mean.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from atu.alignment.cosine import alignment_loss
from atu.methods.atu import METHOD
from atu.methods.atu import Settings as AtuSettings
from atu.methods.ga import Settings as GaSettings
from atu.methods.ga import ga_loss
from atu.methods.npo import Settings as NpoSettings
from atu.methods.npo import npo_loss
from atu.models.predictor import PredictorConfig, build_predictor
from atu.training.batches import IGNORE, BatchStream, EncodedText, collate

TEXTS = [EncodedText([1, 5, 6, 7, 8, 9], 2, []), EncodedText([1, 10, 11], 1, [])]
LAYER = 2


@pytest.fixture
def predictor():
    """The reference's kind of predictor, small: it reads hidden states of `tiny_lm`."""
    config = PredictorConfig(
        input_dim=16, output_dim=6, width=8, layers=2, heads=2, feedforward=16, dropout=0.0,
        sees_future=True,
    )  # fmt: skip
    return build_predictor(config, 0).eval()


@pytest.fixture
def hidden(tiny_lm):
    """A model and its `hidden_states[LAYER]` for both texts, as transformers gives them."""
    model, batch = tiny_lm(), collate(TEXTS, 0)
    with torch.no_grad():
        found = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            output_hidden_states=True,
        ).hidden_states[LAYER]
    return model, batch, found


def reference_predictor(predictor, hidden):
    """Linear, `nn.TransformerDecoder` with its input as memory and a causal mask on the target
    alone, Linear: with our predictor's weights."""
    config = predictor.config
    layer = nn.TransformerDecoderLayer(
        config.width, config.heads, config.feedforward, config.dropout, batch_first=True
    )
    decoder = nn.TransformerDecoder(layer, config.layers).eval()
    decoder.load_state_dict({f"layers.{k}": v for k, v in predictor.layers.state_dict().items()})
    x = predictor.enter(hidden)
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return predictor.leave(decoder(tgt=x, memory=x, tgt_mask=mask))


@torch.no_grad()
def test_the_predictor(predictor, hidden):
    _, _, found = hidden
    assert torch.allclose(predictor(found), reference_predictor(predictor, found), atol=1e-5)


@torch.no_grad()
def test_alignment(predictor, hidden):
    """-cos over the positions with a full window; ours is 1 - cos, the same but for a constant."""
    _, batch, found = hidden
    target = torch.randn(*batch.input_ids.shape, 6, generator=torch.Generator().manual_seed(0))
    full = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    cosines = F.cosine_similarity(reference_predictor(predictor, found), target, dim=-1)
    reference = -cosines[full.bool()].mean()
    ours = alignment_loss(predictor(found), target, full)
    assert ours.item() == pytest.approx(reference.item() + 1, abs=1e-5)


def test_the_hinge_over_all_positions(predictor, hidden, make_settings, make_context):
    """relu(cos - tau).mean() over every position of the batch, padding included."""
    model, batch, found = hidden
    concept = torch.eye(6)[:1]
    tau = -0.5
    with torch.no_grad():
        cosines = F.cosine_similarity(reference_predictor(predictor, found), concept, dim=-1)
        reference = F.relu(cosines - tau).mean().item()
    settings = make_settings(
        AtuSettings, loss="atu", hook_layers=[], quantiles=[], thresholds=[tau], adaptive=False,
        realign_steps=0, positions="all", width=0, concept=1.0, answers=0.0, stranger=0.0,
        visits=False, restored=0.0,
    )  # fmt: skip
    context = make_context(
        settings, model, reference_compat=True, predictors={LAYER: predictor}, concept=concept,
        forget=iter([batch]),
    )  # fmt: skip
    _, parts = next(METHOD.plan(context)).loss()
    assert parts["forget"] == pytest.approx(reference, abs=1e-6)
    assert not batch.attention_mask.all()


def shifted(batch):
    """Labels as the reference's data set makes them: the next token, nothing at the end."""
    labels = torch.full_like(batch.labels, IGNORE)
    labels[:, :-1] = batch.labels[:, 1:]
    return labels


@pytest.fixture
def compat(tiny_lm, make_settings, make_context):
    """A model, its altered copy as reference, the doubly shifted batch, and a context."""

    def build(kind, **own):
        model, other = tiny_lm(seed=0), tiny_lm(seed=1).requires_grad_(False)
        stream = BatchStream(TEXTS, 2, 0, np.random.default_rng(0), double_shift=True)
        context = make_context(
            make_settings(kind, **own), model, other, reference_compat=True, forget=stream
        )
        batch = next(stream)
        plain = collate([TEXTS[i] for i in batch.numbers], 0)
        return model, other, context, batch, plain

    return build


def hf_loss(model, batch, labels):
    """What transformers computes when it is given labels, which it shifts by one."""
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss


@torch.no_grad()
def test_gradient_ascent_on_the_token_after_next(compat):
    model, _, context, batch, plain = compat(GaSettings, loss="ga")
    reference = -hf_loss(model, plain, shifted(plain)).item()
    assert ga_loss(context, batch).item() == pytest.approx(reference, abs=1e-5)
    assert reference != pytest.approx(-hf_loss(model, plain, plain.labels).item())


@torch.no_grad()
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_npo_of_the_batch_mean(compat, beta):
    """-(2/beta) log sigmoid(beta (loss - reference loss)) with the mean losses of the batch."""
    model, other, context, batch, plain = compat(NpoSettings, loss="npo", beta=beta)
    gap = hf_loss(model, plain, shifted(plain)) - hf_loss(other, plain, shifted(plain))
    reference = 2 / beta * math.log1p(math.exp(-beta * gap.item()))
    assert npo_loss(context, batch).item() == pytest.approx(reference, abs=1e-5)


def test_our_own_losses_differ(compat):
    """Otherwise the tests above would show nothing."""
    _, _, context, _, plain = compat(NpoSettings, loss="npo", beta=1.0)
    ours = dataclasses.replace(context, reference_compat=False)
    assert npo_loss(ours, plain).item() != pytest.approx(npo_loss(context, plain).item())
