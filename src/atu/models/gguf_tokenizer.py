"""The tokenizer of a GGUF file: made by transformers, set right where transformers does not, and
compared with what the file says.

A GGUF file names how its text is split before merges apply (`tokenizer.ggml.pre`) and leaves the
rest to llama.cpp. The names and what they mean: llama.cpp, src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from atu.errors import ArtifactError, shown
from atu.models.gguf_header import Header

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
"""Values of `tokenizer.ggml.model`."""
AS_GPT2 = {
    "gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0",
    "mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4",
}  # fmt: skip
"""Texts are split as GPT-2 splits them, which is what transformers does unless it knows better."""
DIGITS_ALONE = {
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
}  # fmt: skip
"""The same after every digit was split off. transformers leaves that out: the two line breaks
before the "2." of a list would be two tokens instead of the one that the model was trained on."""
WHOLE_WORDS_FIRST = {
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "jina-v5-nano", "tekken",
}  # fmt: skip
"""A word that is a token stays whole, whatever merges say; a text begins with BOS."""
CONTROL, USER_DEFINED = 3, 4
"""Values of `tokenizer.ggml.token_type`."""
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""GGUF's names of the special tokens."""
ORIGINAL = "name the Hugging Face folder of the model it was made from"


def check_tokens(header: Header) -> None:
    """Refuse a file whose vocabulary, merges and special tokens do not fit each other, or whose
    texts are split in a way that cannot be rebuilt.

    Raises:
        ArtifactError: names the file, the first token or merge, and the repair.
    """
    for fault in _faults(header):
        raise ArtifactError(f"{header.file}: {fault}; {ORIGINAL}")


def _faults(header: Header) -> Iterator[str]:
    tokens, kind = header.tokenizer("tokens"), header.tokenizer("model")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        yield "holds no vocabulary (tokenizer.ggml.tokens)"
    for key in ("token_type", "merges"):
        if not isinstance(header.tokenizer(key, []), list):
            yield f"its tokenizer.ggml.{key} is no list"
    known = {token: index for index, token in enumerate(tokens)}
    if len(known) < len(tokens):
        index = next(i for i, token in enumerate(tokens) if known[token] != i)
        yield f"its tokens {index} and {known[tokens[index]]} are both {shown(tokens[index])}"
    types = header.tokenizer("token_type", [])
    if types and len(types) != len(tokens):
        yield f"has {len(tokens)} tokens and {len(types)} types of them"
    for name, key in SPECIAL.items():
        index = header.tokenizer(f"{key}_token_id")
        if index is not None and not (type(index) is int and 0 <= index < len(tokens)):
            yield f"its {name} token is number {shown(index)} of {len(tokens)}"
    for index, merge in enumerate(header.tokenizer("merges", [])):
        parts = str(merge).split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= known.keys():
            yield (
                f"its merge {index}, {shown(merge)}, does not make one token of its vocabulary of "
                "two others"
            )
    if kind == BYTE_LEVEL:
        yield from _split_faults(header)


def _split_faults(header: Header) -> Iterator[str]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = header.tokenizer("pre")
    if name not in {*GGUF_PRE_TOKENIZER_SPLITS, *AS_GPT2, *DIGITS_ALONE}:
        yield (
            f"how it splits a text into words (tokenizer.ggml.pre = {shown(name)}) is none of "
            "those that can be rebuilt"
        )
    if not header.tokenizer("merges"):
        yield "holds no merges (tokenizer.ggml.merges)"


def settled(tokenizer: Any, header: Header) -> Any:
    """The tokenizer that transformers made, with what it does not heed of the file."""
    from tokenizers import pre_tokenizers

    if header.tokenizer("model") != BYTE_LEVEL:
        return tokenizer
    tokenizer = _without_strangers(tokenizer, header)
    backend, name = tokenizer.backend_tokenizer, header.tokenizer("pre")
    if name in DIGITS_ALONE:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if name in WHOLE_WORDS_FIRST:
        backend.model.ignore_merges = True
    return tokenizer


