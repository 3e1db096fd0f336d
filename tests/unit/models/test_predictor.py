import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atu.errors import ArtifactError
from atu.models.predictor import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    PredictorConfig,
    build_predictor,
    load_predictor,
    save_predictor,
)

CONFIG = PredictorConfig(
    input_dim=6,
    output_dim=4,
    width=8,
    layers=2,
    heads=2,
    feedforward=16,
    dropout=0.1,
    sees_future=False,
)
REFERENCE = dataclasses.replace(CONFIG, sees_future=True)
LENGTH = 7


@pytest.fixture(scope="module")
def predictor():
    return build_predictor(CONFIG, seed=0).eval()


def future_effect(predictor, position, seed=0):
    """Largest change of the outputs up to `position` when all later hidden states change."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, LENGTH, CONFIG.input_dim, generator=generator)
    changed = hidden.clone()
    changed[:, position + 1 :] = torch.randn(changed[:, position + 1 :].shape, generator=generator)
    difference = predictor(hidden) - predictor(changed)
    return difference[:, : position + 1].abs().max().item()


def test_shape(predictor):
    assert predictor(torch.randn(3, 5, 6)).shape == (3, 5, 4)


@pytest.mark.parametrize("gradients", [True, False])
@given(position=st.integers(0, LENGTH - 2), seed=st.integers(0, 2**31))
def test_no_output_sees_the_future(predictor, gradients, position, seed):
    """With gradients as in training, and without, where torch may take another path."""
    with torch.set_grad_enabled(gradients):
        assert future_effect(predictor, position, seed) < 1e-5


@pytest.mark.parametrize("position", range(LENGTH - 1))
def test_the_reference_sees_the_future(position):
    """`sees_future` reproduces the missing memory mask, so the test above can go red."""
    assert future_effect(build_predictor(REFERENCE, seed=0).eval(), position) > 1e-3


@pytest.mark.parametrize(("config", "alike"), [(CONFIG, False), (REFERENCE, True)])
def test_only_the_references_layers_begin_alike(config, alike):
    first, second = (
        layer.linear1.weight for layer in build_predictor(config, seed=0).layers
    )  # fmt: skip
    assert torch.equal(first, second) is alike and first is not second


def test_every_output_sees_the_past(predictor):
    """e_t = E(h_1 .. h_t) depends on all of h_1 .. h_t and on nothing later: the gradient of output
    t is not zero at exactly these positions."""
    hidden = torch.randn(1, LENGTH, CONFIG.input_dim, requires_grad=True)
    output = predictor(hidden)
    for position in range(LENGTH):
        (slope,) = torch.autograd.grad(output[0, position].sum(), hidden, retain_graph=True)
        reached = (slope[0].abs().sum(dim=-1) > 0).tolist()
        assert reached == [i <= position for i in range(LENGTH)]


def test_right_padding_changes_nothing(predictor):
    hidden = torch.randn(1, 4, CONFIG.input_dim)
    padded = torch.cat([hidden, torch.zeros(1, 3, CONFIG.input_dim)], dim=1)
    torch.testing.assert_close(predictor(padded)[:, :4], predictor(hidden))


@pytest.mark.parametrize("config", [CONFIG, REFERENCE], ids=["causal", "reference"])
def test_round_trip(tmp_path, config):
    """A saved predictor comes back in eval mode with the same sizes and the same outputs."""
    built = build_predictor(config, seed=3)
    save_predictor(built, tmp_path)
    loaded = load_predictor(tmp_path / CONFIG_FILE, tmp_path / WEIGHTS_FILE)
    assert loaded.config == config
    assert not loaded.training
    hidden = torch.randn(1, 5, config.input_dim)
    assert torch.equal(loaded(hidden), built.eval()(hidden))


def test_other_sizes_are_refused(tmp_path):
    save_predictor(build_predictor(CONFIG, seed=0), tmp_path)
    config = (tmp_path / CONFIG_FILE).read_text()
    (tmp_path / CONFIG_FILE).write_text(config.replace('"width": 8', '"width": 4'))
    with pytest.raises(ArtifactError, match=r"predictor\.json: does not describe .*size mismatch"):
        load_predictor(tmp_path / CONFIG_FILE, tmp_path / WEIGHTS_FILE)


def test_the_seed_decides_the_weights():
    def weights(seed):
        return torch.cat([p.flatten() for p in build_predictor(CONFIG, seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_building_and_loading_leave_the_random_stream_alone(tmp_path):
    """`unlearn` seeds dropout and then loads the predictor; the seed must survive that."""
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    save_predictor(build_predictor(CONFIG, seed=0), tmp_path)
    load_predictor(tmp_path / CONFIG_FILE, tmp_path / WEIGHTS_FILE)
    assert torch.equal(torch.rand(1), expected)
