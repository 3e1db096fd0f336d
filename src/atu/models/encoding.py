"""Texts as tokens: what a text spells is text.

A tokenizer turns "<|im_start|>" into the control token of that name wherever it stands, so a
question or a passage that spells one could end a turn or begin another. Here only a chat template
writes control tokens; spelled in a text, they are the tokens of their letters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]
ANCHORS = ("\n", "a", "")
"""What stands before a piece that is tokenised apart, since SentencePiece puts a space before what
begins a text. The first with which the piece does not merge is taken."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, and the span of characters of each; empty spans where the tokenizer has
    added a token.
    """

    ids: list[int]
    spans: list[Span]


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens by which a template or a tokenizer marks turns and texts, with their spelling.

    Special tokens, and added ones that the chat template writes (Qwen's "<think>"). Other added
    tokens stand for ordinary text (Gemma's runs of line breaks).
    """
    template = str(getattr(tokenizer, "chat_template", None) or "")
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        number: token.content
        for number, token in added.items()
        if token.special or (token.content.strip() and token.content in template)
    }


def tokenise(
    tokenizer: Any, text: str, *, special_tokens: bool = True, data: Sequence[Span] | None = None
) -> Tokens:
    """The tokens of a text.

    Args:
        special_tokens: whether the tokenizer adds its own.
        data: the spans that no template wrote; None for the whole text.
    """
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=special_tokens)
    tokens = _tokens(encoded["input_ids"], encoded["offset_mapping"])
    return _spelled_out(tokenizer, text, tokens, data, control_tokens(tokenizer))


def tokenise_all(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """`tokenise` of every text in one call, which takes a third of the time."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), return_offsets_mapping=True)
    controls = control_tokens(tokenizer)
    return [
        _spelled_out(tokenizer, text, _tokens(ids, spans), None, controls)
        for text, ids, spans in zip(
            texts, encoded["input_ids"], encoded["offset_mapping"], strict=True
        )
    ]


def continued(tokenizer: Any, before: Tokens, whole: Tokens, start: int, text: str) -> Tokens:
    """`whole`, the tokens of `text`, so that they begin with those of `text[:start]`, `before`.

    A model that is asked reads `before`. A tokenizer that merges across the boundary (":" with the
    answer's first word) gives other tokens to the whole; the rest is then tokenised apart.
    """
    count = len(before.ids)
    if whole.ids[:count] == before.ids:
        return whole
    rest = _apart(tokenizer, text[start:], control_tokens(tokenizer))
    return Tokens(
        before.ids + rest.ids, before.spans + [(start + a, start + b) for a, b in rest.spans]
    )


def open_ended(tokenizer: Any, tokens: Tokens) -> Tokens:
    """The tokens without those that the tokenizer has added at the end, where the text goes on."""
    count = len(tokens.ids)
    while count > 1 and _empty(tokens.spans[count - 1]):
        if tokens.ids[count - 1] not in control_tokens(tokenizer):
            break
        count -= 1
    return Tokens(tokens.ids[:count], tokens.spans[:count])


def _tokens(ids: Sequence[int], spans: Sequence[Sequence[int]]) -> Tokens:
    return Tokens(list(ids), [(start, end) for start, end in spans])


def _empty(span: Span) -> bool:
    return span[0] == span[1]


def _spelled_out(
    tokenizer: Any,
    text: str,
    tokens: Tokens,
    data: Sequence[Span] | None,
    controls: Mapping[int, str],
) -> Tokens:
    """The tokens with every control token that the text itself spells as its letters."""

    def spelled(number: int, span: Span) -> bool:
        written = text[slice(*span)]
        # Without the white space that some tokens take, which may be the template's (Phi-3).
        first = span[0] + len(written) - len(written.lstrip())
        last = first + len(written.strip())
        within = data is None or any(a <= first and last <= b for a, b in data)
        # Not an unknown token, which stands for other characters than its own.
        return within and written.strip() == controls[number].strip()

    if not any(number in controls for number in tokens.ids):
        return tokens
    ids: list[int] = []
    spans: list[Span] = []
    for number, (start, end) in zip(tokens.ids, tokens.spans, strict=True):
        if number in controls and start < end and spelled(number, (start, end)):
            letters = _apart(tokenizer, text[start:end], controls)
            ids += letters.ids
            spans += [(start + a, start + b) for a, b in letters.spans]
        else:
            ids.append(number)
            spans.append((start, end))
    return Tokens(ids, spans)


def _apart(tokenizer: Any, text: str, controls: Mapping[int, str]) -> Tokens:
    """The tokens of a piece of a text, as they are within one: without a space before it. A control
    token's spelling is cut in two, which neither half is.
    """
    tokens = _anchored(tokenizer, text)
    if len(text) < 2 or not any(number in controls for number in tokens.ids):
        return tokens
    spelling = next(s for n in tokens.ids if (s := controls.get(n)) is not None)
    cut = min(max(text.find(spelling) + 1, 1), len(text) - 1)
    first, second = (_apart(tokenizer, part, controls) for part in (text[:cut], text[cut:]))
    return Tokens(
        first.ids + second.ids, first.spans + [(cut + a, cut + b) for a, b in second.spans]
    )


def _anchored(tokenizer: Any, text: str) -> Tokens:
    for anchor in ANCHORS:
        encoded = tokenizer(anchor + text, return_offsets_mapping=True, add_special_tokens=False)
        tokens = _tokens(encoded["input_ids"], encoded["offset_mapping"])
        size = len(anchor)
        alone = tokenizer(anchor, add_special_tokens=False)["input_ids"] if anchor else []
        if tokens.ids[: len(alone)] == alone:
            spans = [(a - size, b - size) for a, b in tokens.spans[len(alone) :]]
            return Tokens(tokens.ids[len(alone) :], spans)
    return Tokens([], [])
