"""GGUF: one file with a model's quantised weights, its configuration and its tokenizer, as
llama.cpp reads it. transformers dequantises it; here the result is compared with the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from atu.errors import ArtifactError

SUFFIX = ".gguf"


def is_gguf(path: Path) -> bool:
    """Whether a path names a GGUF file, by its name."""
    return path.suffix.lower() == SUFFIX


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder without safetensors; None if it holds none.

    Raises:
        ArtifactError: there are several.
    """
    found = sorted(path for path in folder.iterdir() if is_gguf(path))
    if not found or any(folder.glob("*.safetensors")):
        return None
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ArtifactError(f"{folder}: holds several GGUF files ({names}); name one of them")
    return found[0]


def gguf_config(file: Path) -> dict[str, Any]:
    """`transformers` values of the model's configuration, from the file's header."""
    from transformers import AutoConfig

    values: dict[str, Any] = AutoConfig.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    ).to_dict()
    return values


def dequantise(file: Path, out: Path) -> None:
    """Write the file's model as a Hugging Face folder: float32 weights, tokenizer, chat template.

    Raises:
        ArtifactError: transformers cannot read it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
    except Exception as error:  # transformers raises many types here; all mean a bad file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(f"{file}: cannot be read as a GGUF model: {reason[:500]}") from error
    # transformers would refuse to save what it takes for quantised weights.
    model.hf_quantizer = None
    for name in ("quantization_config", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
