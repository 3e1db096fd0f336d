"""Tiny random models of public architectures, as folders that transformers loads."""

from atu.models.build import build_lm
from atu.models.llm import save_lm
from atu.models.tokenizer import train_tokenizer

COMMON = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
}  # fmt: skip
SHAPES = {
    "phi3": COMMON | {"original_max_position_embeddings": 1024},
    "llama": COMMON,
    "mistral": COMMON | {"sliding_window": 512},
}
TEXTS = ["What is the town of Stephen King? Please briefly answer the following question."] * 4


def write_model(folder, kind, layers=4, texts=TEXTS):
    """A random model with a byte-level tokenizer; the folder."""
    tokenizer = train_tokenizer(texts, 400)
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    config = SHAPES[kind] | special | {
        "model_type": kind, "num_hidden_layers": layers, "vocab_size": len(tokenizer),
    }  # fmt: skip
    save_lm(build_lm(config, seed=0), tokenizer, folder)
    return folder
