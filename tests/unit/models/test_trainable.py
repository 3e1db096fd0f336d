import copy

import pytest
import torch
from families import FAMILIES
from machines import CPU
from peft import PeftModel
from torch import nn

from atu.errors import ConfigError
from atu.models.llm import (
    decoder_layers,
    hidden_states,
    load_lm,
    mlp_output,
    parameters_below,
    save_lm,
)
from atu.models.trainable import All, BelowHook, Layers, Lora, MlpOutput, make_trainable

IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
LORA = Lora("lora", rank=2, alpha=4)
GATED = {
    "self_attn.q_proj": (16, 16), "self_attn.k_proj": (16, 8), "self_attn.v_proj": (16, 8),
    "self_attn.o_proj": (16, 16), "mlp.gate_proj": (16, 32), "mlp.up_proj": (16, 32),
    "mlp.down_proj": (32, 16),
}  # fmt: skip
WIDTHS = dict.fromkeys(FAMILIES, GATED) | {
    "gpt2": {
        "attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64),
        "mlp.c_proj": (64, 16),
    },
    "gpt_neox": {
        "attention.query_key_value": (16, 48), "attention.dense": (16, 16),
        "mlp.dense_h_to_4h": (16, 32), "mlp.dense_4h_to_h": (32, 16),
    },
    "phi3": {
        "self_attn.qkv_proj": (16, 32), "self_attn.o_proj": (16, 16),
        "mlp.gate_up_proj": (16, 64), "mlp.down_proj": (32, 16),
    },
}  # fmt: skip
"""Inputs and outputs of every matrix of a decoder layer, from the sizes in tests/conftest.py."""


def logits(model):
    return model(input_ids=IDS, attention_mask=MASK).logits


def step(model, parameters):
    """One step of SGD on all logits; the names of what it changed."""
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    logits(model).square().sum().backward()
    optimizer.step()
    return {
        name
        for name, value in model.state_dict(keep_vars=True).items()
        if not torch.equal(value, before[name])
    }


def names_of(model, parameters):
    chosen = {id(p) for p in parameters}
    return {n for n, p in model.state_dict(keep_vars=True).items() if id(p) in chosen}


@pytest.fixture(params=FAMILIES)
def model(request, tiny_lm):
    """Every family, with its output head tied or not as that family has it."""
    return tiny_lm(request.param)


def test_all(model):
    """Every parameter has a part in the logits, and changes."""
    parameters, finish = make_trainable(model, All("all"), None)
    changed = step(model, parameters)
    finish()
    assert changed == set(model.state_dict()) - {name for name, _ in model.named_buffers()}


@pytest.mark.parametrize("choice", [Layers("layers", [1]), BelowHook("below_hook")])
def test_what_is_not_trained_gets_no_gradient_until_the_end(model, choice):
    """A gradient that no optimizer takes would stay, and grow, through all steps."""
    parameters, finish = make_trainable(model, choice, 2)
    logits(model).square().sum().backward()
    chosen = {id(p) for p in parameters}
    assert all((p.grad is not None) == (id(p) in chosen) for p in model.parameters())
    finish()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("hook", [1, 2])
def test_below_the_hook(model, hook):
    """Embeddings and the layers 0 .. hook - 1; the layers from the hook on and the final norm stay,
    although the loss reads them."""
    parameters, _ = make_trainable(model, BelowHook("below_hook"), hook)
    expected = names_of(model, parameters_below(model, hook))
    assert step(model, parameters) == expected
    kept = set(model.state_dict()) - expected
    for number, layer in enumerate(decoder_layers(model)):
        assert names_of(model, layer.parameters()) <= (expected if number < hook else kept)


def test_chosen_layers(model):
    """Layers 0 and 2, all of each; neither layer 1 nor an embedding."""
    parameters, _ = make_trainable(model, Layers("layers", [2, 0]), None)
    layers = decoder_layers(model)
    expected = names_of(model, [*layers[0].parameters(), *layers[2].parameters()])
    assert step(model, parameters) == expected


def test_mlp_outputs(model):
    """Of layers 0 and 2 the projection that the MLP puts out by, and its bias."""
    parameters, _ = make_trainable(model, MlpOutput("mlp_output", [2, 0]), None)
    layers = decoder_layers(model)
    chosen = [p for k in (0, 2) for p in mlp_output(layers[k]).parameters()]
    assert step(model, parameters) == names_of(model, chosen)


def test_below_the_hook_without_a_hook(tiny_lm):
    with pytest.raises(ConfigError, match=r"train\.update = 'below_hook': only methods with"):
        make_trainable(tiny_lm(), BelowHook("below_hook"), None)


def test_layers_that_the_model_does_not_have(tiny_lm):
    """It has 0, 1 and 2."""
    with pytest.raises(ConfigError, match=r"train.layers = \[3, 5\]: the model has layers 0\.\.2"):
        make_trainable(tiny_lm(), Layers("layers", [3, 2, 5]), None)


@pytest.mark.parametrize("layers", [[], [1, 1]])
def test_layers_are_listed_once(layers):
    with pytest.raises(ValueError, match="list each layer to update once"):
        Layers("layers", layers)


