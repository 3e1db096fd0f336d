import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atu.alignment import loop as alignment
from atu.alignment.loop import (
    AlignmentData,
    alignment_step,
    batch_loss,
    cache_hidden_states,
    evaluate_alignment,
    train_predictor,
)
from atu.models.llm import hidden_states
from atu.models.predictor import PredictorConfig, build_predictor
from atu.training.keeper import Keeper, Trace

ROOT = math.sqrt(0.5)
PARAMS = {
    "steps": 40, "batch_tokens": 4, "learning_rate": 0.02, "warmup": 0.25, "clip": 1.0,
    "reference_compat": False,
}  # fmt: skip


@pytest.fixture
def data():
    """Texts of 3, 2 and 1 tokens. Windows 0, 1, 2 are (1, 0), (0, 1), (.7071, .7071)."""
    return AlignmentData(
        windows=torch.tensor([[1.0, 0.0], [0.0, 1.0], [ROOT, ROOT]]),
        concept=torch.tensor([[1.0, 0.0]]),
        token_ids=[torch.tensor([5, 6, 7]), torch.tensor([8, 9]), torch.tensor([10])],
        window_numbers=[torch.tensor([0, 1, -1]), torch.tensor([1, -1]), torch.tensor([2])],
    )


def test_load_cuts_the_texts_apart(tmp_path, data):
    path = tmp_path / "embeddings.safetensors"
    save_file(
        {
            "windows": data.windows,
            "concept": data.concept,
            "token_ids": torch.cat(data.token_ids).int(),
            "window_numbers": torch.cat(data.window_numbers).int(),
            "lengths": torch.tensor([3, 2, 1], dtype=torch.int32),
        },
        path,
    )
    loaded = AlignmentData.load(path)
    assert len(loaded) == 3
    for name in ("token_ids", "window_numbers"):
        assert [t.tolist() for t in getattr(loaded, name)] == [
            t.tolist() for t in getattr(data, name)
        ]
    assert torch.equal(loaded.windows, data.windows) and torch.equal(loaded.concept, data.concept)


def test_tokens_are_padded_on_the_right(data):
    ids, mask = data.tokens([1, 0])
    assert ids.tolist() == [[8, 9, 0], [5, 6, 7]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_targets_mask_incomplete_windows_and_padding(data):
    target, mask = data.targets([0, 2])
    assert mask.tolist() == [[True, True, False], [True, False, False]]
    assert target[0, :2].tolist() == [[1, 0], [0, 1]]
    assert target[1, 0].tolist() == pytest.approx([ROOT, ROOT])


def test_batch_loss(data):
    """With the hidden states as predictions: text 0 predicts (1, 0) twice for windows (1, 0) and
    (0, 1), cosines 1 and 0; text 1 predicts (1, 1) for (0, 1), .7071. Incomplete windows do not
    count: 1 - (1 + 0 + .7071) / 3 = .4310."""
    states = [
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [9.0, 9.0]]),
        torch.tensor([[1.0, 1.0], [-9.0, 9.0]]),
    ]
    value = batch_loss(nn.Identity(), data, states, [0, 1])
    assert value.item() == pytest.approx(1 - (1 + ROOT) / 3)


def test_alignment_step_batches_texts_of_similar_length(data):
    """Texts of 1 and 2 tokens fill the budget of 4 (2 x 2), the one of 3 tokens stands alone; two
    steps are one epoch, so ten epochs have each batch ten times. The traced cosine is 1 - loss."""
    states = [torch.full((len(ids), 2), float(i + 1)) for i, ids in enumerate(data.token_ids)]
    batches = []

    class Listening(nn.Identity):
        def forward(self, hidden):
            batches.append(sorted(hidden[:, 0, 0].tolist()))
            return hidden

    step, _ = alignment_step(Listening(), data, states, range(3), 4, np.random.default_rng(0))
    for _ in range(20):
        value, parts = step()
        assert parts == {"cosine": pytest.approx(1 - value.item())}
    assert sorted(batches) == [[1.0]] * 10 + [[2.0, 3.0]] * 10


