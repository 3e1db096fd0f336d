import math

import numpy as np
import pytest
import torch

from atu.distributed import processes
from atu.errors import EvaluationError
from atu.inference import scoring
from atu.inference.batching import BatchSize
from atu.inference.scoring import (
    MAX_PERPLEXITY,
    TokenScores,
    _moments,
    mean_loss,
    perplexity,
    score_answers,
    score_encoded,
)
from atu.training.batches import EncodedText

PROMPTS = ["Who?", "", "Where is it now?", "b b", "Q"]
ANSWERS = ["Ada", "a whole text", "x", "y y y y y y", "no"]


@pytest.fixture(scope="module")
def model(tiny_lm, byte_tokenizer):
    """A random model whose distributions are far from uniform: its head is 30 times as large."""
    model = tiny_lm(vocab_size=len(byte_tokenizer), seed=5)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    return model


@pytest.fixture
def score(model, byte_tokenizer):
    """A function that scores answers after prompts."""

    def score(prompts=PROMPTS, answers=ANSWERS, *, batch_size=8, end=False, model=model):
        size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        return score_answers(
            model, byte_tokenizer, prompts, answers, batch_size=size, end=end, label="answers"
        )

    return score


def by_hand(model, ids, start):
    """Log-probabilities, whether likeliest, and mean and standard deviation of log p, of the tokens
    from `start` on, in float64 from one text alone."""
    logits = model(torch.tensor([ids])).logits[0].detach().double().numpy()
    rows = []
    for at in range(start, len(ids)):
        before = logits[at - 1]
        p = np.exp(before - before.max())
        p /= p.sum()
        mean = (p * np.log(p)).sum()
        std = np.sqrt((p * np.log(p) ** 2).sum() - mean**2)
        rows.append((np.log(p[ids[at]]), p.argmax() == ids[at], mean, std))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("end", [False, True])
def test_scores_are_those_of_a_softmax_by_hand(model, byte_tokenizer, score, end):
    """One token per byte after BOS: the answer " Ada" to "Who?" is tokens 5 to 8. A text without a
    prompt is scored from its first byte, without a space before it. The end token is 2."""
    for prompt, answer, found in zip(PROMPTS, ANSWERS, score(end=end), strict=True):
        text = f"{prompt} {answer}" if prompt else answer
        ids = [*byte_tokenizer(text)["input_ids"], *([2] if end else [])]
        start = 1 + len(prompt.encode())
        log_probs, matches, mean, std = by_hand(model, ids, start)
        assert len(found.log_probs) == len(ids) - start
        np.testing.assert_allclose(found.log_probs, log_probs, atol=1e-4)
        np.testing.assert_array_equal(found.matches, matches)
        np.testing.assert_allclose(found.mean, mean, atol=1e-4)
        np.testing.assert_allclose(found.std, std, atol=1e-4)
        assert found.loss == pytest.approx(-log_probs.mean(), abs=1e-4)


def test_the_end_token_is_one_more(score):
    """What comes before it is scored as without it."""
    for without, with_end in zip(score(), score(end=True), strict=True):
        assert len(with_end.log_probs) == len(without.log_probs) + 1
        np.testing.assert_allclose(with_end.log_probs[:-1], without.log_probs, atol=1e-5)


def test_likeliest_tokens_match(model, byte_tokenizer):
    """A greedy continuation matches at every token, and with its last token changed at all but
    that one."""
    ids = byte_tokenizer("Who? ")["input_ids"]
    for _ in range(3):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    changed = [*ids[:-1], (ids[-1] + 1) % 259]
    texts = [EncodedText(own, len(own) - 3, []) for own in (ids, changed)]
    found = score_encoded(model, byte_tokenizer.pad_token_id, texts, BatchSize(2), "x")
    assert [list(scores.matches) for scores in found] == [[True] * 3, [True, True, False]]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_padding_and_batches_change_nothing(score, batch_size):
    """Texts of 5 lengths at once, and in batches with little or no padding."""
    for together, apart in zip(score(), score(batch_size=batch_size), strict=True):
        for name in ("log_probs", "matches", "mean", "std"):
            np.testing.assert_allclose(getattr(together, name), getattr(apart, name), atol=1e-5)


def test_a_large_vocabulary_makes_batches_small(monkeypatch, model, score):
    """Room for the logits of 20 tokens: no forward pass has more, and the scores are the same."""
    expected, seen = score(), []
    monkeypatch.setattr(scoring, "LOGITS", 20 * model.config.vocab_size)
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        found = score()
    finally:
        handle.remove()
    assert len(seen) > 1 and max(seen) <= 20
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)


def test_out_of_memory_halves_the_batch(model, byte_tokenizer, score):
    """5 texts at 4 where 2 fit: the same scores, and the caller sees the 2."""
    expected = score(batch_size=2)

    def refuse(_module, _args, kwargs):
        if len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("too large")

    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    size = BatchSize(4)
    try:
        found = score(batch_size=size)
    finally:
        handle.remove()
    assert size.value == 2
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.log_probs, other.log_probs)


@pytest.mark.parametrize("training", [True, False])
def test_scores_are_taken_without_dropout(tiny_lm, byte_tokenizer, score, training):
    """The model's mode is restored; with dropout two runs would differ."""
    model = tiny_lm("gpt2", vocab_size=len(byte_tokenizer)).train(training)
    assert model.config.resid_pdrop > 0
    first, again = (score(model=model) for _ in range(2))
    assert model.training is training
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.log_probs, other.log_probs)