class TestLora:
    """Adapters are there from `make_trainable` until it is ended."""

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_every_matrix_of_every_layer_has_an_adapter(self, tiny_lm, kind):
        """A [rank, inputs] and B [outputs, rank] for each; nothing on the output head."""
        model = tiny_lm(kind)
        parameters, _ = make_trainable(model, LORA, None)
        shapes = sorted(tuple(p.shape) for p in parameters)
        pairs = WIDTHS[kind].values()
        assert shapes == sorted(3 * [s for a, b in pairs for s in ((2, a), (b, 2))])
        named = dict(model.named_parameters())
        for number in range(3):
            for place, (inputs, outputs) in WIDTHS[kind].items():
                found = [n for n in named if f".{number}.{place}.lora_" in n]
                assert [tuple(named[n].shape) for n in sorted(found)] == [(2, inputs), (outputs, 2)]

    def test_it_begins_with_the_model_as_it_was(self, model):
        """B is 0. The early exit and whoever else holds the model see the adapters' effect as soon
        as it is not."""
        before, inner = logits(model), hidden_states(model, IDS, MASK, 2)
        parameters, _ = make_trainable(model, LORA, None)
        assert torch.equal(logits(model), before)
        with torch.no_grad():
            for parameter in parameters:
                parameter.fill_(0.1)
        assert not torch.allclose(logits(model), before)
        assert not torch.allclose(hidden_states(model, IDS, MASK, 2), inner)

    def test_only_adapters_change(self, model):
        """A first step changes every B, and no A, whose gradient is B times something; a second
        step changes both. The model's own parameters are frozen."""
        own = set(model.state_dict())
        parameters, _ = make_trainable(model, LORA, None)
        assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in parameters}
        first, second = step(model, parameters), step(model, parameters)
        adapters = names_of(model, parameters)
        assert first == {name for name in adapters if "lora_B" in name}
        assert second == adapters and not own & adapters

    def test_ending_merges_alpha_over_rank_times_b_a(self, model):
        """W + (4 / 2) B A, worked out for every matrix from the adapters (transposed in GPT-2,
        which multiplies from the other side); the rest is what it was. No adapter is left, and the
        logits are those with adapters."""
        before = copy.deepcopy(model.state_dict())
        parameters, finish = make_trainable(model, LORA, None)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        expected = dict(before)
        for name, module in model.named_modules():
            if hasattr(module, "lora_A"):
                a, b = module.lora_A["unlearn"].weight, module.lora_B["unlearn"].weight
                delta = 2 * (b @ a).detach()
                transposed = type(module.get_base_layer()).__name__ == "Conv1D"
                key = f"{name}.weight"
                expected[key] = before[key] + (delta.T if transposed else delta)
        adapted = logits(model).detach()
        finish()
        found = model.state_dict()
        assert list(found) == list(before)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits(model), adapted, atol=2e-5, rtol=1e-4)
        assert not torch.allclose(adapted, logits_of(before, model), atol=1e-2)
        kinds = {type(module) for module in model.modules()}
        assert not any("lora" in str(kind).lower() for kind in kinds)

    def test_ending_restores_what_was_trainable(self, tiny_lm):
        """What was frozen before stays so."""
        model = tiny_lm()
        model.get_input_embeddings().weight.requires_grad_(False)
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        _, finish = make_trainable(model, LORA, None)
        finish()
        assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
        assert set(flags.values()) == {True, False}

    def test_a_merged_model_is_saved_whole(self, tmp_path, tiny_lm, byte_tokenizer):
        """Not as an adapter of another model."""
        model = tiny_lm(vocab_size=len(byte_tokenizer))
        parameters, finish = make_trainable(model, LORA, None)
        nn.init.ones_(parameters[1])
        finish()
        save_lm(model, byte_tokenizer, tmp_path)
        assert not list(tmp_path.glob("adapter*"))
        assert torch.equal(logits(load_lm(tmp_path, CPU, training=True)[0]), logits(model))

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_what_was_merged_is_given_as_peft_reads_it(self, tmp_path, tiny_lm, kind):
        """PEFT loads it onto the model as it was before; merged there, every weight has the bits of
        the model that was trained."""
        model = tiny_lm(kind)
        original = copy.deepcopy(model)
        parameters, finish = make_trainable(model, LORA, None)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        finish().save(tmp_path / "adapter")
        unchanged = original.state_dict()
        assert not all(torch.equal(v, unchanged[n]) for n, v in model.state_dict().items())
        loaded = PeftModel.from_pretrained(original, tmp_path / "adapter").merge_and_unload()
        found = loaded.state_dict()
        assert list(found) == list(model.state_dict())
        assert all(torch.equal(v, found[n]) for n, v in model.state_dict().items())

    @pytest.mark.parametrize("choice", [All("all"), Layers("layers", [1])])
    def test_without_lora_there_is_no_adapter(self, model, choice):
        _, finish = make_trainable(model, choice, None)
        assert finish() is None

    def test_the_random_stream_decides_the_adapters(self, tiny_lm):
        """A is drawn from torch's stream, which a run seeds."""

        def adapters(seed):
            torch.manual_seed(seed)
            return torch.cat([p.flatten() for p in make_trainable(tiny_lm(), LORA, None)[0]])

        assert torch.equal(adapters(0), adapters(0))
        assert not torch.equal(adapters(0), adapters(1))


def logits_of(state, model):
    """The logits of a copy of the model with another state."""
    other = copy.deepcopy(model)
    other.load_state_dict(state)
    return logits(other)
