"""Our models in lm-eval, with prompts in their chat template as everywhere here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from atu.models.chat import has_template, render, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def language_model(model: PreTrainedModel, tokenizer: Any, batch_size: int) -> Any:
    """The model for lm-eval. A tokenizer without a chat template reads prompts as they are.

    lm-eval's `apply_chat_template` puts the first line of the answer into the question, and options
    after it without a space, so prompts are rendered here instead.
    """
    from lm_eval.models.huggingface import HFLM

    if not has_template(tokenizer):
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)

    class Templated(HFLM):  # type: ignore[misc]
        """Every prompt is a user's turn."""

        @property
        def eot_token_id(self) -> Any:
            """The token that ends an answer."""
            return turn_end(tokenizer)

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            rendered = render(tokenizer, context)
            before, whole = (
                self.tok_encode(text, add_special_tokens=False)
                for text in (rendered.text, rendered.answered(continuation))
            )
            return before, whole[len(before) :]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            rendered = [
                replace(r, arguments=(render(tokenizer, r.args[0]).text, *r.args[1:]))
                for r in requests
            ]
            return list(super().generate_until(rendered, disable_tqdm=disable_tqdm))

    # The template writes the beginning-of-sequence token.
    return Templated(
        pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=False
    )
