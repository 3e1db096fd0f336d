"""Align-then-Unlearn (Spohn, Girrbach, Bader, Akata 2025, arXiv 2506.13181).

With the predictor E frozen, the model is trained so that its predicted embeddings are not similar
to the concept: L_unlearn = max(0, cos(E(h_1..h_t), e_concept) - tau). Rounds with falling tau
alternate with re-alignment of E on the changed model, so that forgetting does not merely fool one
predictor.

Where this differs from the reference implementation (`reference_compat` restores it):
- the hinge is averaged over real tokens, not over padding;
- the optimizer's state lives through all rounds;
- thresholds are quantiles of the cosines measured on the forget corpus, because a fixed ladder
  (.9 .. .2) depends on the encoder: its first rounds change nothing and its last ruin the model;
- a retain term is possible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from atu.bounds import Bounds, Cosine, CountOrZero
from atu.data.batches import Batch, collate
from atu.errors import ConfigError
from atu.losses import concept_cosine, masked_mean
from atu.methods.base import Context, Method, MethodSettings, Stage, combined_loss, split_steps
from atu.models.llm import hidden_states, parameters_below


@dataclass(frozen=True)
class Settings(MethodSettings):
    """ATU's thresholds and the length of re-alignment.

    Exactly one of `quantiles` and `thresholds` is not empty; there is one round for each entry.
    """

    loss: Literal["atu"]
    quantiles: list[Annotated[float, Bounds(ge=0, le=1)]]
    """Falling shares: round i's threshold is that quantile of the measured cosines."""
    thresholds: list[Cosine]
    """Falling cosines, used as they are."""
    realign_steps: CountOrZero
    """Predictor steps between two rounds."""

    def __post_init__(self) -> None:
        if bool(self.quantiles) == bool(self.thresholds):
            raise ValueError("give either `quantiles` or `thresholds`, and leave the other empty")
        ladder = self.quantiles or self.thresholds
        if any(a <= b for a, b in pairwise(ladder)):
            raise ValueError(f"thresholds must fall strictly, not {ladder}")
        if self.steps < len(ladder):
            raise ValueError(f"steps = {self.steps} are fewer than the {len(ladder)} rounds")


def hinge_loss(similarity: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """max(0, cos - tau), averaged over unmasked positions.

    Args:
        similarity: cosines [batch, seq].
        mask: [batch, seq], 0 where a position does not count.

    Cosines .9, .5 and a masked .8 at tau .6: (.3 + 0) / 2 = .15.
    """
    return masked_mean((similarity - threshold).clamp(min=0), mask)


def predicted_cosine(context: Context, batch: Batch) -> Tensor:
    """Cosine of every predicted embedding to the concept, [batch, seq]."""
    assert context.predictor is not None and context.concept is not None
    hidden = hidden_states(context.model, batch.input_ids, batch.attention_mask, context.hook_layer)
    return concept_cosine(context.predictor(hidden), context.concept)


@torch.no_grad()
def measure_cosines(context: Context) -> Tensor:
    """Cosines at every real position of the forget corpus, [n_positions], sorted."""
    stream, found = context.forget, []
    for at in range(0, len(stream.texts), stream.batch_size):
        batch = collate(stream.texts[at : at + stream.batch_size], stream.pad_id)
        found.append(predicted_cosine(context, batch)[batch.attention_mask.bool()])
    return torch.cat(found).sort().values


def choose_thresholds(context: Context) -> list[float]:
    """The ladder of cosines, from the settings or from the measured distribution."""
    settings = context.settings
    if settings.thresholds:
        return list(settings.thresholds)
    cosines = measure_cosines(context)
    ladder = [float(torch.quantile(cosines, q)) for q in settings.quantiles]
    for share, value in zip(settings.quantiles, ladder, strict=True):
        context.measured[f"cosine_quantile_{share:g}"] = value
    if any(a <= b for a, b in pairwise(ladder)):
        raise ConfigError(
            "quantiles", settings.quantiles, f"give equal cosines {ladder}; spread them wider"
        )
    return ladder


def stages(context: Context) -> Iterator[Stage]:
    """One unlearning stage per threshold, with re-alignment in between."""
    settings = context.settings
    ladder = choose_thresholds(context)
    parameters = parameters_below(context.model, context.hook_layer)
    steps = split_steps(settings.steps, len(ladder))
    for index, (threshold, count) in enumerate(zip(ladder, steps, strict=True)):

        def forget_loss(ctx: Context, batch: Batch, tau: float = threshold) -> Tensor:
            real = batch.attention_mask
            mask = torch.ones_like(real) if ctx.reference_compat else real
            return hinge_loss(predicted_cosine(ctx, batch), mask, tau)

        yield Stage(
            name=f"round {index + 1}",
            steps=count,
            loss=partial(combined_loss, context, forget_loss),
            parameters=parameters,
            learning_rate=settings.learning_rate,
            facts={"threshold": threshold},
        )
        if index + 1 < len(ladder) and settings.realign_steps:
            assert context.realign is not None
            yield from context.realign(settings.realign_steps)


METHOD = Method(Settings, stages=stages, needs_predictor=True)
