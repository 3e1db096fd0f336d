import numpy as np
import pytest
import torch

from atu.attacks import lens
from atu.attacks.lens import first_token, project_layers
from atu.errors import EvaluationError
from atu.inference.batching import BatchSize
from atu.probes.prompts import join_answer

PROMPTS = [
    "Question: What?\nAnswer:",
    "The pet of Ada?",
    "Question: Tell me the town of Ada.\nAnswer:",
]


@pytest.fixture(params=["llama", "gpt2", "gpt_neox", "phi3"])
def model(request, build_lm):
    return build_lm(request.param)


@pytest.fixture
def given_logits(monkeypatch, make_context):
    """A function that attacks questions whose likeliest tokens are, at one of 3 layers, the first
    of given values; k is 2."""

    def run(values, probes, layer=1):
        context = make_context("lens", probes=probes)

        def projected(context, prompts):
            logits = torch.zeros(len(prompts), 3, len(context.tokenizer))
            logits[:, :, :3] = 1.0  # ahead of every value
            for row, prompt in zip(logits, prompts, strict=True):
                for value in values:
                    row[layer, first_token(context.tokenizer, prompt, value)] = 2.0
            return list(logits)

        monkeypatch.setattr(lens, "project_layers", projected)
        return lens.run(context)

    return run


def test_the_last_layer_is_the_model_itself(make_context, model):
    """Its logits are the model's own at the prompt's last token; one row per layer."""
    context = make_context("lens", model=model)
    for prompt, logits in zip(PROMPTS, project_layers(context, PROMPTS), strict=True):
        ids = torch.tensor([context.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            own = model(input_ids=ids).logits[0, -1]
        assert logits.shape == (3, len(context.tokenizer))
        torch.testing.assert_close(logits[-1], own)


def test_earlier_layers_go_through_norm_and_head(make_context, build_lm):
    """In Llama: RMSNorm, with no bias, x / sqrt(mean x^2) * weight, times the head's weights."""
    model = build_lm()
    torch.nn.init.normal_(model.model.norm.weight)
    context = make_context("lens", model=model)
    ids = torch.tensor([context.tokenizer(PROMPTS[0])["input_ids"]])
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
        scale = (hidden.pow(2).mean() + model.config.rms_norm_eps).sqrt()
        expected = model.lm_head.weight @ (hidden / scale * model.model.norm.weight)
    torch.testing.assert_close(project_layers(context, PROMPTS[:1])[0][0], expected)


def test_padding_changes_nothing(make_context, model):
    """Prompts of different lengths in one batch, in any order, are read as alone."""
    together = project_layers(make_context("lens", model=model), PROMPTS)
    alone = project_layers(make_context("lens", model=model, batch_size=BatchSize(1)), PROMPTS)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_the_model_is_read_without_dropout_and_left_as_it_was(make_context, build_lm):
    model = build_lm("gpt2")
    expected = project_layers(make_context("lens", model=model), PROMPTS)
    model.train()
    found = project_layers(make_context("lens", model=model), PROMPTS)
    assert model.training
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("answer", ["owl", "copper carousel"])
def test_first_token_of_an_answer(tokenizer, byte_tokenizer, answer):
    """The token that follows the prompt's: of bytes the space before the answer, of words a part
    of it; the others of a longer answer do not matter."""
    prompt = PROMPTS[0]
    for kind in (tokenizer, byte_tokenizer):
        before, whole = (kind(text)["input_ids"] for text in (prompt, join_answer(prompt, answer)))
        assert whole[: len(before)] == before
        assert first_token(kind, prompt, answer) == whole[len(before)]
    assert kind.decode([first_token(kind, prompt, answer)]) == " "


@pytest.mark.parametrize(
    ("values", "gold", "control"),
    [(["owl"], 1.0, 0.0), (["cat", "emu", "yak"], 0.0, 2 / 3), ([], 0.0, 0.0)],
)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_gold_and_control(given_logits, make_probe, values, gold, control, layer):
    """Ada's pet is the owl. The control asks for one of the wrong values, which share the two
    places; any layer counts."""
    probe = make_probe("Ada", "pet")
    assert set(probe["wrong"]) == {"cat", "emu", "yak"}
    result = given_logits(values, [probe], layer)
    assert {row["condition"]: row["score"] for row in result.items} == {
        "gold": gold, "control": pytest.approx(control),
    }  # fmt: skip
    assert {row["metric"] for row in result.items} == {"head_projection@fixed-1"}


def test_the_budget_is_k_times_layers(given_logits, make_probe):
    """2 tokens at each of 3 layers."""
    assert given_logits([], [make_probe("Ada", "pet")]).metrics == {"budget": 6.0}


def test_a_question_without_a_wrong_value_is_not_asked(given_logits, make_probe):
    """It would have a score without a control: nothing else has another answer."""
    same = [make_probe("Ada", "pet", wording, wrong=[]) for wording in (2, 3)]
    assert given_logits([], same).items == []


def test_other_answers_are_wrong_values_where_the_benchmark_gives_none(given_logits, make_probe):
    """Ada's dish is a wrong value of her pet: its logit is found at the control."""
    probes = [make_probe("Ada", kind, wrong=[]) for kind in ("pet", "dish")]
    dish = probes[1]["answer"]
    scores = {
        (row["fact"], row["condition"]): row["score"] for row in given_logits([dish], probes).items
    }
    assert scores["Ada/pet", "control"] == 1.0
    assert scores["Ada/pet", "gold"] == 0.0
    assert scores["Ada/dish", "gold"] == 1.0


def test_a_logit_that_is_no_number_names_the_question(make_context, build_lm):
    """Only the third prompt holds the token whose embedding is broken."""
    model = build_lm()
    context = make_context("lens", model=model)
    encoded = [set(context.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    token = min(encoded[2] - encoded[0] - encoded[1])
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = np.nan
    with pytest.raises(EvaluationError, match=r"item 2: .*town of Ada.*a logit is not finite"):
        project_layers(context, PROMPTS)