def _without_strangers(tokenizer: Any, header: Header) -> Any:
    """The tokenizer without tokens beyond the vocabulary: transformers adds GPT-2's unknown token
    to that of a file that names none, and no embedding has its number.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    values, tokens = json.loads(tokenizer.backend_tokenizer.to_str()), header.tokens
    values["added_tokens"] = [t for t in values["added_tokens"] if t["id"] < len(tokens)]
    ids = {name: header.tokenizer(f"{key}_token_id") for name, key in SPECIAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(values)),
        chat_template=tokenizer.chat_template,
        **{f"{name}_token": tokens[i] for name, i in ids.items() if i is not None},
    )


def compare_tokenizer(tokenizer: Any, header: Header) -> None:
    """Refuse a tokenizer that is not the file's.

    Raises:
        ArtifactError: names the file, the first token that differs, and the repair.
    """
    for fault in _differences(tokenizer, header):
        raise ArtifactError(f"{header.file}: as transformers reads it, {fault}; {ORIGINAL}")


def _differences(tokenizer: Any, header: Header) -> Iterator[str]:
    tokens = header.tokens
    if len(tokenizer) != len(tokens):
        yield f"the tokenizer has {len(tokenizer)} tokens, and the file {len(tokens)}"
    for index, token in enumerate(tokens):
        made = tokenizer.convert_ids_to_tokens(index)
        if made != token and made not in _respelled(token):
            yield f"token {index} is {shown(made)}, and {shown(token)} in the file"
    yield from _special_differences(tokenizer, header)
    yield from _merge_differences(tokenizer, header)
    yield from _edge_differences(tokenizer, header)
    if (header.values.get("tokenizer.chat_template") or None) != tokenizer.chat_template:
        yield "the chat template is another"


def _special_differences(tokenizer: Any, header: Header) -> Iterator[str]:
    """Special tokens, and those that are never cut."""
    tokens = header.tokens
    for name, key in SPECIAL.items():
        index = header.tokenizer(f"{key}_token_id")
        made = getattr(tokenizer, f"{name}_token_id")
        if index != made:
            here, there = _named(made, tokens), _named(index, tokens)
            yield f"the {name} token is {here}, and {there} in the file"
    added = tokenizer.added_tokens_decoder
    for index, kind in enumerate(header.tokenizer("token_type", [])):
        if kind in (CONTROL, USER_DEFINED):
            whole = index in added and (added[index].special or kind == USER_DEFINED)
            if not whole:
                yield f"token {index}, {shown(tokens[index])}, is cut into pieces"


def _edge_differences(tokenizer: Any, header: Header) -> Iterator[str]:
    """What stands before and behind a text."""
    ids = tokenizer("a").input_ids
    begins = header.tokenizer("add_bos_token", _adds_bos(header))
    ends = header.tokenizer("add_eos_token", False)
    for name, here, there in (
        ("bos", ids[0] == tokenizer.bos_token_id, bool(begins)),
        ("eos", ids[-1] == tokenizer.eos_token_id, bool(ends)),
    ):
        if here != there:
            yield f"a text has {'its' if here else 'no'} {name} token, otherwise than in the file"


def _adds_bos(header: Header) -> bool:
    """What llama.cpp does where the file does not say."""
    kind, name = header.tokenizer("model"), header.tokenizer("pre")
    return bool(kind == SENTENCEPIECE or name in WHOLE_WORDS_FIRST)


def _merge_differences(tokenizer: Any, header: Header) -> Iterator[str]:
    merges = header.tokenizer("merges")
    if merges is None:  # sentencepiece: made from the vocabulary's scores
        return
    made = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    written = [merge if isinstance(merge, str) else " ".join(merge) for merge in made]
    if len(written) != len(merges):
        yield f"there are {len(written)} merges, and {len(merges)} in the file"
    for index, (one, other) in enumerate(zip(written, merges, strict=False)):
        if one != other:
            yield f"merge {index} is {shown(one)}, and {shown(other)} in the file"


def _named(index: int | None, tokens: list[str]) -> str:
    return "none" if index is None else f"{shown(tokens[index])} ({index})"


def _respelled(token: str) -> set[str]:
    """How transformers may write a token: in the byte alphabet, or with sentencepiece's spaces."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    spelling = bytes_to_unicode()
    return {"".join(spelling[byte] for byte in token.encode()), token.replace(" ", "\u2581")}