@pytest.mark.parametrize(
    ("prediction", "cosine", "skill"),
    [
        ((3.0, 0.0), 1.0, 1.0),
        ((1.0, 1.0), ROOT, 0.0),
        ((0.0, 2.0), 0.0, -ROOT / (1 - ROOT)),
    ],
)
def test_skill(data, prediction, cosine, skill):
    """Fitted on windows (1, 0), (0, 1), (0, 1), (1, 0): the constant is (1, 1)/sqrt 2. On a test
    text whose one window is (1, 0) it has cosine .7071. A perfect prediction has skill 1, the
    constant itself 0, an orthogonal one (0 - .7071) / (1 - .7071) = -2.414."""
    data.token_ids.append(torch.tensor([5, 6]))
    data.window_numbers.append(torch.tensor([0, -1]))
    states = [torch.tensor([prediction] * len(ids)) for ids in data.token_ids]
    scores = evaluate_alignment(nn.Identity(), data, states, [0, 1, 3], [3])
    assert scores == {
        "cosine": pytest.approx(cosine, abs=1e-6),
        "constant_cosine": pytest.approx(ROOT),
        "skill": pytest.approx(skill, abs=1e-5),
    }


def test_cached_states_are_those_of_each_text_alone(tiny_lm, data):
    """Texts are sorted by length and padded for the cache; neither shows. The model comes back as
    it was."""
    model = tiny_lm().train()
    cached = cache_hidden_states(model, data, layer=2, batch_size=2)
    assert model.training and all(p.requires_grad for p in model.parameters())
    model.eval()
    for ids, states in zip(data.token_ids, cached, strict=True):
        alone = hidden_states(model, ids[None], torch.ones(1, len(ids)), 2)[0]
        assert states.shape == (len(ids), 16)
        assert not states.requires_grad
        torch.testing.assert_close(states, alone)


@pytest.fixture
def aligned(data):
    """A function that trains a new predictor on states that tell the window; it, its trace, and
    the states."""

    def train(texts=range(3), seed=0, dropout=0.0, **params):
        config = PredictorConfig(4, 2, 8, 1, 2, 16, dropout, False)
        predictor = build_predictor(config, 0).eval()
        rng = torch.Generator().manual_seed(0)
        states = [torch.randn(len(ids), 4, generator=rng) for ids in data.token_ids]
        trace = Trace()
        train_predictor(
            predictor,
            data,
            states,
            texts,
            PARAMS | params,
            seed=seed,
            label="here",
            keeper=Keeper(None, trace),
        )
        return predictor, trace, states

    return train


def weights_of(predictor):
    return torch.cat([p.detach().flatten() for p in predictor.parameters()])


def test_a_trained_predictor_predicts(data, aligned):
    """Nearly every window after 40 steps, and no dropout from then on. The trace has one row per
    step; the rate rises over the first quarter and falls to 2 %."""
    predictor, trace, states = aligned(dropout=0.0)
    assert not predictor.training
    assert batch_loss(predictor, data, states, range(3)).item() < 0.05 < trace.rows[0]["loss"]
    assert [(row["stage"], row["step"]) for row in trace.rows] == [
        ("here", step) for step in range(1, 41)
    ]
    factors = [row["rate_factor"] for row in trace.rows]
    assert factors.index(max(factors)) == 9 and factors[-1] == pytest.approx(0.02)


def test_the_references_rate_is_constant(aligned):
    _, trace, _ = aligned(reference_compat=True, steps=4)
    assert [row["rate_factor"] for row in trace.rows] == [1.0] * 4


def test_a_predictor_is_trained_on_its_texts_alone(monkeypatch, aligned):
    """The held-out text 2, whose window is the only one with two equal parts, is in no batch; every
    other text is."""
    seen = []
    original = alignment.batch_loss

    def spy(predictor, data, states, texts):
        assert predictor.training
        seen.extend(texts)
        return original(predictor, data, states, texts)

    monkeypatch.setattr(alignment, "batch_loss", spy)
    aligned(texts=[0, 1], steps=6)
    assert set(seen) == {0, 1}


@pytest.mark.parametrize(
    ("dropout", "change", "same"),
    [
        (0.5, {}, True),
        (0.5, {"seed": 1}, False),
        (0.0, {"seed": 1}, False),
        (0.0, {"clip": 1e-3}, False),
        (0.0, {"learning_rate": 0.01}, False),
    ],
)
def test_training_is_decided_by_seed_and_parameters(aligned, dropout, change, same):
    """Whatever was drawn before. The seed draws the batches, and the dropout where there is any."""
    first = weights_of(aligned(steps=9, dropout=dropout)[0])
    torch.rand(3)
    second = weights_of(aligned(**({"steps": 9, "dropout": dropout} | change))[0])
    assert torch.equal(first, second) is same
