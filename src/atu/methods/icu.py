"""In-context unlearning by an instruction: RWKU's baseline ICU (Jin et al. 2024, arXiv 2406.10890;
the prompt as its evaluation scripts have it). The weights do not change.

The tokenizer puts the instruction before every text, after its own beginning-of-sequence token, so
that whatever reads the model's folder reads it too: generation, scoring, attacks and lm-eval.

Where this differs from RWKU: the instruction stands before every text that is read plainly, not
only before the benchmark's prompts. Where the tokenizer has a chat template, the instruction stands
in the user's turn, as there. (The name of In-Context Unlearning is also that of Pawelczyk et
al. 2023, arXiv 2310.07579, which shows wrongly labelled examples; this is not that.)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from atu.errors import ConfigError
from atu.methods.base import Context, Method, Stage, done
from atu.models.chat import has_template, render
from atu.models.llm import load_tokenizer
from atu.probes.prompts import unlearn_instruction
from atu.untrusted.bounds import STRICT

INSTRUCTION = "<instruction>"
"""What the post-processor calls the instruction's tokens; it is not in the vocabulary."""


@dataclass(frozen=True)
class Settings:
    """Nothing to set."""

    __pydantic_config__ = STRICT
    loss: Literal["icu"]


def put_before(tokenizer: Any, text: str) -> None:
    """Make the tokenizer put `text` before every text that it encodes with special tokens, and into
    the first turn of its chat template.

    Raises:
        ConfigError: this tokenizer cannot, or would lose it on saving.
    """
    from tokenizers import Tokenizer

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["post_processor"] = _with_tokens(
        content["post_processor"], ids, tokenizer.convert_ids_to_tokens(ids)
    )
    changed = Tokenizer.from_str(json.dumps(content))
    tokenizer.backend_tokenizer.post_processor = changed.post_processor
    if has_template(tokenizer):
        tokenizer.chat_template = _instructing(tokenizer.chat_template, text)
    _require_saved(tokenizer)


def _instructing(template: Any, text: str) -> Any:
    """The chat template, or each of several, with `text` before the first turn's."""
    if isinstance(template, dict):
        return {name: _instructing(one, text) for name, one in template.items()}
    turn = (
        f"{{'role': messages[0]['role'], 'content': {json.dumps(text)} + messages[0]['content']}}"
    )
    return f"{{% set messages = [{turn}] + messages[1:] %}}{template}"


def _with_tokens(processor: Any, ids: list[int], tokens: list[str]) -> dict[str, Any]:
    """The post-processor, as JSON, that also puts these tokens before the text."""
    steps = (
        processor["processors"] if processor and processor["type"] == "Sequence" else [processor]
    )
    steps = [step for step in steps if step]
    kinds = [step["type"] for step in steps]
    if any(kind not in ("ByteLevel", "TemplateProcessing") for kind in kinds):
        raise ConfigError("loss", "icu", f"this tokenizer's post-processors {kinds} are not known")
    if "TemplateProcessing" not in kinds:
        steps.append(_TEMPLATE)
    return {"type": "Sequence", "processors": [_step_with(step, ids, tokens) for step in steps]}


_TEMPLATE: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


def _step_with(step: dict[str, Any], ids: list[int], tokens: list[str]) -> dict[str, Any]:
    if step["type"] != "TemplateProcessing":
        return step
    put = {"SpecialToken": {"id": INSTRUCTION, "type_id": 0}}
    result = dict(step)
    for form in ("single", "pair"):
        at = next(i for i, p in enumerate(step[form]) if p.get("Sequence", {}).get("id") == "A")
        result[form] = [*step[form][:at], put, *step[form][at:]]
    special = {"id": INSTRUCTION, "ids": ids, "tokens": tokens}
    return result | {"special_tokens": step["special_tokens"] | {INSTRUCTION: special}}


def _require_saved(tokenizer: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        reloaded = load_tokenizer(Path(folder))
    unchanged = reloaded("a b")["input_ids"] == tokenizer("a b")["input_ids"] and render(
        reloaded, "a b"
    ) == render(tokenizer, "a b")
    if not unchanged:
        raise ConfigError(
            "loss", "icu", f"a saved {type(tokenizer).__name__} loses what stands before a text"
        )


def stages(context: Context) -> Iterator[Stage]:
    """The instruction, with the names of what is to be forgotten."""
    put_before(context.tokenizer, unlearn_instruction(context.subjects))
    yield done("instruction")


METHOD = Method(
    Settings,
    title="In-context unlearning",
    does="puts an instruction before every input",
    source="2406.10890",
    stages=stages,
    keeps_weights=True,
    processes="first",
)
