"""GGUF: one file with a model's quantised weights, its configuration and its tokenizer, as
llama.cpp reads it. transformers dequantises it; here the result is compared with the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atu.errors import ArtifactError, AtuError, shown
from atu.models.folders import check_config
from atu.models.gguf_header import Header, read_header
from atu.models.gguf_tokenizer import (
    ORIGINAL,
    check_tokens,
    compare_tokenizer,
    settled,
)


def check_gguf(file: Path) -> Header:
    """Refuse a GGUF file that is not whole, holds no language model that transformers reads, or
    whose vocabulary does not fit.

    Raises:
        ArtifactError: names the file, what is wrong with it, and the repair.
    """
    return _checked(file)[0]


def _checked(file: Path) -> tuple[Header, Any]:
    """The header and, as transformers reads it, the configuration."""
    from transformers import AutoConfig

    header = read_header(file)
    _require_architecture(header)
    _require_positions(header)
    check_tokens(header)
    with _reading(file):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    try:
        check_config(config.to_dict())
    except ValueError as error:
        raise ArtifactError(f"{file}: {error}; {ORIGINAL}") from None
    return header, config


def _require_architecture(header: Header) -> None:
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    kind = header.values.get("general.type", "model")
    if kind != "model" or not header.tensors:
        raise ArtifactError(
            f"{header.file}: holds no model ({shown(kind)}, {len(header.tensors)} tensors); name "
            "the file with the weights"
        )
    # llama.cpp's names of those that transformers spells otherwise.
    known = {*GGUF_ARCHS, *(name.replace("_", "") for name in GGUF_SUPPORTED_ARCHITECTURES)}
    known |= {*GGUF_SUPPORTED_ARCHITECTURES, "gpt-oss", "minimax-m2"}
    if header.architecture not in known:
        raise ArtifactError(
            f"{header.file}: its architecture is {shown(header.architecture)}, and transformers "
            f"reads {', '.join(sorted(known))}; {ORIGINAL}"
        )


def _require_positions(header: Header) -> None:
    """Refuse scaled positions, of which transformers makes unscaled ones."""
    key = f"{header.architecture}.rope.scaling.type"
    if header.values.get(key, "none") != "none":
        raise ArtifactError(
            f"{header.file}: scales its positions ({key} = {shown(header.values[key])}), which "
            f"transformers would leave out; {ORIGINAL}"
        )


def gguf_config(file: Path) -> dict[str, Any]:
    """`transformers` values of the model's configuration, from the file's header.

    Raises:
        ArtifactError: as `check_gguf`.
    """
    values: dict[str, Any] = _checked(file)[1].to_dict()
    return values


def dequantise(file: Path, out: Path) -> None:
    """Write the file's model as a Hugging Face folder: float32 weights, tokenizer, chat template.

    Raises:
        ArtifactError: as `check_gguf`; or not every weight, or not the tokenizer, is the file's.
    """
    from transformers import AutoTokenizer

    header, config = _checked(file)
    with _reading(file):
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, local_files_only=True
        )
        settled(tokenizer, header).save_pretrained(out)
        # As it will be read.
        made = AutoTokenizer.from_pretrained(out, local_files_only=True)
    compare_tokenizer(made, header)
    _require_all_used(header, config)
    _write_weights(header, out)


def _write_weights(header: Header, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with _reading(header.file):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            header.file.parent,
            gguf_file=header.file.name,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    model, info = loaded
    for key in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if info[key]:
            raise ArtifactError(
                f"{header.file}: {key.replace('_keys', '')} weights: {shown(sorted(info[key])[0])}"
                f"{' and others' if len(info[key]) > 1 else ''}; {ORIGINAL}"
            )
    # transformers would refuse to save what it takes for quantised weights.
    model.hf_quantizer = None
    for name in ("quantization_config", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    model.save_pretrained(out)


def _require_all_used(header: Header, config: Any) -> None:
    """Refuse a file with weights that transformers would leave out without a word, as it does with
    `rope_freqs.weight`, which scales the positions of Llama 3.1 and later.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import GGUF_ARCHS
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    if header.architecture in GGUF_ARCHS:  # names what it leaves out by itself
        return
    with _reading(header.file):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(
            config=config.to_dict()
        )
        known = get_gguf_hf_weights_map(model, processor)
    unused = sorted(set(header.tensors) - set(known))
    if unused:
        raise ArtifactError(
            f"{header.file}: transformers would leave out its tensor {shown(unused[0])}"
            f"{f' and {len(unused) - 1} others' if len(unused) > 1 else ''}; {ORIGINAL}"
        )


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Any failure while transformers reads the file becomes an `ArtifactError`."""
    try:
        yield
    except (AtuError, MemoryError):
        raise
    except Exception as error:  # transformers raises many types here; all mean a bad file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(
            f"{file}: cannot be read as a GGUF model: {reason[:500]}; {ORIGINAL}"
        ) from error
