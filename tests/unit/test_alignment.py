import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from atu.alignment import (
    AlignmentData,
    alignment_step,
    batch_loss,
    cache_hidden_states,
    evaluate_alignment,
)
from atu.models.llm import hidden_states

ROOT = math.sqrt(0.5)


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

    def predictor(hidden):
        batches.append(sorted(hidden[:, 0, 0].tolist()))
        return hidden

    step = alignment_step(predictor, data, states, range(3), 4, np.random.default_rng(0))
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
