"""Name change (Liu, Zhang, Jaakkola and Chang 2024, arXiv 2407.16997): the model learns to say of
the target what it would say of somebody it never met.

The teacher is the model before unlearning, reading each forget text with another name in the
target's place. Where this differs from the paper: one name a text instead of 20 (as its code has it
for TOFU), drawn from the vocabulary instead of a list (`shared/strangers.py`); where a name comes
next nothing is learnt, while the paper turns the other name's probability back into the target's;
and where a prompt does not name the target, which no document of the paper is like, the answer can
be suppressed (`unnamed`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from atu.errors import ConfigError, shown
from atu.methods.base import Context, Method, PlainSettings, Stage
from atu.methods.ceu import suppressed
from atu.methods.shared.strangers import Introduced, Strangers, forget_strangers, visits
from atu.training.batches import IGNORE, Batch
from atu.training.losses import distillation_loss, kl_to_reference
from atu.untrusted.bounds import NonNegative


@dataclass(frozen=True)
class Settings(PlainSettings):
    """What is learnt where a prompt does not name the target."""

    loss: Literal["name_change"]
    unnamed: NonNegative
    """Weight of the cross-entropy from the original's predictions without the answer's token (as
    CE-U's targets), in answers to prompts that do not name the target, up to the name if the answer
    is or has it; 0 leaves it out."""
    visits: bool
    """Whether the same is learnt from a batch of retain texts about neighbours where the target's
    name stands for theirs; the paper reads forget documents alone."""


def taught(context: Context, batch: Batch, introduced: Introduced) -> tuple[Tensor, Tensor, Tensor]:
    """KL(teacher || model) in nats, averaged over the tokens from the target's name on that are
    followed by no name; the model's logits, and the teacher's.
    """
    assert context.reference is not None
    mask = batch.attention_mask
    logits = context.model(**batch.inputs).logits
    with torch.no_grad():
        teacher = context.reference(**batch.inputs | {"input_ids": introduced.input_ids}).logits
    counted = introduced.after[:, :-1] * mask[:, 1:] * ~introduced.named[:, 1:]
    return kl_to_reference(logits[:, :-1], teacher[:, :-1], counted), logits, teacher


def name_change_loss(
    context: Context,
    batch: Batch,
    strangers: Strangers,
    visiting: Strangers | None = None,
) -> Tensor:
    """What is `taught` by the forget texts, and with `visits` by the neighbours'; a scalar. And by
    its weight `unnamed`.
    """
    introduced = strangers.introduce(batch)
    loss, logits, teacher = taught(context, batch, introduced)
    if weight := context.settings.unnamed:
        labels = batch.labels.clone()
        # A token is predicted from the one before it, where the teacher has read the very text.
        labels[:, 1:][introduced.after[:, :-1].bool()] = IGNORE
        labels[[not context.rows["forget"][n]["prompt"] for n in batch.numbers]] = IGNORE
        loss = loss + weight * distillation_loss(logits, suppressed(teacher, labels), labels)
    if visiting:
        loss = loss + taught(context, *visiting.draw())[0]
    return loss


def stages(context: Context) -> Iterator[Stage]:
    """The strangers, then distillation in `evaluations` equal stretches.

    Raises:
        ConfigError: no forget text names the target.
    """
    strangers = forget_strangers(context)
    if not strangers.share:
        names = ", ".join(map(shown, context.called))
        raise ConfigError(
            "loss", "name_change", f"no forget text names {names}; give what the texts call it "
            "(prepare.aliases; prepare.concepts of muse and wmdp), or another method",
        )  # fmt: skip
    visiting = visits(context) if context.settings.visits else None
    loss = partial(name_change_loss, strangers=strangers, visiting=visiting)
    yield from Method(Settings, forget_loss=loss).plan(context)


METHOD = Method(
    Settings,
    title="Name change",
    does="distils what the original says of a name that nobody bears",
    source="2407.16997",
    stages=stages,
    needs_reference=True,
    processes="all",
)
