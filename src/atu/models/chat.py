"""Prompts as a model reads them: in its tokenizer's chat template where it has one.

A prompt is the user's turn; the line that its answer begins with ("Answer:") stands at the start of
the assistant's, as RWKU asks chat models (Jin et al. 2024, arXiv 2406.10890). The template writes
the special tokens, so the tokenizer adds none. A tokenizer without a template reads the prompt as
it is. Passages, and texts to be continued, are in no template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from atu.errors import ConfigError
from atu.models.encoding import Span, Tokens, open_ended, tokenise, tokenise_all
from atu.probes.prompts import ANSWER_SEPARATOR, split_opening

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = "zqxj"
"""Stands in a template for a question or an answer, to see what follows it."""


@dataclass(frozen=True)
class Rendered:
    """A prompt as it is tokenised."""

    text: str
    special_tokens: bool
    """Whether the tokenizer adds its special tokens."""
    question: Span
    """Span in `text` of the prompt's words before the opening."""
    opening: str
    """The start of the answer, at the end of `text`."""
    system: Span = (0, 0)
    """Span in `text` of the words of the system turn."""

    def tokens(self, tokenizer: Any, rest: str = "") -> Tokens:
        """The tokens of `answered(rest)`. Only the template writes control tokens: what the prompt
        or the answer spells is text.
        """
        text = self.answered(rest) if rest else self.text
        if self.special_tokens:
            return tokenise(tokenizer, text)
        data = [self.system, self.question, (len(self.text) - len(self.opening), len(text))]
        return tokenise(tokenizer, text, special_tokens=False, data=data)

    def answered(self, rest: str) -> str:
        """The text followed by `rest`. The space before an answer is dropped where the answer
        begins the assistant's turn; of an empty answer it is all there is.
        """
        if not self.special_tokens and not self.opening:
            rest = rest.removeprefix(ANSWER_SEPARATOR) or rest
        return self.text + rest

    def places(self, prompt: str, rest: str, spans: Sequence[Span]) -> list[Span]:
        """Spans of `answered(rest)` as spans of `prompt + rest`. Tokens of the template have no
        characters there: their spans are empty.
        """
        if self.special_tokens:
            return list(spans)
        start, stop = self.question
        first = prompt.find(prompt[: len(prompt) - len(self.opening)].strip())
        tail = len(self.text) - len(self.opening)
        shift = len(prompt) + len(rest) - len(self.answered(rest))

        def place(at: int, behind: bool) -> int:
            if behind:  # counted from the end, which is the same in both
                return at + shift
            return first + max(min(at, stop) - start, 0)

        # A token of the template may end where the answer's line begins.
        return [(place(a, a >= tail), place(b, b > tail or a >= tail)) for a, b in spans]


VARIABLES: dict[str, Any] = {"date_string": "10 Apr 2025", "enable_thinking": False}
"""Variables that some templates read besides the turns. Without a date Llama-3.2's writes today's,
so prompts would change from day to day (this date is open-unlearning's); Qwen3's lets the model
think aloud first. A template that reads the clock in another way (`strftime_now`) still can."""


def has_template(tokenizer: Any) -> bool:
    """Whether prompts are asked in a chat template."""
    return getattr(tokenizer, "chat_template", None) is not None


def render(tokenizer: Any, prompt: str, system: str | None = None) -> Rendered:
    r"""A prompt as a user's turn, after the `system` turn if there is one, up to where the answer
    continues.

    "Question: Who?\\nAnswer:" in Phi-3's template:
    "<|user|>\\nQuestion: Who?<|end|>\\n<|assistant|>\\nAnswer:".

    Raises:
        ConfigError: the template changes the prompt or cannot be filled in, or there is a system
            turn but no template.
    """
    if not has_template(tokenizer):
        if system is not None:
            raise ConfigError("system", system, "the tokenizer has no chat template; leave it out")
        return Rendered(prompt, True, (0, len(prompt)), "")
    question, opening = split_opening(prompt)
    first = [] if system is None else [{"role": "system", "content": system}]
    text = _fill(tokenizer, [*first, {"role": "user", "content": question}], True)
    words = question.strip()
    # A template's own words ("assistant") may be the question's, too.
    after = _fill(tokenizer, [*first, {"role": "user", "content": PROBE}], True)
    start = text.rfind(words, 0, len(text) - len(after.rpartition(PROBE)[2]))
    if start < 0:
        raise ConfigError(
            "chat_template",
            tokenizer.name_or_path,
            f"does not write {words!r} as it is; use a tokenizer with another template, or none",
        )
    told = (system or "").strip()
    at = max(text.find(told, _before_system(tokenizer) if told else 0), 0)
    return Rendered(
        text + opening, False, (start, start + len(words)), opening, (at, at + len(told))
    )


def _before_system(tokenizer: Any) -> int:
    """Where the words of a system turn begin at the earliest: they may be the template's, too."""
    turns = [{"role": role, "content": PROBE} for role in ("system", "user")]
    return max(_fill(tokenizer, turns, True).find(PROBE), 0)


def _fill(tokenizer: Any, messages: list[dict[str, str]], asking: bool) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=asking, **VARIABLES
            )
        )
    except Exception as error:  # a template is a program and may raise anything
        raise ConfigError(
            "chat_template", tokenizer.name_or_path, f"cannot be filled in: {error}"
        ) from None


def prompt_ids(
    tokenizer: Any, prompts: Sequence[str], *, templated: bool = True, system: str | None = None
) -> list[list[int]]:
    """Token ids of every prompt, up to where the answer continues.

    Args:
        templated: whether the chat template is applied; texts to be continued have none.
        system: the turn before each question; needs a template.
    """
    if not templated or (system is None and not has_template(tokenizer)):
        # An end that the tokenizer adds (T5's) would stand between the prompt and its answer.
        return [open_ended(tokenizer, t).ids for t in tokenise_all(tokenizer, prompts)]
    return [render(tokenizer, prompt, system).tokens(tokenizer).ids for prompt in prompts]


def turn_end(tokenizer: Any) -> int | None:
    """The token that ends an answer: the one the template writes after it, else the tokenizer's end
    of sequence.
    """
    if not has_template(tokenizer):
        return tokenizer.eos_token_id
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
    after = _fill(tokenizer, turns, False).rpartition(PROBE)[2].lstrip()
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return ids[0] if ids and ids[0] in special else tokenizer.eos_token_id


def stop_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """Every token at which an answer ends: the tokenizer's, the template's, and those that the
    model's generation config names.
    """
    config = getattr(model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    candidates = [tokenizer.eos_token_id, turn_end(tokenizer)]
    candidates += named if isinstance(named, list) else [named]
    return list(dict.fromkeys(token for token in candidates if token is not None))
