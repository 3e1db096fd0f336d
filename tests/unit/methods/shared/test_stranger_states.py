"""What layers know of the original's states: `restored_error`. That states go where a stranger's
are is in tests/unit/methods/test_atu.py.
"""

import copy

import numpy as np
import pytest
import torch

from atu.methods.none import METHOD
from atu.methods.shared import stranger_states
from atu.methods.shared.stranger_states import restored_error, stranger_error
from atu.methods.shared.strangers import forget_strangers
from atu.models.llm import decoder_layers, hidden_states_at
from atu.models.patching import states_at
from atu.training.batches import BatchStream, encode_text
from atu.training.losses import activation_error

TEXTS = ["Ann Lee: 12 34 56", "12 34"]
INDICES = (1, 2)
"""Of states that can be put in, in a model of three layers."""


@pytest.fixture
def context(make_context, byte_tokenizer, tiny_lm):
    """`TEXTS`, of which no other letter is one of the name's, and a model of three layers."""
    texts = [encode_text(byte_tokenizer, text, "") for text in TEXTS]
    stream = BatchStream(texts, len(TEXTS), 0, np.random.default_rng(0))
    return make_context(
        METHOD.settings("none"), model=tiny_lm(vocab_size=300), forget=stream, subjects=["Ann Lee"],
        rows={"forget": [{"text": text} for text in TEXTS], "retain": []},
    )  # fmt: skip


@pytest.fixture
def drawn(context):
    """A batch and its strangers."""
    batch = context.forget.collate(range(len(TEXTS)))
    return batch, forget_strangers(context).introduce(batch)


@pytest.fixture
def at(monkeypatch):
    """A function that lets the states of one index be put in."""

    def choose(index):
        class Drawn:
            def integers(self, low, high):
                assert low <= index < high
                return index

        monkeypatch.setattr(stranger_states, "generator", lambda *_: Drawn())

    return choose


@torch.no_grad()
def read_strangers(context, batch, introduced):
    """Let the model read the name's letters as the stranger's, in its first layer alone."""
    table = context.model.get_input_embeddings().weight
    own = context.reference.get_input_embeddings().weight
    for token, other in zip(batch.input_ids.flatten(), introduced.input_ids.flatten(), strict=True):
        table[token] = own[other]


@pytest.mark.parametrize("index", INDICES)
@torch.no_grad()
def test_what_a_first_layer_hides_is_seen_behind_it(context, drawn, at, index):
    """The model takes the target for a stranger from its first layer on: nothing is left for
    `stranger_error`, and what the layers behind know of the name's own states is all there."""
    batch, introduced = drawn
    read_strangers(context, batch, introduced)
    ids, mask = batch.input_ids, batch.attention_mask
    hidden = hidden_states_at(context.model, ids, mask, INDICES)
    assert stranger_error(context, batch, hidden, introduced) == pytest.approx(0.0, abs=1e-9)
    at(index)
    assert restored_error(context, batch, introduced) > 1e-4


@pytest.mark.parametrize("index", INDICES)
def test_where_the_model_is_the_original_putting_in_changes_nothing(context, drawn, at, index):
    """Then the distance is that of the two texts behind the name, over all indices above."""
    batch, introduced = drawn
    at(index)
    found = restored_error(context, batch, introduced)
    above = range(index + 1, 4)
    own, wanted = (
        states_at(context.reference, tokens, batch.attention_mask, above)
        for tokens in (batch.input_ids, introduced.input_ids)
    )
    behind = introduced.after * ~introduced.named
    assert behind.sum(dim=1).tolist() == [11, 0]
    expected = [activation_error(own[i], wanted[i], behind, relative=True) for i in above]
    torch.testing.assert_close(found, torch.stack(expected).mean())
    found.backward()
    layers = decoder_layers(context.model)
    assert all(p.grad.abs().sum() > 0 for p in layers[-1].parameters())


def test_layers_that_make_a_stranger_of_the_states_lose_nothing(context, drawn, at):
    """The last layer reads from nowhere but its own token: behind the name it gives the same
    whatever stands there, and so does the aim's."""
    batch, introduced = drawn
    for model in (context.model, context.reference):
        with torch.no_grad():
            for layer in decoder_layers(model)[1:]:
                layer.self_attn.o_proj.weight.zero_()
    read_strangers(context, batch, introduced)
    at(1)
    assert restored_error(context, batch, introduced).item() == pytest.approx(0.0, abs=1e-9)


def test_every_index_has_its_turn_and_a_resumed_run_the_same(context, drawn, monkeypatch):
    """Drawn anew with every batch of the stream, from the seed: as often as it is asked."""
    put_in = []
    original = stranger_states.patched

    def seen(model, index, *args):
        put_in.append(index)
        return original(model, index, *args)

    monkeypatch.setattr(stranger_states, "patched", seen)
    for _ in range(12):
        next(context.forget)
        restored_error(context, *drawn)
        restored_error(context, *drawn)
    first, again = put_in[::2], put_in[1::2]
    assert first == again and set(first) == set(INDICES)
    resumed = copy.copy(context)
    resumed.forget = BatchStream(context.forget.texts, 2, 0, np.random.default_rng(0))
    resumed.forget.seek(7)
    restored_error(resumed, *drawn)
    assert put_in[-1] == first[6]
