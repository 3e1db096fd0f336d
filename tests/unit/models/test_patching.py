import pytest
import torch
from families import FAMILIES

from atu.models.llm import final_norm
from atu.models.patching import patched, states_at

IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
CHOSEN = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]).bool()


ALL = (1, 2, 3)


def logits(model):
    return model(input_ids=IDS, attention_mask=MASK).logits


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tiny_lm):
    """Two models of one family."""
    return tiny_lm(request.param), tiny_lm(request.param, 1)


@torch.no_grad()
def test_states_are_those_that_transformers_gives_but_the_last_before_its_norm(pair):
    model, _ = pair
    found = states_at(model, IDS, MASK, ALL)
    expected = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    assert list(found) == [1, 2, 3]
    assert not any(module._forward_pre_hooks for module in model.modules())
    for index in (1, 2):
        assert torch.equal(found[index], expected[index])
    torch.testing.assert_close(final_norm(model)(found[3]), expected[3])


@torch.no_grad()
def test_a_models_own_states_change_nothing(pair):
    model, _ = pair
    before = logits(model)
    for index, states in states_at(model, IDS, MASK, ALL).items():
        with patched(model, index, states, torch.ones_like(CHOSEN)):
            assert torch.equal(logits(model), before)


@torch.no_grad()
def test_only_the_chosen_positions_get_other_states(pair):
    """At the last index the head reads them through the model's own norm; below it, later positions
    see them too, earlier ones never. Afterwards the model is as it was."""
    model, other = pair
    states, before = states_at(other, IDS, MASK, ALL), logits(model)
    with patched(model, 3, states[3], CHOSEN):
        after = logits(model)
    head = model.get_output_embeddings()
    expected = head(final_norm(model)(states[3]))
    if limit := getattr(model.config, "final_logit_softcapping", None):
        expected = limit * torch.tanh(expected / limit)
    torch.testing.assert_close(after[CHOSEN], expected[CHOSEN])
    assert torch.equal(after[~CHOSEN], before[~CHOSEN])
    with patched(model, 1, states[1], CHOSEN):
        after = logits(model)
    assert torch.equal(after[0, :2], before[0, :2]) and torch.equal(after[1, 0], before[1, 0])
    assert not torch.allclose(after[0, 4], before[0, 4])
    assert torch.equal(logits(model), before)
