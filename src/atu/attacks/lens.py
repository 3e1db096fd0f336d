"""Logit lens: is the answer still readable inside? Head projection of arXiv 2309.17410.

At the prompt's last token every layer's hidden state goes through the final norm and the output
head; the attack succeeds if the first token of the gold answer is among the k likeliest of any
layer. The budget k x layers is fixed and printed. The control uses the first token of a wrong value
of the same kind at the same budget, or of another question's answer if the benchmark has no wrong
values. (Gemma 2's tanh on the logits is left out, since it keeps their order.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from atu.attacks.base import Attack, AttackContext, Column, Result, Row, item
from atu.errors import EvaluationError
from atu.inference.batching import map_in_batches
from atu.inference.finite import failing_layer, require_finite
from atu.inference.generation import mode
from atu.metrics.internals import head_projection
from atu.models.chat import prompt_ids
from atu.models.compute import device_of
from atu.models.llm import decoder_layers, final_norm
from atu.probes.prompts import join_answer
from atu.seeding import hash_fraction
from atu.training.batches import encode_text, right_padded
from atu.untrusted.bounds import STRICT, Count

GOLD, CONTROL = "gold", "control"


@dataclass(frozen=True)
class Settings:
    """The budget per layer."""

    __pydantic_config__ = STRICT

    attack: Literal["lens"]
    k: Count


def run(context: AttackContext) -> Result:
    """Success for the gold answer and for a wrong value, per held-out question on the target."""
    probes = with_wrong_values(context.questions("target"))
    prompts = [probe["prompt"] for probe in probes]
    lens = project_layers(context, prompts)
    items = []
    for probe, logits in zip(probes, lens, strict=True):
        gold = first_token(context.tokenizer, probe["prompt"], probe["answer"])
        wrong = control_token(context.tokenizer, probe, gold)
        for condition, token in ((GOLD, gold), (CONTROL, wrong)):
            success = head_projection(logits.numpy(), token, context.settings.k)
            items.append(item(probe, condition, head_projection.id, success))
    return Result(items, {"budget": float(context.settings.k * len(decoder_layers(context.model)))})


def with_wrong_values(probes: Sequence[Row]) -> list[Row]:
    """The probes that have a wrong value: the benchmark's, or the other probes' answers."""
    answers = list(dict.fromkeys(probe["answer"] for probe in probes))
    with_wrong = [
        probe | {"wrong": probe["wrong"] or [a for a in answers if a != probe["answer"]]}
        for probe in probes
    ]
    return [probe for probe in with_wrong if probe["wrong"]]


@torch.inference_mode()
def project_layers(context: AttackContext, prompts: Sequence[str]) -> list[Tensor]:
    """Per prompt, the logits of every layer at its last token, [layers, vocab] each."""
    model = context.model
    encoded = prompt_ids(context.tokenizer, prompts)

    def work(chosen: list[int]) -> list[Tensor]:
        rows = [encoded[i] for i in chosen]
        logits = _layer_logits(model, rows, context.tokenizer.pad_token_id)
        named = [f"logit lens, item {i}: {prompts[i]!r}" for i in chosen]
        require_finite(logits, named, lambda row: failing_layer(model, rows[row]))
        return list(logits.cpu())

    with mode(model, True):
        return map_in_batches(work, [len(row) for row in encoded], context.batch_size, "lens")


def _layer_logits(model: Any, rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """[batch, layers, vocab]; the last hidden state is after the final norm already."""
    device = device_of(model)
    ids, mask = right_padded(rows, pad, device)
    output = model.base_model(
        input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False
    )
    last = (mask.sum(dim=1) - 1)[:, None, None]
    states = [h.gather(1, last.expand(-1, 1, h.shape[-1]))[:, 0] for h in output.hidden_states[1:]]
    normed = [final_norm(model)(h) for h in states[:-1]] + [states[-1]]
    head = model.get_output_embeddings()
    return torch.stack([head(h).float() for h in normed], dim=1)


def control_token(tokenizer: Any, probe: Row, gold: int) -> int:
    """The first token of a wrong value, of one that begins with another token if there is any."""
    order = sorted(probe["wrong"], key=lambda value: hash_fraction(probe["id"], value))
    tokens = [first_token(tokenizer, probe["prompt"], value) for value in order]
    return next((token for token in tokens if token != gold), tokens[0])


def first_token(tokenizer: Any, prompt: str, answer: str) -> int:
    """The first token of the answer as it follows the prompt.

    Raises:
        EvaluationError: the answer has no token of its own.
    """
    text = encode_text(tokenizer, join_answer(prompt, answer), prompt, end=False)
    if text.answer_start >= len(text.ids):
        raise EvaluationError(f"{answer!r} has no token after {prompt!r}")
    return text.ids[text.answer_start]


def columns(settings: Settings) -> list[Column]:
    """The gold answer and the wrong value."""
    return [
        Column(f"logit lens, top {settings.k} per layer", (GOLD,)),
        Column("logit lens, a wrong value", (CONTROL,), control=True, baseline=True),
    ]


ATTACK = Attack(Settings, run, columns, noun="the logit lens")
