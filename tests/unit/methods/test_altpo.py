import math

import pytest
import torch

from atu.methods import altpo
from atu.methods.altpo import METHOD, Settings, alternative_batch, altpo_loss, write_alternatives
from atu.methods.shared.preference import answer_nlls
from atu.probes.prompts import alternative_prompt
from atu.training.batches import Batch, BatchStream, encode_text

PAIRS = {"Who?": "Ann Lee", "Where?": "Rome", "When?": "Now"}


@pytest.fixture
def make(make_settings, make_context, tiny_lm, byte_tokenizer):
    """A function that gives a context on three questions, whose forget stream holds them."""

    def build(write="other_token", alternatives=2, **own):
        settings = make_settings(
            Settings, loss="altpo", beta=0.1, alternatives=alternatives, temperature=1.0,
            write=write,
        )  # fmt: skip
        rows = [{"text": f"{p} {a}", "prompt": p, "answer": a} for p, a in PAIRS.items()]
        texts = [encode_text(byte_tokenizer, row["text"], row["prompt"]) for row in rows]
        context = make_context(settings, tiny_lm(vocab_size=300), **own)
        context.rows["forget"] = rows
        context.forget = BatchStream(texts, 2, byte_tokenizer.pad_token_id, context.forget.rng)
        return context

    return build


def test_value(make, given_probabilities, monkeypatch):
    """Token 0 has probability 1/4 in the model, 1/2 in the original. The forget answers are one and
    two of it: they lose ln 2 and 2 ln 2; the alternatives, one of token 1 each, gain ln 3/2.
    Differences ln 3 and ln 6; sigmoids at beta 1 3/4 and 6/7: ln 4/3 + ln 7/6 = ln 14/9."""

    def batch_of(labels):
        ids = torch.zeros(2, 3, dtype=torch.long)
        return Batch(ids, torch.ones(2, 3), torch.tensor(labels))

    other = batch_of([[-100, 1, -100], [-100, 1, -100]])
    monkeypatch.setattr(altpo, "alternative_batch", lambda context, batch: other)
    context = make()
    context.model = given_probabilities([[1 / 4] * 3] * 2)
    context.reference = given_probabilities([[1 / 2] * 3] * 2)
    object.__setattr__(context.settings, "beta", 1.0)
    value = altpo_loss(context, batch_of([[-100, 0, -100], [-100, 0, 0]]))
    assert value.item() == pytest.approx(math.log(14 / 9), rel=1e-5)
    value.backward()
    assert context.reference.logits.grad is None


def test_a_model_that_follows_none_cannot_begin_as_the_answer(make, monkeypatch, byte_tokenizer):
    """Here with a space, as every answer does, nor end at once. It writes as many samples as asked,
    of at most 9 tokens: " Ann Lee" and its end. The same seed writes the same."""
    calls, draw = [], altpo.sampled_answers
    monkeypatch.setattr(
        altpo,
        "sampled_answers",
        lambda *given, **named: calls.append(named) or draw(*given, **named),
    )
    context = make(alternatives=3)
    written = write_alternatives(context)
    assert [len(own) for own in written] == [3] * 3
    assert write_alternatives(context) == written
    space, end = byte_tokenizer(" ")["input_ids"][-1], byte_tokenizer.eos_token_id
    assert calls[0]["barred"] == [[space, end]] * 3
    assert calls[0]["max_new_tokens"] == 9
    assert context.measured == {"alternatives_same": 0.0}


def test_a_model_that_follows_instructions_is_told_question_and_answer(make, monkeypatch):
    """The official way. What is the answer again is counted: one of six."""
    asked = {}

    def sampled(model, tokenizer, prompts, sampling, **options):
        asked.update(prompts=prompts, samples=sampling.samples, **options)
        return [["Cy", "Ann Lee"], ["Oslo", "Bern"], ["Then", "Never"]]

    monkeypatch.setattr(altpo, "sampled_answers", sampled)
    context = make("instruction")
    written = write_alternatives(context)
    assert asked["prompts"] == [alternative_prompt(*pair) for pair in PAIRS.items()]
    assert (asked["samples"], asked["barred"], written[1]) == (2, None, ["Oslo", "Bern"])
    assert context.measured == {"alternatives_same": 1 / 6}


def test_every_pass_has_its_own_alternatives(make, byte_tokenizer, monkeypatch):
    """Three texts in batches of two: the first two batches begin in the first pass, the next one in
    the second; a third pass begins again. They are written once, and remembered."""
    written = [[f"{prompt} 0", f"{prompt} 1"] for prompt in PAIRS]
    calls = []
    monkeypatch.setattr(altpo, "write_alternatives", lambda ctx: calls.append(1) or written)
    context = make()
    turns = []
    for _ in range(5):
        found = alternative_batch(context, next(context.forget))
        texts = [byte_tokenizer.decode(ids, skip_special_tokens=True) for ids in found.input_ids]
        turns.append({text[-1] for text in texts})
    assert turns == [{"0"}, {"0"}, {"1"}, {"0"}, {"0"}]
    assert calls == [1] and context.remembered == {"alternatives": written}


def test_steps_prefer_the_alternatives(make):
    """From the original, where the loss is (2/beta) ln 2."""
    context = make()
    batch = next(context.forget)
    optimizer = torch.optim.SGD(context.model.parameters(), lr=0.02)
    values = []
    for _ in range(5):
        optimizer.zero_grad()
        value = altpo_loss(context, batch)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] == pytest.approx(20 * math.log(2), rel=1e-4)
    other = alternative_batch(context, batch)
    with torch.no_grad():
        assert (answer_nlls(context.model, other) < answer_nlls(context.reference, other)).all()
        assert (answer_nlls(context.model, batch) > answer_nlls(context.reference, batch)).all()


def test_needs():
    assert (METHOD.needs_reference, METHOD.prompted, METHOD.processes) == (True, True, "all")
