import dataclasses

import pytest
import torch

from atu.errors import ConfigError
from atu.methods.rmu import METHOD, Settings, control_vector, rmu_loss, states_error
from atu.models.llm import hidden_states
from atu.models.trainable import Layers, MlpOutput, make_trainable
from atu.training.batches import Batch
from atu.training.losses import activation_error


@pytest.fixture
def make(make_settings, make_context):
    """A context on a tiny model, with these settings."""

    def make(layer=2, steering=3.0, alpha=1.0, variant="paper", **own):
        settings = make_settings(
            Settings, loss="rmu", variant=variant, layer=layer, steering=steering, alpha=alpha
        )  # fmt: skip
        return make_context(settings, **own)

    return make


def test_control_vector():
    """As long as asked, in the positive orthant, decided by the seed."""
    found = control_vector(64, 5.0, 0)
    assert found.norm().item() == pytest.approx(5.0)
    assert (found >= 0).all() and found.std() > 0
    assert torch.equal(found, control_vector(64, 5.0, 0))
    assert not torch.equal(found, control_vector(64, 5.0, 1))
    assert torch.allclose(2 * found, control_vector(64, 10.0, 0))


def test_without_steering_at_the_reference(make):
    """The forget part is the mean square of the forget states over texts, and the retain part is
    0, whatever its weight."""
    context = make(steering=0.0, alpha=1000.0)
    batch = next(context.forget)
    states = hidden_states(context.model, batch.input_ids, batch.attention_mask, 2)
    lengths = batch.attention_mask.sum(dim=1)
    expected = torch.stack(
        [row[:length].square().mean() for row, length in zip(states, lengths, strict=True)]
    ).mean()
    assert rmu_loss(context, batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_steering_enters_as_a_shift(make):
    """||h - cu||^2 = ||h||^2 - 2c u.h + c^2, per entry divided by the hidden size: the second
    difference in c is 2/16."""
    losses = []
    for steering in (0.0, 1.0, 2.0):
        context = make(steering=steering)
        losses.append(rmu_loss(context, next(context.forget)).item())
    assert losses[2] - 2 * losses[1] + losses[0] == pytest.approx(2 / 16, rel=1e-3)


def test_the_retain_part_is_the_distance_to_the_original(make, tiny_lm):
    context = make(alpha=0.0, reference=tiny_lm(seed=1).requires_grad_(False))
    batch, kept = next(context.forget), next(context.retain)
    without = rmu_loss(context, batch).item()
    context.retain = iter([kept])
    context.settings = dataclasses.replace(context.settings, alpha=3.0)
    states = [
        hidden_states(model, kept.input_ids, kept.attention_mask, 2)
        for model in (context.model, context.reference)
    ]
    expected = 3 * activation_error(*states, kept.attention_mask).item()
    assert expected > 1e-3
    assert rmu_loss(context, batch).item() - without == pytest.approx(expected, rel=1e-3)


def test_padding_does_not_matter(make):
    """The two texts together have the mean of what they have alone."""
    context = make(alpha=0.0)
    whole = next(context.forget)
    alone = []
    for row in range(2):
        length = int(whole.attention_mask[row].sum())
        cut = [t[row : row + 1, :length] for t in vars(whole).values() if torch.is_tensor(t)]
        alone.append(rmu_loss(context, Batch(*cut)).item())
    assert alone[0] != pytest.approx(alone[1])
    assert rmu_loss(context, whole).item() == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_steps_pull_the_states_to_the_vector(make):
    """And move nothing but what `train` says."""
    context = make(alpha=0.0)
    context.parameters = make_trainable(context.model, Layers("layers", [1]), None)[0]
    context.settings = dataclasses.replace(context.settings, train=Layers("layers", [1]))
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    batch = next(context.forget)
    first = rmu_loss(context, batch).item()
    optimizer = torch.optim.SGD(context.parameters, lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        rmu_loss(context, batch).backward()
        optimizer.step()
    assert rmu_loss(context, batch).item() < first - 0.01
    changed = {
        name for name, value in context.model.state_dict().items()
        if not torch.equal(value, before[name])
    }  # fmt: skip
    assert changed and all(".layers.1." in name for name in changed)


def test_stages(make):
    """The plain stretches: 10 steps in 3 parts."""
    context = make()
    assert [stage.steps for stage in METHOD.plan(context)] == [4, 3, 3]
    assert METHOD.needs_reference and not METHOD.needs_predictor


def test_a_layer_that_the_model_does_not_have(make):
    with pytest.raises(ConfigError, match=r"hidden states 1\.\.2"):
        next(METHOD.plan(make(layer=3)))


def test_training_only_above_the_layer_is_refused(make):
    context = make(layer=1)
    context.parameters = make_trainable(context.model, Layers("layers", [1, 2]), None)[0]
    with pytest.raises(ConfigError, match="nothing below"):
        next(METHOD.plan(context))


HAND = torch.tensor([[[2.0], [0.0]], [[1.0], [7.0]]])
"""Squared distances 4 and 0 in the tokens of one text, 1 in that of the other, which is padded."""


@pytest.mark.parametrize(("variant", "expected"), [("paper", 1.5), ("open_unlearning", 1.875)])
def test_means_by_hand(variant, expected):
    """(4 / 2 + 1) / 2 of every text; (4 + 1) / 2 times (1 / 2 + 1) / 2."""
    mask = torch.tensor([[1, 1], [1, 0]])
    batch = Batch(mask, mask, torch.where(mask == 1, 3, -100))
    assert states_error(HAND, torch.zeros(1), batch, variant).item() == pytest.approx(expected)


@pytest.mark.parametrize(("variant", "expected"), [("paper", 1.5), ("open_unlearning", 2.5)])
def test_what_is_not_scored_counts_in_the_paper(variant, expected):
    """Without the first text's second token: (4 + 1) / 2 times (1 + 1) / 2."""
    mask = torch.tensor([[1, 1], [1, 0]])
    batch = Batch(mask, mask, torch.tensor([[3, -100], [3, -100]]))
    assert states_error(HAND, torch.zeros(1), batch, variant).item() == pytest.approx(expected)


def test_the_papers_parameters(make):
    """The output projections of the MLPs of the layers below the states, and nothing else."""
    context = make(layer=2)
    choice = MlpOutput("mlp_output", [0, 1])
    context.parameters = make_trainable(context.model, choice, None)[0]
    rmu_loss(context, next(context.forget)).backward()
    with_gradient = {n for n, p in context.model.named_parameters() if p.grad is not None}
    assert with_gradient == {f"model.layers.{k}.mlp.down_proj.weight" for k in (0, 1)}
