"""Shapes are those of the models, without their weights."""

import pytest

from atu.models.build import build_lm
from atu.resources.shape import shape_of

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PHI3_MINI = {
    "model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGS = [
    SPECIAL | {
        "model_type": kind, "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32, **own,
    }
    for kind, own in (
        ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
        ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": False}),
        ("phi3", {"num_key_value_heads": 2}),
        ("gpt_neox", {}),
    )
]  # fmt: skip
GPT2 = SPECIAL | {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}


@pytest.mark.parametrize("config", [*CONFIGS, GPT2])
def test_parameters_are_counted_exactly(config):
    model, shape = build_lm(config, 0), shape_of(config)
    assert shape.total == sum(p.numel() for p in model.parameters())
    assert shape.state == sum(value.numel() for value in model.state_dict().values())


def test_phi3_mini_by_hand():
    """Per layer: qkv 3072 x 9216, out 3072 x 3072, gate and up 3072 x 16384, down 8192 x 3072, and
    two norms of 3072 = 113 252 352; 32 layers; tokens and head 32064 x 3072 each; a norm of 3072.
    In all 3 821 079 552, which is the published 3.8 B.
    """
    shape = shape_of(PHI3_MINI)
    assert shape.matrices == 3072 * 9216 + 3072**2 + 3072 * 16384 + 8192 * 3072 == 113_246_208
    assert shape.layer == shape.matrices + 2 * 3072
    assert shape.embedding == shape.head == 32064 * 3072
    assert shape.total == 3_821_079_552
    assert (shape.inputs, shape.outputs) == (3 * 3072 + 8192, 9216 + 3072 + 16384 + 3072)


def test_code_of_a_configuration_is_refused():
    with pytest.raises(ValueError, match="auto_map"):
        shape_of(PHI3_MINI | {"auto_map": {"AutoConfig": "x.y"}})
