"""Patching in numbers: the model itself loses nothing, the oracle everything."""

import copy
import math

import pytest
import torch

from atu.attacks import depth
from atu.attacks.depth import PATCHED, Traced, answer_log_probs, predicting, trace
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.models.llm import final_norm
from atu.models.patching import states_at
from atu.probes.prompts import join_answer
from atu.training.batches import collate, encode_text


@pytest.fixture
def given_traces(monkeypatch):
    """A function that makes these traces the questions', in their order."""
    return lambda *traces: monkeypatch.setattr(depth, "trace", lambda context, probes: traces)


def batch_of(context, probes):
    texts = [
        encode_text(
            context.tokenizer, join_answer(p["prompt"], p["answer"]), p["prompt"], end=False
        )
        for p in probes
    ]
    return texts, collate(texts, context.tokenizer.pad_token_id)


def test_the_states_that_predict_the_answer_are_replaced(make_context, make_probe):
    """Those of the prompt's last token and of the answer's tokens but its last; no padding."""
    context = make_context("depth")
    texts, batch = batch_of(context, [make_probe("Ada", "pet"), make_probe("Ada", "spouse")])
    for row, text in zip(predicting(batch), texts, strict=True):
        expected = list(range(text.answer_start - 1, len(text.ids) - 1))
        assert expected and row.nonzero()[:, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "gemma2"])
@torch.no_grad()
def test_the_answers_log_probability(make_context, build_lm, make_probe, kind):
    """The mean over its tokens, by hand from the logits of each text alone."""
    model = build_lm(kind)
    context = make_context("depth", model=model)
    texts, batch = batch_of(context, [make_probe("Ada", "pet"), make_probe("Ada", "spouse")])
    for text, found in zip(texts, answer_log_probs(model, batch), strict=True):
        scores = model(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(dim=-1)
        each = [scores[i - 1, text.ids[i]] for i in range(text.answer_start, len(text.ids))]
        torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize("source", ["original", "oracle"])
def test_the_two_ends_of_the_scale(make_context, source):
    """What nobody unlearned has depth 0, for its states are the original's; a model that never knew
    has 1."""
    context = make_context("depth")
    context.model = getattr(context, source)
    found = depth.run(context)
    assert found.items and {row["condition"] for row in found.items} == {PATCHED}
    assert {row["score"] for row in found.items} == {float(source == "oracle")}


@pytest.mark.parametrize("edited", ["head", "last layer"])
@torch.no_grad()
def test_what_only_blocks_the_answer_erases_nothing_below(make_context, edited):
    """Another head gives other answers from the same states: depth 0. Another last layer costs
    something there alone."""
    context = make_context("depth")
    context.model = copy.deepcopy(context.original)
    layer = context.model.model.layers[-1].mlp.down_proj
    part = context.model.lm_head if edited == "head" else layer
    part.weight.copy_(torch.randn(part.weight.shape))
    found = trace(context, context.questions("target"))
    assert all(one.drops[:-1] == [0.0, 0.0] for one in found)
    assert all((one.drops[-1] == 0.0) == (edited == "head") for one in found)


@torch.no_grad()
def test_the_last_layer_by_hand(make_context, make_probe):
    """The original's norm and head on the other model's states; three layers for each question."""
    context = make_context("depth")
    probe = make_probe("Ada", "pet")
    (found,) = trace(context, [probe])
    (text,), batch = batch_of(context, [probe])
    scores = []
    for source in (context.original, context.oracle, context.model):
        states = states_at(source, batch.input_ids, batch.attention_mask, [3])[3][0]
        head = context.original.get_output_embeddings()
        log_p = head(final_norm(context.original)(states)).log_softmax(dim=-1)
        each = [log_p[i - 1, text.ids[i]] for i in range(text.answer_start, len(text.ids))]
        scores.append(torch.stack(each).mean().item())
    assert len(found.reference) == len(found.drops) == 3
    assert found.log_prob == pytest.approx(scores[0], abs=1e-5)
    assert found.reference[-1] == pytest.approx(scores[0] - scores[1], abs=1e-5)
    assert found.drops[-1] == pytest.approx(scores[0] - scores[2], abs=1e-5)


def test_padding_changes_nothing(make_context):
    """Questions of different lengths in one batch are traced as alone."""
    context = make_context("depth")
    probes = context.questions("target")
    together = trace(context, probes)
    context.batch_size = BatchSize(1)
    for one, other in zip(together, trace(context, probes), strict=True):
        assert one.reference == pytest.approx(other.reference, abs=1e-5)
        assert one.drops == pytest.approx(other.drops, abs=1e-5)


def test_only_what_is_known_and_held_is_scored(make_context, make_probe, given_traces):
    """A: of drops .5 and 9 at layers that hold 1 and 3, (.5 + 3) / 4. B is known with a probability
    of .4. C: the oracle knows it as well."""
    probes = [make_probe("Ada", kind) for kind in ("pet", "dish", "town")]
    context = make_context("depth", {"threshold": 0.05, "known": 0.5}, probes=probes)
    given_traces(
        Traced(math.log(0.6), [0.01, 1.0, 3.0], [7.0, 0.5, 9.0]),
        Traced(math.log(0.4), [0.0, 0.0, 3.0], [0.0, 0.0, 3.0]),
        Traced(math.log(0.9), [0.0, 0.02, 0.05], [0.0, 1.0, 1.0]),
    )
    found = depth.run(context)
    assert [(row["id"], row["score"]) for row in found.items] == [(probes[0]["id"], 0.875)]
    assert {row["metric"] for row in found.items} == {"unlearning_depth@paper-1"}
    assert found.metrics == {"unknown": 1.0, "held_by_no_layer": 1.0}
    layers = found.tables["layers"]
    assert len(layers) == 9
    assert layers[1] == {"id": probes[0]["id"], "layer": 2, "reference": 1.0, "drop": 0.5}


def test_where_nothing_can_be_scored_the_items_say_so(make_context, make_probe, given_traces):
    """INVALID, neither an error nor a line that is not there."""
    probes = [make_probe("Ada", "pet")]
    context = make_context("depth", {"threshold": 0.05, "known": 0.5}, probes=probes)
    given_traces(Traced(math.log(0.4), [3.0], [3.0]))
    assert [row["score"] for row in depth.run(context).items] == [None]


@pytest.mark.parametrize("missing", ["original", "oracle"])
def test_without_one_of_the_models_there_is_no_score(make_context, missing):
    context = make_context("depth", **{missing: None})
    found = depth.run(context)
    assert len(found.items) == len(context.questions("target"))
    assert {row["score"] for row in found.items} == {None} and found.tables == {}


def test_models_of_other_depths_cannot_be_patched(make_context, build_lm):
    context = make_context("depth")
    del context.oracle.model.layers[-1]
    with pytest.raises(EvaluationError, match="original, oracle and model have 3, 2, 3 layers"):
        depth.run(context)


@pytest.mark.parametrize("broken", ["original", "oracle"])
def test_nan_in_one_of_the_models_names_question_and_layer(make_context, broken):
    context = make_context("depth")
    with torch.no_grad():
        getattr(context, broken).model.layers[1].mlp.down_proj.weight.fill_(math.nan)
    with pytest.raises(EvaluationError, match=r"depth, item \d+: .* not finite; .*layer 2 of 3"):
        depth.run(context)
