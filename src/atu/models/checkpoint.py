"""Somebody else's checkpoint of a model: a folder, a GGUF file, or a LoRA adapter, and whether it
is a checkpoint of that model at all.

An audit compares answers before and after. A checkpoint that reads other tokens, or is asked in
another chat template, would answer differently for reasons that have nothing to do with forgetting,
so that is refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from atu.errors import ArtifactError, shown
from atu.models.adapters import check_fit, merge_adapter
from atu.models.chat import prompt_ids
from atu.models.encoding import tokenise
from atu.models.folders import ADAPTERS, VOCABULARIES, is_adapter
from atu.models.gguf import dequantise, gguf_config
from atu.models.gguf_header import is_gguf
from atu.models.llm import load_tokenizer
from atu.models.pinned import FOLDER, PIN, locate, pin
from atu.results.files import read_json, write_json
from atu.results.locks import Source

TOKENIZER_FILES = (
    *VOCABULARIES, "merges.txt", "added_tokens.json", "special_tokens_map.json",
    "tokenizer_config.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
SIZES = {
    "hidden size": ("hidden_size", "n_embd"),
    "number of layers": ("num_hidden_layers", "n_layer"),
}
VOCABULARY = "vocab_size"
TEXTS = (
    "Question: Who is it, and where was she born in 1987?\nAnswer: 12,345.67 km",
    " leading space,  two spaces\n\n\ttab, and don't",
    "Größe, naïve café, Łódź, Ωμέγα, Москва",
    "東京は日本の首都です。你好,世界",
    "🙂 x = {'a': [1, 2]} # <b>http://example.org/?q=1</b>",
)
"""Texts whose tokens are compared: what normalisers and splitters treat differently."""
REPAIR = (
    "copy the original's tokenizer files into a copy of the checkpoint's folder, if it was trained "
    "with them; else it is no checkpoint of this model"
)


def place_checkpoint(
    source: Source, path: Callable[[str], Path], base: Path | None, code: bool = False
) -> Path:
    """Put a model into a job's folder: the pin of a Hugging Face folder; of a GGUF file, or of an
    adapter merged into `base`, a folder of its own.

    Args:
        path: gives a path in the job's folder.
        base: the folder of the original; None where an adapter has none to be merged into.

    Returns:
        The folder that holds the model.

    Raises:
        SourceError: the source is missing, or not as its lock says.
        ArtifactError: it cannot be read; or an adapter does not fit.
    """
    content = pin(source, code)
    folder = locate(source, content["revision"])
    if is_gguf(folder):
        dequantise(folder, path(FOLDER))
        return path(FOLDER)
    if is_adapter(folder):
        if base is None:
            raise ArtifactError(f"{folder / ADAPTERS}: an adapter alone is no model; name the "
                                "model that it was trained on")  # fmt: skip
        merge_adapter(folder, base, path(FOLDER), code)
        return path(FOLDER)
    write_json(path(PIN), content)
    return folder


def require_checkpoint_of(folder: Path, original: Path, code: bool = False) -> None:
    """Refuse a checkpoint that is none of the original's.

    Of a GGUF file only the sizes are compared: its tokenizer is read when it is dequantised.

    Raises:
        ArtifactError: names the folder, what differs, and the repair.
    """
    if is_adapter(folder):
        check_fit(folder, original)
        if not any((folder / name).is_file() for name in VOCABULARIES):
            return
    else:
        _compare_sizes(folder, original)
    if is_gguf(folder) or is_gguf(original) or _same_files(folder, original):
        return
    theirs, ours = load_tokenizer(folder, code), load_tokenizer(original, code)
    difference = next(_tokenizer_differences(theirs, ours), None)
    if difference is not None:
        raise ArtifactError(f"{folder}: {difference} ({original}); {REPAIR}")
    rows = len(theirs) if is_adapter(folder) else _config(folder).get(VOCABULARY, len(theirs))
    if len(theirs) > rows:
        raise ArtifactError(
            f"{folder}: has {rows} embeddings for {len(theirs)} tokens of its tokenizer; name the "
            "whole checkpoint"
        )


def _compare_sizes(folder: Path, original: Path) -> None:
    """Attacks name layers, and alignment a hidden size, once for all models of a comparison."""
    theirs, ours = _config(folder), _config(original)
    for name, keys in SIZES.items():
        found, wanted = (next((c[k] for k in keys if k in c), None) for c in (theirs, ours))
        if found != wanted:
            raise ArtifactError(
                f"{folder}: its {name} is {shown(found)}, the original's {shown(wanted)} "
                f"({original}); name the model that it was made from"
            )


def _config(folder: Path) -> dict[str, Any]:
    values = gguf_config(folder) if is_gguf(folder) else read_json(folder / "config.json")
    return values.get("text_config") or values


def _same_files(folder: Path, original: Path) -> bool:
    """Whether both have the tokenizer's files, byte for byte: most checkpoints do."""

    def files(place: Path) -> dict[str, bytes]:
        there = (name for name in TOKENIZER_FILES if (place / name).is_file())
        return {name: (place / name).read_bytes() for name in there}

    return files(folder) == files(original)


def _tokenizer_differences(theirs: Any, ours: Any) -> Iterator[str]:
    """What differs, the cause before its effects. Special tokens that only the checkpoint has (a
    padding token, say) come from no text, and the padding token itself is masked everywhere.
    """
    known, wanted = theirs.get_vocab(), ours.get_vocab()
    special = {t.content for t in theirs.added_tokens_decoder.values() if t.special}
    for token, number in sorted(wanted.items(), key=lambda item: item[1]):
        if known.get(token) != number:
            yield (
                f"token {number} of its tokenizer is not {shown(token)}, as it is the original's: "
                f"the vocabularies differ ({len(known)} tokens and {len(wanted)})"
            )
    for token in sorted(set(known) - set(wanted) - special):
        yield f"its tokenizer has the token {shown(token)}, which the original's has not"
    merges = [_merges(tokenizer) for tokenizer in (theirs, ours)]
    if merges[0] != merges[1]:
        yield "its tokenizer merges letters otherwise than the original's"
    for name in ("bos_token", "eos_token", "unk_token"):
        found, right = getattr(theirs, name), getattr(ours, name)
        if found != right:
            yield f"its {name} is {shown(found)}, the original's {shown(right)}"
    for text in TEXTS:
        if tokenise(theirs, text).ids != tokenise(ours, text).ids:
            yield f"its tokenizer gives other tokens for {shown(text)} than the original's"
    if prompt_ids(theirs, list(TEXTS)) != prompt_ids(ours, list(TEXTS)):
        yield "its chat template asks otherwise than the original's"


def _merges(tokenizer: Any) -> Any:
    """The merges of a fast tokenizer, in order; None of one that has no such thing."""
    import json

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str())["model"].get("merges") if backend is not None else None
