"""What a layer is said to keep, against what autograd saves: byte for byte in float32."""

import contextlib

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from atu.models.build import build_lm
from atu.models.llm import decoder_layers
from atu.models.predictor import PredictorConfig, build_predictor
from atu.resources.saved import (
    FAMILIES,
    Compute,
    Texts,
    Trained,
    casts_bytes,
    layer_bytes,
    predictor_bytes,
    stack_bytes,
)
from atu.resources.shape import shape_of

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {
    "vocab_size": 64, "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3,
    "num_attention_heads": 6, "max_position_embeddings": 64, **SPECIAL,
}  # fmt: skip
GPT2 = {
    "model_type": "gpt2", "vocab_size": 64, "n_embd": 96, "n_layer": 3, "n_head": 6,
    "n_positions": 64, **SPECIAL,
}  # fmt: skip
STILL = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
CONFIGS = {
    "llama": SIZES | {"model_type": "llama"},
    "llama, grouped": SIZES | {"model_type": "llama", "num_key_value_heads": 2},
    "mistral": SIZES | {"model_type": "mistral", "num_key_value_heads": 2},
    "qwen2": SIZES | {"model_type": "qwen2", "num_key_value_heads": 2},
    "phi3": SIZES | {"model_type": "phi3", "num_key_value_heads": 6},
    "phi3, grouped": SIZES | {"model_type": "phi3", "num_key_value_heads": 2},
    "gpt2": GPT2,
    "gpt2, no dropout": GPT2 | STILL,
    "gpt_neox": SIZES | {"model_type": "gpt_neox"},
}
ROWS, TOKENS = 4, 40


def saved_by(model, run, module):
    """Bytes of the distinct storages, parameters aside, that autograd saves inside a module."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    inside, found, alive = [False], {}, []
    module.register_forward_pre_hook(lambda *_: inside.__setitem__(0, True))
    module.register_forward_hook(lambda *_: inside.__setitem__(0, False))
    earlier = set()

    def pack(tensor):
        storage = tensor.untyped_storage()
        alive.append(storage)
        if inside[0] and storage.data_ptr() not in own | earlier:
            found[storage.data_ptr()] = storage.nbytes()
        earlier.add(storage.data_ptr()) if not inside[0] else None
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    del kept
    return sum(found.values())


def layer_of(config, attention, trained, padded, autocast=False, weights=torch.float32):
    """What the last layer saves; where it is not trained, a layer below it is."""
    model = build_lm(config | {"attn_implementation": attention}, 0).to(weights).train()
    layers = decoder_layers(model)
    layers[2].requires_grad_(trained)
    ids = torch.randint(3, 64, (ROWS, TOKENS))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    given = {"attention_mask": mask} if padded else {}
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()

    def run():
        with context:
            return model.base_model(input_ids=ids, use_cache=False, **given)

    return saved_by(model, run, layers[2])


@pytest.mark.parametrize("padded", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_keeps_what_autograd_saves(name, attention, trained, padded):
    config = CONFIGS[name]
    compute = Compute(4, 4, attention, checkpointing=False, device="cpu")
    texts = Texts(ROWS, TOKENS, padded)
    expected = layer_bytes(shape_of(config), compute, texts, trained=trained)
    assert expected == layer_of(config, attention, trained, padded)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2, no dropout", "gpt_neox"])
def test_half_precision(name, trained, autocast):
    """With autocast the weights' casts are among what is saved."""
    config = CONFIGS[name]
    shape = shape_of(config)
    compute = Compute(4 if autocast else 2, 2, "sdpa", checkpointing=False, device="cpu")
    expected = layer_bytes(shape, compute, Texts(ROWS, TOKENS), trained=trained)
    expected += casts_bytes(shape, compute, 1)
    kind = torch.float32 if autocast else torch.bfloat16
    found = layer_of(config, "sdpa", trained, True, autocast, kind)
    assert expected == pytest.approx(found, rel=0.03)


def test_a_llama_layer_by_hand():
    """Floats per token: 10 x 96 + 4 x 200 + 6 heads + 2 statistics + 40 of the mask = 1808."""
    compute = Compute(4, 4, "sdpa", checkpointing=False, device="cpu")
    found = layer_bytes(shape_of(CONFIGS["llama"]), compute, Texts(4, 40), trained=True)
    assert found == 1808 * 4 * 160


def test_layers_below_the_lowest_trained_one_keep_nothing():
    """Of layers 0 to 2 below a hook at 3: with layer 1 trained, layer 1 and the frozen layer 2;
    with checkpointing the inputs of both alone, 2 x 160 x 96 floats."""
    shape = shape_of(CONFIGS["llama"])
    compute = Compute(4, 4, "sdpa", checkpointing=False, device="cpu")
    texts, trained = Texts(4, 40), Trained(frozenset([1]), tables=False, head=False)
    both = [layer_bytes(shape, compute, texts, trained=own) for own in (True, False)]
    assert stack_bytes(shape, compute, texts, trained, 3, True) == sum(both)
    cheap = Compute(4, 4, "sdpa", checkpointing=True, device="cpu")
    assert stack_bytes(shape, cheap, texts, trained, 3, True) == 2 * 160 * 96 * 4


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("future", [False, True], ids=["causal", "sees future"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_predictor_keeps_what_autograd_saves(dropout, future, trained):
    """All of it but for the cosine: what the formula has for that is 2 x 72 + 72 floats per token,
    or 72 frozen. A mask of [seq, seq] is shared, and so small that 2 % cover it."""
    config = PredictorConfig(80, 72, 96, 2, 6, 200, dropout, future)
    predictor = build_predictor(config, 0).train(trained).requires_grad_(trained)
    hidden = torch.randn(ROWS, TOKENS, 80).requires_grad_(not trained)
    found = saved_by(predictor, lambda: predictor(hidden), predictor)
    cosine = (3 if trained else 1) * 72 * ROWS * TOKENS * 4
    expected = predictor_bytes(config, Texts(ROWS, TOKENS), trained) - cosine
    assert expected == pytest.approx(found, rel=0.02)


def test_every_family_is_measured_here():
    assert {config["model_type"] for config in CONFIGS.values()} == set(FAMILIES)
