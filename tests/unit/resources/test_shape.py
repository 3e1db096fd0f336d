"""Shapes are those of the models, without their weights."""

import pytest

from atu.resources.bound import count
from atu.resources.shape import empty_lm, shape_of

PHI3_MINI = {
    "model_type": "phi3", "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip


def test_phi3_mini_by_hand():
    """A layer's matrices: qkv 3072 x 9216, out 3072 x 3072, gate and up 3072 x 16384, down 8192 x
    3072. With 32 layers, two norms of 3072 each, tokens and head of 32064 x 3072 and a norm there
    are 3 821 079 552 parameters, which is the published 3.8 B.
    """
    shape = shape_of(PHI3_MINI)
    assert shape.matrices == 3072 * 9216 + 3072**2 + 3072 * 16384 + 8192 * 3072
    assert (shape.inputs, shape.outputs) == (3 * 3072 + 8192, 9216 + 3072 + 16384 + 3072)
    assert (shape.hidden, shape.queries, shape.layers, shape.vocab) == (3072, 3072, 32, 32064)
    assert shape.mlp_output == 8192 * 3072
    assert not shape.tied
    assert count(empty_lm(PHI3_MINI).parameters()) == 3_821_079_552


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_head_that_is_the_table(kind):
    """GPT-2 keeps its matrices transposed: 16 x 48, 16 x 16, 16 x 64 and 64 x 16."""
    config = {"model_type": kind, "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "tie_word_embeddings": True}
    shape = shape_of(config | heads | {"bos_token_id": 1, "eos_token_id": 2})
    assert shape.tied
    if kind == "gpt2":
        assert (shape.matrices, shape.inputs, shape.outputs) == (3072, 112, 144)


def test_code_of_a_configuration_is_refused():
    with pytest.raises(ValueError, match="auto_map"):
        shape_of(PHI3_MINI | {"auto_map": {"AutoConfig": "x.y"}})
