import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from families import FAMILIES
from machines import CPU, cpu_for
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from atu.errors import ArtifactError, LengthError
from atu.inference.batching import BatchSize
from atu.inference.generation import Sampling, greedy_answers, sampled_answers
from atu.inference.scoring import score_answers
from atu.models.build import build_lm
from atu.models.compute import settle
from atu.models.llm import (
    context_length,
    decoder_layers,
    final_norm,
    frozen,
    hidden_states,
    hidden_states_at,
    load_lm,
    load_tokenizer,
    open_context,
    parameters_below,
    require_room,
    save_lm,
)
from atu.models.trainable import Lora, make_trainable

IDS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(scope="module", params=FAMILIES)
def kind(request):
    return request.param


@pytest.mark.parametrize("layer", [1, 2])
def test_early_exit_gives_the_models_own_hidden_states(tiny_lm, kind, layer):
    model = tiny_lm(kind)
    with torch.no_grad():
        own = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
        ours = hidden_states(model, IDS, MASK, layer)
        again = model(input_ids=IDS, attention_mask=MASK)
    assert ours.shape == (2, 5, 16)
    assert torch.equal(ours, own.hidden_states[layer])
    assert not torch.equal(ours, own.hidden_states[layer - 1])
    assert torch.equal(again.logits, own.logits), "the model does not run as before"


def test_layers_above_do_not_run(tiny_lm, kind):
    model = tiny_lm(kind)
    ran = []
    for number, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    hidden_states(model, IDS, MASK, 2)
    assert ran == [0, 1]


@pytest.mark.parametrize("wanted", [[1, 2], [2, 1], [1], [2, 2]])
def test_states_at_several_layers_come_from_one_pass(tiny_lm, kind, wanted):
    """The same as `output_hidden_states` at each, in whatever order they are asked for; every layer
    below the highest runs once, and no other."""
    model = tiny_lm(kind)
    with torch.no_grad():
        own = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    ran = []
    for number, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    found = hidden_states_at(model, IDS, MASK, wanted)
    assert set(found) == set(wanted)
    assert all(torch.equal(found[layer], own[layer]) for layer in wanted)
    assert ran == list(range(max(wanted)))


def test_gradients_of_each_layers_states_end_below_it(tiny_lm, kind):
    """Of one pass: those of layer 1 reach layer 0 alone, those of layer 2 layers 0 and 1."""
    model = tiny_lm(kind)
    for layer in (1, 2):
        model.zero_grad()
        hidden_states_at(model, IDS, MASK, [1, 2])[layer].square().sum().backward()
        reached = [
            any(p.grad is not None and p.grad.any() for p in module.parameters())
            for module in decoder_layers(model)
        ]
        assert reached == [number < layer for number in range(3)]


def test_no_hook_is_left_behind(tiny_lm, kind):
    """Also when the pass fails."""
    model = tiny_lm(kind)
    hidden_states_at(model, IDS, MASK, [1, 2])
    with pytest.raises(IndexError):
        hidden_states_at(model, IDS + 1000, MASK, [1, 2])
    assert not any(layer._forward_pre_hooks for layer in decoder_layers(model))


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_only_inner_layers_can_be_hooked(tiny_lm, kind, layer):
    """Of 3 layers, indices 1 and 2: 0 is before the first and 3 after the final norm."""
    with pytest.raises(ValueError, match=rf"hook layer {layer} is not in 1\.\.2"):
        hidden_states(tiny_lm(kind), IDS, MASK, layer)
    with pytest.raises(ValueError, match=rf"hook layer {layer} is not in 1\.\.2"):
        hidden_states_at(tiny_lm(kind), IDS, MASK, [1, layer])


@pytest.mark.parametrize("layer", [1, 2])
def test_parameters_below_are_what_the_gradient_reaches(tiny_lm, kind, layer):
    """All that the hidden states depend on, and nothing else; GPT-2 embeds positions too."""
    model = tiny_lm(kind)
    hidden_states(model, IDS, MASK, layer).square().sum().backward()
    below = {id(p) for p in parameters_below(model, layer)}
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (id(parameter) in below), name


def test_parameters_below_grow_with_the_layer(tiny_lm):
    """A Llama layer has 9 parameters: q, k, v, o, gate, up, down and two norms."""
    model = tiny_lm()
    assert [len(parameters_below(model, layer)) for layer in (1, 2)] == [1 + 9, 1 + 18]
    assert parameters_below(model, 1)[0] is model.get_input_embeddings().weight


def test_padding_changes_nothing_at_real_positions(tiny_lm, kind):
    model = tiny_lm(kind)
    padded = hidden_states(model, IDS, MASK, 2)[1, :3]
    alone = hidden_states(model, IDS[1:, :3], MASK[1:, :3], 2)[0]
    torch.testing.assert_close(padded, alone, atol=1e-6, rtol=1e-5)


