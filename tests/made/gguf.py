"""A tiny random Llama as a GGUF file, as llama.cpp's converter writes one."""

import json

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

from made.models import write_model

NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
Q8 = GGMLQuantizationType.Q8_0
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def gguf_name(name):
    """llama.cpp's name of a weight of transformers' Llama."""
    if name.startswith("model.layers."):
        _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }[name]


def permuted(weight, heads):
    """Queries and keys in the order of llama.cpp's rotary positions."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return split.swapaxes(1, 2).reshape(weight.shape)


class Made:
    """What goes into the file; tests change it before `write`."""

    def __init__(self, folder):
        write_model(folder, "llama", layers=2)
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        self.tokens = sorted(vocabulary, key=vocabulary.get)
        self.merges = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
        special = {token["id"] for token in tokenizer["added_tokens"]}
        self.types = [
            TokenType.CONTROL if index in special else TokenType.NORMAL
            for index in range(len(self.tokens))
        ]
        self.special = {"bos": 1, "eos": 2, "pad": 0}
        self.architecture, self.pre, self.kind, self.template = "llama", "gpt-2", "gpt2", TEMPLATE
        self.add_bos, self.scaling = True, "none"
        self.tensors = {}
        for name, weight in load_file(folder / "model.safetensors").items():
            heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
            key = next((heads[part] for part in heads if part in name), None)
            self.tensors[gguf_name(name)] = permuted(weight, self.config[key]) if key else weight

    def write(self, path, quantised=()):
        """The file; the weights named in `quantised` as Q8_0."""
        path.parent.mkdir(exist_ok=True)
        writer = GGUFWriter(path, self.architecture)
        config = self.config
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
        writer.add_string(f"{self.architecture}.rope.scaling.type", self.scaling)
        writer.add_vocab_size(config["vocab_size"])
        writer.add_tokenizer_model(self.kind)
        if self.pre is not None:
            writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        for name, index in self.special.items():
            getattr(writer, f"add_{name}_token_id")(index)
        writer.add_add_bos_token(self.add_bos)
        if self.template:
            writer.add_chat_template(self.template)
        for name, weight in self.tensors.items():
            if name in quantised:
                writer.add_tensor(name, quantize(weight, Q8), raw_dtype=Q8)
            else:
                writer.add_tensor(name, np.ascontiguousarray(weight))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def rounded(weight):
    """A weight as Q8_0 stores it."""
    return dequantize(quantize(weight, Q8), Q8)
