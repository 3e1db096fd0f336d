"""NaN is never an answer: every way of reading a model names the item and the first bad layer."""

import math
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES

from atu.alignment.loop import cache_hidden_states
from atu.distributed import processes
from atu.errors import EvaluationError
from atu.inference import finite
from atu.inference.batching import BatchSize
from atu.inference.finite import (
    failing_layer,
    require_finite,
    require_finite_states,
    require_finite_weights,
)
from atu.inference.generation import Sampling, greedy_answers, sampled_answers
from atu.inference.scoring import score_answers
from atu.models.llm import decoder_layers, final_norm
from atu.unlearning.trajectory import Observer

PROMPTS = ["a long prompt", "bb"]


@pytest.fixture
def ruined(tiny_lm, byte_tokenizer):
    """A function that gives a random model with `value` in one place: layer 0 are the embeddings, 1
    to 3 the decoder layers, 4 is the norm after them."""

    def build(layer, kind="llama", value=math.nan):
        model = tiny_lm(kind, vocab_size=len(byte_tokenizer))
        modules = [model.get_input_embeddings(), *decoder_layers(model), final_norm(model)]
        *_, weight = modules[layer].parameters()
        with torch.no_grad():
            if layer:
                weight.fill_(value)
            else:  # the embedding of "b" alone
                weight[byte_tokenizer("b")["input_ids"][-1]] = value
        return model

    return build


def place(layer):
    """What is said of a model that is ruined there."""
    return [
        "first in the hidden states of layer 0 of 3, the embeddings",
        *(f"first in the hidden states of layer {number} of 3" for number in (1, 2, 3)),
        "all 3 layers are finite, the output head's logits are not",
    ][layer]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_row_is_named(bad):
    """Of values of any shape; whatever follows it is not looked at."""
    values = torch.zeros(3, 2, 4)
    require_finite(values, ["a", "b", "c"])
    values[1, 1, 2] = values[2, 0, 0] = bad
    with pytest.raises(EvaluationError, match=r"^b: a logit is not finite; in row 1$"):
        require_finite(values, ["a", "b", "c"], lambda row: f"in row {row}")
    with pytest.raises(EvaluationError, match=r"^b: a state is not finite$"):
        require_finite(values, ["a", "b", "c"], what="a state")


def test_what_is_finite_costs_no_pass():
    read_again = []
    require_finite(torch.zeros(2, 3), ["a", "b"], read_again.append)
    assert read_again == []


@pytest.mark.parametrize("layer", range(5))
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_first_bad_layer(ruined, byte_tokenizer, kind, layer):
    model = ruined(layer, kind)
    assert failing_layer(model, byte_tokenizer("bb")["input_ids"]) == place(layer)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_text_that_is_finite_alone(tiny_lm, byte_tokenizer):
    """Rounding in a batch can overflow where one row does not."""
    model = tiny_lm(vocab_size=len(byte_tokenizer))
    assert failing_layer(model, [5, 6]) == "read alone it is finite everywhere"


def test_no_pass_where_it_would_hang_or_cannot_be_read(ruined, monkeypatch):
    """Several ranks must call the model equally often; a model of an unknown kind has no layers."""
    assert failing_layer(SimpleNamespace(get_submodule=lambda _: torch.nn.Module()), [5]) == ""
    model = ruined(1)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    assert failing_layer(model, [5]) == ""


@pytest.mark.parametrize("layer", range(5))
def test_generation_and_scoring(ruined, byte_tokenizer, layer):
    """Greedy answers, samples and given answers; the embeddings are bad in the second item only."""
    model = ruined(layer)
    own = {"batch_size": BatchSize(2), "label": "asked"}
    calls = {
        "greedy": lambda: greedy_answers(
            model, byte_tokenizer, PROMPTS, max_new_tokens=2, **own
        ),
        "samples": lambda: sampled_answers(
            model, byte_tokenizer, PROMPTS, Sampling(2, 1.0, 1.0, 0), max_new_tokens=2, **own
        ),
        "given": lambda: score_answers(
            model, byte_tokenizer, PROMPTS, ["xx", "x"], end=False, **own
        ),
    }  # fmt: skip
    item = 1 if layer == 0 else r"[01]"
    for call in calls.values():
        with pytest.raises(
            EvaluationError,
            match=rf"^asked, item {item}\b.*: a logit is not finite; {place(layer)}$",
        ):
            call()