def test_the_final_norm_stands_between_the_last_layer_and_the_head(tiny_lm, kind):
    """The last of `output_hidden_states` is the norm of what the last layer gave, and the head of
    it the model's logits. The norm's weights are not all ones, so that leaving them out shows."""
    model = tiny_lm(kind)
    norm = final_norm(model)
    with torch.no_grad():
        for number, parameter in enumerate(norm.parameters()):
            parameter.copy_(torch.linspace(0.5, 2.0, 16) + number)
    given = []
    layer = decoder_layers(model)[-1]
    handle = layer.register_forward_hook(lambda _module, _args, output: given.append(output))
    with torch.no_grad():
        own = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
        handle.remove()
        before = given[0] if isinstance(given[0], torch.Tensor) else given[0][0]
        after = norm(before)
        logits = model.get_output_embeddings()(after)
        cap = getattr(model.config, "final_logit_softcapping", None)
        if cap:  # Gemma 2 bends logits, which changes no order
            logits = cap * torch.tanh(logits / cap)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, own.hidden_states[-1])
    torch.testing.assert_close(logits, own.logits)


@pytest.mark.parametrize(
    ("find", "what"), [(decoder_layers, "decoder layers"), (final_norm, "final norm")]
)
def test_an_unknown_architecture_is_refused(find, what):
    config = AutoConfig.for_model(
        "opt", hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8,
        max_position_embeddings=8, word_embed_proj_dim=8,
    )  # fmt: skip
    with pytest.raises(TypeError, match=f"OPTForCausalLM: no {what} at "):
        find(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("training", [True, False])
def test_frozen_restores_mode_and_flags(training):
    """Also when the block fails, and without thawing what was frozen before."""
    module = nn.Linear(2, 2).train(training)
    module.bias.requires_grad_(False)
    with pytest.raises(KeyError), frozen(module) as inner:
        assert inner is module and not module.training
        assert not any(p.requires_grad for p in module.parameters())
        raise KeyError
    assert module.training is training
    assert [module.weight.requires_grad, module.bias.requires_grad] == [True, False]


def test_the_seed_decides_the_weights(tiny_lm):
    def weights(seed):
        return torch.cat([p.flatten() for p in tiny_lm(seed=seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_building_leaves_the_random_stream_alone(tiny_lm):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    tiny_lm(seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_build_leaves_its_config_alone():
    config = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 8}
    model = build_lm(config, 0)
    assert config["model_type"] == "gpt2"
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_round_trip(tmp_path, tiny_lm, byte_tokenizer):
    model = tiny_lm(vocab_size=len(byte_tokenizer)).train()
    save_lm(model, byte_tokenizer, tmp_path)
    loaded, tokenizer = load_lm(tmp_path, CPU, training=True)
    assert not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    ids = tokenizer("Ada", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [byte_tokenizer("Ada")["input_ids"]]
    assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_a_models_own_generation_config_counts_for_nothing_here(tmp_path, tiny_lm, byte_tokenizer):
    """Qwen's repetition penalty would change what is greedy; the model is saved with it."""
    model, options = tiny_lm(vocab_size=259), {"max_new_tokens": 12, "batch_size": BatchSize(1)}
    plain = greedy_answers(model, byte_tokenizer, ["Ada"], **options)
    model.generation_config.update(repetition_penalty=5.0, eos_token_id=[2, 7])
    changed = greedy_answers(model, byte_tokenizer, ["Ada"], **options)
    save_lm(model, byte_tokenizer, tmp_path / "own")
    loaded, tokenizer = load_lm(tmp_path / "own", CPU, training=False)
    found = greedy_answers(loaded, tokenizer, ["Ada"], **options)
    assert found == plain != changed
    assert loaded.generation_config.eos_token_id == [2, 7]
    save_lm(loaded, tokenizer, tmp_path / "again")
    own, again = (tmp_path / name / "generation_config.json" for name in ("own", "again"))
    assert own.read_bytes() == again.read_bytes() and b"repetition_penalty" in own.read_bytes()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, tiny_lm, byte_tokenizer):
    """transformers would read every text as one unknown token."""
    save_lm(tiny_lm(), byte_tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"holds no tokenizer .*copy the files of the one"):
        load_lm(tmp_path, CPU, training=False)


def edited_tokenizer(folder, byte_tokenizer, *missing):
    """The folder of a tokenizer without some of its special tokens."""
    byte_tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in values.items() if name not in missing}
    path.write_text(json.dumps(kept), encoding="utf-8")
    return folder


def test_without_a_padding_token_the_end_pads(tmp_path, tiny_lm, byte_tokenizer):
    """As Llama and GPT-2 come: answers of a padded batch are those of each prompt alone."""
    assert load_tokenizer(edited_tokenizer(tmp_path / "whole", byte_tokenizer)).pad_token_id == 0
    tokenizer = load_tokenizer(edited_tokenizer(tmp_path / "less", byte_tokenizer, "pad_token"))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id != byte_tokenizer.pad_token_id
    model, prompts = tiny_lm(vocab_size=len(byte_tokenizer)), ["Ada", "Who is Ada Lovelace?"]
    options = {"max_new_tokens": 8, "batch_size": BatchSize(2)}
    found = greedy_answers(model, tokenizer, prompts, **options)
    assert found == greedy_answers(model, byte_tokenizer, prompts, **options)


def test_a_tokenizer_that_ends_no_text_is_refused(tmp_path, byte_tokenizer):
    with pytest.raises(ArtifactError, match="no token that ends a text; set `eos_token`"):
        load_tokenizer(edited_tokenizer(tmp_path, byte_tokenizer, "eos_token", "pad_token"))


def test_pickled_weights_are_refused(tmp_path, tiny_lm, byte_tokenizer):
    model = tiny_lm()
    save_lm(model, byte_tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"only pytorch_model\.bin, which would run code"):
        load_lm(tmp_path, CPU, training=True)


def test_a_text_that_does_not_fit_is_named(tiny_lm, byte_tokenizer):
    """The tiny models have room for 512 tokens: 511 bytes and the bos fit, one more does not."""
    model = tiny_lm("gpt2", vocab_size=259)
    rows = [byte_tokenizer(text)["input_ids"] for text in ("short", "x" * 511)]
    require_room(model, rows, ["short", "x" * 511])
    with pytest.raises(
        LengthError, match=r"^'xxx.*' has 512 tokens and 1 new ones, more than the 512"
    ):
        require_room(model, rows, ["short", "x" * 511], new=1)
    with pytest.raises(
        LengthError, match=r"has 513 tokens, more than the 512 of the model's context"
    ):
        require_room(model, [byte_tokenizer("x" * 512)["input_ids"]], ["x" * 512])


def test_long_prompts_and_answers_are_refused_where_they_are_read(tiny_lm, byte_tokenizer):
    """In place of an IndexError of GPT-2's, or of a silent answer of Llama's."""
    for kind in ("gpt2", "llama"):
        own = {"model": tiny_lm(kind, vocab_size=259), "tokenizer": byte_tokenizer}
        with pytest.raises(LengthError, match="has 511 tokens and 2 new ones"):
            greedy_answers(**own, prompts=["x" * 510], max_new_tokens=2, batch_size=BatchSize(1))
        with pytest.raises(LengthError, match="has 510 tokens and 3 new ones"):
            sampled_answers(
                **own, prompts=["x" * 509], sampling=Sampling(1, 1.0, 1.0, 0),
                max_new_tokens=3, batch_size=BatchSize(1),
            )  # fmt: skip
        with pytest.raises(LengthError, match="has 513 tokens"):
            score_answers(
                **own, prompts=[""], answers=["x" * 512], batch_size=BatchSize(1), end=False
            )


def dressed(model, how):
    """The model as it is trained: with layers computed again, with adapters, or with both."""
    if "checkpointing" in how:
        settle(model, replace(cpu_for(model.config.model_type), checkpointing=True))
    if "lora" in how:
        make_trainable(model, Lora("lora", rank=2, alpha=4), None)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.1)
    return model.train()


@pytest.mark.parametrize("how", ["checkpointing", "lora", "lora and checkpointing"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_early_exit_as_models_are_trained(tiny_lm, kind, how, side):
    """The states are the model's own; gradients are those of the whole pass, and end at the layer.
    Texts of 5 and 3 tokens go beyond Mistral's and Gemma's window of 3."""
    ids, mask = (IDS, MASK) if side == "right" else (IDS.flip(1), MASK.flip(1))
    gradients = []
    for exits in (True, False):
        torch.manual_seed(0)  # adapters are drawn, and GPT-2 drops out
        model = dressed(tiny_lm(kind), how)
        inputs = {"input_ids": ids, "attention_mask": mask}
        if exits:
            states = hidden_states(model, ids, mask, 2)
        else:
            states = model(**inputs, output_hidden_states=True).hidden_states[2]
        states.square()[mask.bool()].sum().backward()
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        gradients.append((states.detach(), found))
        above = [decoder_layers(model)[2], final_norm(model), model.get_output_embeddings()]
        tied = model.get_input_embeddings().weight
        reached = [p for m in above for p in m.parameters() if p.grad is not None and p is not tied]
        assert not reached
    (ours, own), (theirs, whole) = gradients
    assert torch.equal(ours[mask.bool()], theirs[mask.bool()])
    assert set(own) == set(whole) and own
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, whole[name], msg=name)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_a_jobs_context_is_read_without_its_weights(tiny_lm, byte_tokenizer, store, kind):
    """By its configuration, whatever that calls it; the weights may be gone."""
    model = tiny_lm(kind, vocab_size=len(byte_tokenizer))

    def write(path):
        save_lm(model, byte_tokenizer, path.parent)
        (path.parent / "model.safetensors").unlink()

    lm = store("lm", "unlearn", files={"model/config.json": write})
    assert open_context(lm, CPU) == 512 == context_length(model.config)


def test_a_context_that_a_configuration_does_not_name():
    """And that of the language model inside one of several kinds."""
    assert context_length(None) is None and context_length(SimpleNamespace()) is None
    text = SimpleNamespace(max_position_embeddings=64)
    outer = SimpleNamespace(max_position_embeddings=8, text_config=text)
    assert context_length(outer) == 64
