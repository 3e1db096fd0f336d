import contextlib
import math

import pytest
import torch

from atu.alignment.tracing import (
    Question,
    answer_probability,
    corrupted,
    questions_about,
    trace_layers,
)
from atu.errors import EvaluationError
from atu.models.llm import decoder_layers, hidden_states_at
from atu.training.batches import EncodedText


@pytest.fixture
def question():
    """Five tokens: the subject is tokens 1 and 2, the answer the last two."""
    return Question(EncodedText([1, 5, 6, 7, 8], 3, []), [1, 2])


def test_where_the_subject_stands(byte_tokenizer):
    """One byte per token after the begin token: "Who is Bo? Bo" names Bo at characters 7 and 8 of
    the prompt; the answer's Bo does not count."""
    probe = {"prompt": "Who is Bo?", "answer": "Bo"}
    (found,) = questions_about(byte_tokenizer, [probe], ["Bo"])
    shift = len(found.text.ids) - len("Who is Bo? Bo")
    assert found.subject == [7 + shift, 8 + shift]
    assert found.text.answer_start == len("Who is Bo?") + shift


def test_questions_without_the_subject_are_left_out_and_none_is_an_error(byte_tokenizer):
    probes = [{"prompt": "Who?", "answer": "Bo"}, {"prompt": "Bo?", "answer": "x"}]
    assert len(questions_about(byte_tokenizer, probes, ["Bo"])) == 1
    with pytest.raises(EvaluationError, match="no question names Cy"):
        questions_about(byte_tokenizer, probes, ["Cy"])


def test_the_answers_probability(tiny_lm, question):
    """The product of both tokens' probabilities, by hand from the logits."""
    model = tiny_lm()
    with torch.no_grad():
        p = model(input_ids=question.ids).logits[0].softmax(dim=-1)
    expected = (p[2, 7] * p[3, 8]).item()
    assert answer_probability(model, question, 3) == pytest.approx(expected, rel=1e-5)


def test_corruption_touches_the_subject_only_and_ends(tiny_lm, question):
    model = tiny_lm()
    table = model.get_input_embeddings()
    before = table(question.ids)
    with corrupted(model, question, torch.ones(1, 2, before.shape[-1])):
        changed = table(question.ids)
    assert torch.equal(changed[0, [0, 3, 4]], before[0, [0, 3, 4]])
    assert torch.equal(changed[0, [1, 2]], before[0, [1, 2]] + 1)
    assert torch.equal(table(question.ids), before)


def test_the_subjects_last_token_is_restored(tiny_lm, question, monkeypatch):
    """At every layer its clean state, and no other token's."""
    model = tiny_lm()
    given = []

    @contextlib.contextmanager
    def spy(model, layer, states, chosen):
        given.append((layer, states, chosen.tolist()))
        yield model

    monkeypatch.setattr("atu.alignment.tracing.patched", spy)
    with contextlib.suppress(EvaluationError):  # noise may lower no answer of a random model
        trace_layers(model, [question], [1, 2], 0)
    clean = hidden_states_at(model, question.ids, torch.ones_like(question.ids), [1, 2])
    assert [layer for layer, *_ in given] == [1, 2]
    for layer, states, chosen in given:
        assert torch.equal(states, clean[layer])
        assert chosen == [[False, False, True, False, False]]


def test_recovery_is_a_share(tiny_lm, question, monkeypatch):
    """Clean .9, corrupted .1, restored .5 at layer 1, .1 at layer 2: (.5 - .1) / .8 = .5 and 0."""
    model = tiny_lm()
    given = iter([0.9, 0.1, 0.5, 0.1])
    monkeypatch.setattr("atu.alignment.tracing.answer_probability", lambda *_: next(given))
    assert trace_layers(model, [question], [1, 2], 0) == pytest.approx({1: 0.5, 2: 0.0})


def test_nothing_lost_is_an_error(tiny_lm, question, monkeypatch):
    monkeypatch.setattr("atu.alignment.tracing.answer_probability", lambda *_: 0.5)
    with pytest.raises(EvaluationError, match="does not lower any answer"):
        trace_layers(tiny_lm(), [question], [1], 0)


def test_the_seed_decides_the_noise(tiny_lm, question):
    model = tiny_lm()
    with torch.no_grad():  # an answer that the subject decides, so that noise takes it away
        model.get_output_embeddings().weight.mul_(30)
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        try:
            runs[name] = trace_layers(model, [question], [1, 2], seed)
        except EvaluationError:
            runs[name] = {"nothing lost": seed}
    assert runs["a"] == runs["b"] != runs["c"]


def test_a_probability_that_is_no_number_names_the_question(tiny_lm, question):
    """Where nothing is lost there would be nothing to restore: NaN is neither."""
    model = tiny_lm()
    with torch.no_grad():
        for parameter in decoder_layers(model)[2].parameters():
            parameter.fill_(math.nan)
    with pytest.raises(EvaluationError, match=r"causal tracing, item 0: .*of layer 3 of 3"):
        trace_layers(model, [question], [1], seed=0)