def test_a_token_of_the_answer_that_cannot_be_read(ruined, byte_tokenizer):
    """The prompt is finite; the model then writes a letter without an embedding. The layer is
    found in the prompt with what was written after it."""
    model = ruined(0)
    bad = byte_tokenizer("b")["input_ids"][-1]
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
    head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(bad), 259) * 9.0)
    with pytest.raises(EvaluationError, match=f"item 0: 'ac': .*; {place(0)}"):
        greedy_answers(
            model, byte_tokenizer, ["ac", "longer"], max_new_tokens=3, batch_size=BatchSize(2)
        )


@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_for_the_alignment(ruined, byte_tokenizer, layer):
    """Padding after the shorter text is nobody's state."""
    model = ruined(layer)
    ids = [torch.tensor(byte_tokenizer(text)["input_ids"]) for text in PROMPTS]

    class Data:
        token_ids = ids

        def __len__(self):
            return 2

        def tokens(self, chosen):
            rows = torch.nn.utils.rnn.pad_sequence([ids[i] for i in chosen], batch_first=True)
            return rows, (rows > 0).long()

    number = 1 if layer == 0 else r"\d"
    with pytest.raises(
        EvaluationError,
        match=f"text {number} of the embeddings: a hidden state is not finite; {place(layer)}",
    ):
        cache_hidden_states(model, Data(), 2)


def test_states_behind_a_text_do_not_count(monkeypatch):
    monkeypatch.setattr(finite, "failing_layer", lambda model, ids: f"in {list(ids)}")
    states = torch.zeros(2, 3, 4)
    states[0, 2] = math.nan
    require_finite_states(None, states, [[5, 6], [7, 8, 9]], ["a", "b"])
    states[1, 2] = math.nan
    with pytest.raises(EvaluationError, match=r"b: a hidden state is not finite; in \[7, 8, 9\]"):
        require_finite_states(None, states, [[5, 6], [7, 8, 9]], ["a", "b"])


@pytest.mark.parametrize("layer", [1, 2])
def test_the_trajectorys_cosine(ruined, byte_tokenizer, layer):
    """Of a predictor that reads what is no number; one that reads below it sees numbers."""
    probes = [{"role": "target", "form": "question", "prompt": text} for text in PROMPTS]
    context = SimpleNamespace(
        model=ruined(2), tokenizer=byte_tokenizer, device=None, concept=torch.eye(16)[:1],
        predictors={layer: lambda hidden: hidden},
    )  # fmt: skip
    observe = Observer(context, probes)
    if layer == 1:
        assert math.isfinite(observe._mean_cosine())
        return
    with pytest.raises(EvaluationError, match=rf"trajectory, question \d .*; {place(2)}"):
        observe._mean_cosine()


def test_a_weight_that_no_answer_shows(tiny_lm, byte_tokenizer):
    """NaN in the queries of one layer: attention without a mask swallows it, so that a batch of
    one answers as if nothing were; with a mask it would not."""
    model = tiny_lm(vocab_size=len(byte_tokenizer))
    require_finite_weights(model)
    with torch.no_grad():
        decoder_layers(model)[1].self_attn.q_proj.weight.fill_(math.nan)
    greedy_answers(model, byte_tokenizer, ["Who?"], max_new_tokens=2, batch_size=BatchSize(1))
    with pytest.raises(EvaluationError, match=r"^model\.layers\.1\.self_attn\.q_proj\.weight: "):
        require_finite_weights(model)