def test_scores_carry_no_gradient(model, score):
    score()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_answer_without_a_token_is_refused_by_name(score):
    """The space before it is no answer."""
    with pytest.raises(EvaluationError, match="answers, item 1: '' has no token"):
        score(["Who?", ""], ["Ada", ""])
    with pytest.raises(EvaluationError, match="answers, item 0: ' ' has no token"):
        score(["Who?"], [" "])


def test_an_empty_answer_is_scored_by_its_end(score, byte_tokenizer, model):
    """As TOFU's code scores an empty wrong answer: the tokens are the space and the end."""
    (found,) = score(["Who?"], [""], end=True)
    ids = [*byte_tokenizer("Who? ")["input_ids"], byte_tokenizer.eos_token_id]
    log_probs, *_ = by_hand(model, ids, len(ids) - 2)
    np.testing.assert_allclose(found.log_probs, log_probs, atol=1e-5)


def test_as_many_answers_as_prompts(score):
    with pytest.raises(ValueError, match="shorter"):
        score(["Who?", "Where?"], ["Ada"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_logit_that_is_no_number_names_the_item(tiny_lm, byte_tokenizer, score, bad, batch_size):
    """The third text of four holds a letter that the model cannot read."""
    model = tiny_lm(vocab_size=len(byte_tokenizer))
    (number,) = byte_tokenizer("Z")["input_ids"][1:]
    with torch.no_grad():
        model.get_input_embeddings().weight[number] = bad
    with pytest.raises(EvaluationError, match="answers, item 2: a logit is not finite"):
        score(["long prompt", "b", "Z", "cc"], ["x"] * 4, batch_size=batch_size, model=model)


def test_no_texts(score):
    assert score([], []) == []


@pytest.mark.parametrize(
    ("p", "mean", "variance"),
    [
        ([3 / 4, 1 / 4], -0.5623, 0.2263),
        ([1 / 2, 1 / 2], -math.log(2), 0.0),
        ([1 / 4] * 4, -math.log(4), 0.0),
        ([1 - 1e-12, 1e-12], 0.0, 0.0),
    ],
)
def test_moments(p, mean, variance):
    """3/4 ln 3/4 + 1/4 ln 1/4 = -0.2158 - 0.3466 and 3/16 (ln 3)^2 = 0.1875 x 1.2069; where all are
    alike, log p does not vary, and where one is certain, it is 0."""
    found_mean, found_variance = _moments(torch.tensor([p], dtype=torch.float64).log())
    assert found_mean.item() == pytest.approx(mean, abs=1e-4)
    assert found_variance.item() == pytest.approx(variance, abs=1e-4)


def test_a_uniform_model_has_the_vocabularys_perplexity(tiny_lm, byte_tokenizer, score):
    """259 tokens, each 1/259: whatever the texts, the mean of log p is -ln 259 and has no spread;
    float32 noise must not make a spread NaN."""
    model = tiny_lm(vocab_size=len(byte_tokenizer))
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    found = score(model=model)
    assert perplexity(found) == pytest.approx(259, rel=1e-5)
    for scores in found:
        np.testing.assert_allclose(scores.mean, -math.log(259), rtol=1e-5)
        np.testing.assert_allclose(scores.std, 0, atol=1e-3)


def test_perplexity_is_over_tokens_not_texts():
    """Log-probabilities ln 1/2 once and ln 1/16 three times: the mean is -13/4 ln 2, so 2^3.25; a
    mean over the two texts would give 2^2.5."""
    scores = [
        TokenScores(np.log(p), np.zeros(len(p)), np.zeros(len(p)), np.zeros(len(p)))
        for p in (np.array([1 / 2]), np.array([1 / 16] * 3))
    ]
    assert perplexity(scores) == pytest.approx(2**3.25)


@pytest.mark.parametrize("nats", [838.0, 1e4])
def test_a_ruined_models_perplexity_is_capped(nats):
    """Its exponential is no float; the loss itself is a number."""
    logs = np.array([-nats, -nats])
    scores = [TokenScores(logs, logs < 0, logs, logs)]
    assert mean_loss(scores) == nats
    assert perplexity(scores) == MAX_PERPLEXITY


def test_ten_thousand_nats_are_scored(tiny_lm, byte_tokenizer, score):
    """Every score of tokens that the model holds for impossible is finite."""
    model = tiny_lm(vocab_size=len(byte_tokenizer), seed=5)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e5)
    found = score(model=model)
    assert max(scores.loss for scores in found) > 1e4
    for scores in found:
        for values in (scores.log_probs, scores.mean, scores.std):
            assert np.isfinite(values).all()


@pytest.mark.parametrize(("count", "inference"), [(1, True), (2, False)])
def test_scores_keep_no_graph(monkeypatch, model, score, count, inference):
    """Of several processes no gradients, but not in inference mode, in which gathered weights could
    never be trained."""
    seen = []
    monkeypatch.setattr(processes, "world_size", lambda: count)
    handle = model.register_forward_pre_hook(
        lambda *_: seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    )
    score()
    handle.remove()
    assert set(seen) == {(False, inference)}
