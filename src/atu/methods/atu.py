"""Align-then-Unlearn (Spohn, Girrbach, Bader, Akata 2025, arXiv 2506.13181).

With the predictor E frozen, the model is trained so that its predicted embeddings are not similar
to the concept: L_unlearn = max(0, cos(E(h_1..h_t), e_concept) - tau). Rounds with falling tau
alternate with re-alignment of E on the changed model, so that forgetting does not merely fool one
predictor.

Where this differs from the reference implementation (`reference_compat` restores it):
- the hinge is averaged over real tokens, not over padding;
- the optimizer's state is kept through all rounds;
- thresholds can be quantiles of the cosines measured on the forget corpus, because a fixed ladder
  (.9 .. .2) depends on the encoder; and they can be negative, which forgets more but damages other
  knowledge unless the hidden states of retain texts are held in place (`retain.states`);
- several hook layers, each with its own predictor and thresholds: the hinge is their mean;
- the hinge can be restricted to the subject's tokens, if enough texts name it;
- beside the concept, or instead of it, the hinge can be to each forget text's own answer, where it
  is about to be given: what is predicted there must not resemble the answer (`answers`);
- a hinge says where hidden states must not be; `stranger` says where they should: where the
  original model's are when a name that nobody bears stands for the target's. A model that only
  flees the concept ends where no model has ever been, which anyone can see. The hinge to the
  concept then counts up to the name, where the model is about to say it;
- what the layers know of the name's original states can be unlearned too (`restored`);
- a retain term is possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor

from atu.alignment.cosine import concept_cosine, cosine
from atu.errors import ConfigError, shown
from atu.methods.base import (
    EVERY_LAYER,
    Context,
    Method,
    MethodSettings,
    Stage,
    combined_loss,
    split_steps,
)
from atu.methods.shared.stranger_states import restored_error, stranger_error
from atu.methods.shared.strangers import Strangers, forget_strangers, visits
from atu.models.llm import hidden_states_at
from atu.training.batches import Batch, in_batches, subject_positions
from atu.training.means import masked_mean
from atu.untrusted.bounds import Bounds, Cosine, Count, CountOrZero, NonNegative

NAMED = 0.5
"""Share of forget texts that must name the subject for `positions: subject`: of four texts in a
batch none does then in at most 1 of 16 steps, whose loss is 0."""


@dataclass(frozen=True)
class Settings(MethodSettings):
    """ATU's thresholds and the length of re-alignment.

    Exactly one of `quantiles` and `thresholds` is not empty; there is one round for each entry.
    """

    loss: Literal["atu"]
    hook_layers: list[Count]
    """Which of the aligned hook layers the hinge reads; [] for all."""
    quantiles: list[Annotated[float, Bounds(ge=0, le=1)]]
    """Falling shares: round i's threshold is that quantile of the measured cosines."""
    thresholds: list[Cosine]
    """Falling cosines, used as they are."""
    evaluations: Count
    """Points of the trajectory, spread evenly over the rounds (`points_per_round`)."""
    adaptive: bool
    """Measure the cosines before every round, on the current model and predictors, instead of once
    before the first."""
    realign_steps: CountOrZero
    """Predictor steps between two rounds."""
    positions: Literal["all", "subject"]
    """Where the hinge counts: at every token, or at the subject's tokens and those beside them."""
    width: CountOrZero
    """Tokens on either side of the subject that count with it; 0 where all tokens count."""
    concept: NonNegative
    """Weight of the hinge to the concept; 0 leaves it out. With `stranger` it counts only up to the
    target's name: behind it, a stranger's states are the aim."""
    answers: NonNegative
    """Weight of the hinge to each forget text's own answer at the last token of its prompt; 0
    leaves it out, and so does a corpus without prompts. With `stranger` it counts only where the
    prompt does not name the target: where it does, a stranger's states are the aim."""
    stranger: NonNegative
    """Weight of the distance of hidden states, from the target's name on, from those of the
    original model with a stranger's name in its place, at every layer up to the highest hook; 0
    leaves it out."""
    visits: bool
    """Whether that distance is added, with the same weight, for a batch of retain texts about
    neighbours in which the target's name stands for theirs."""
    restored: NonNegative
    """Weight of that distance, above an index drawn for every batch and up to the last layer, where
    the original's states of the name are put in at that index; 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.quantiles) == bool(self.thresholds):
            raise ValueError("give either `quantiles` or `thresholds`, and leave the other empty")
        ladder = self.quantiles or self.thresholds
        if any(a <= b for a, b in pairwise(ladder)):
            raise ValueError(f"thresholds must fall strictly, not {ladder}")
        if self.adaptive and not self.quantiles:
            raise ValueError("adaptive thresholds are measured: give `quantiles`")
        if self.positions == "all" and self.width:
            raise ValueError(f"width = {self.width} is of no use where all positions count")
        if not (self.concept or self.answers or self.stranger):
            raise ValueError(
                "give `concept`, `answers` or `stranger` a weight: nothing is forgotten"
            )
        for name in ("visits", "restored"):
            if getattr(self, name) and not self.stranger:
                raise ValueError(f"{name} needs `stranger` to have a weight; give it one")
        if self.steps < len(ladder):
            raise ValueError(f"steps = {self.steps} are fewer than the {len(ladder)} rounds")


RETAINED = {"nll": "NLL", "kl": "KL", "states": "held states"}


def note(settings: Settings) -> str:
    """Whose method a row is: the paper's, or with what else it is this project's."""
    ours = {
        "thresholds from measured cosines": bool(settings.quantiles),
        "a ladder that ends below zero": min(settings.thresholds, default=0.0) < 0,
        **{RETAINED[name]: True for name in settings.retain.weights()},
        "the subject's tokens alone": settings.positions == "subject",
        "no hinge to the concept": settings.concept == 0,
        "the hinge at answers": settings.answers > 0,
        "hidden states as of a stranger": settings.stranger > 0 and not settings.visits,
        "hidden states as of a stranger (also in neighbours' texts)": settings.visits,
        "the same from restored states": settings.restored > 0,
        "disruption masking": settings.wrapper == "disruption_masking",
        "AdamW": settings.optimizer == "adamw",
    }
    said = ", ".join(text for text, holds in ours.items() if holds)
    owner = f"this project's Align-then-Unlearn: {said}" if said else "the paper's"
    return f"is {owner}"


def hinge_loss(similarity: Tensor, mask: Tensor, threshold: float | Tensor) -> Tensor:
    """max(0, cos - tau), averaged over unmasked positions.

    Args:
        similarity: cosines [..., batch, seq].
        mask: [..., batch, seq], 0 where a position does not count.
        threshold: one for all, or a tensor that broadcasts against the cosines.

    Cosines .9, .5 and a masked .8 at tau .6: (.3 + 0) / 2 = .15.
    """
    return masked_mean((similarity - threshold).clamp(min=0), mask)


def hidden_states_of(context: Context, batch: Batch, layers: Sequence[int]) -> dict[int, Tensor]:
    """The model's hidden states at these layers, each [batch, seq, hidden]."""
    return hidden_states_at(context.model, batch.input_ids, batch.attention_mask, layers)


def predicted(context: Context, hidden: Mapping[int, Tensor]) -> Tensor:
    """The embedding that every layer's predictor anticipates from these hidden states, [layers,
    batch, seq, dim].
    """
    return torch.stack(
        [predictor(hidden[layer]) for layer, predictor in context.predictors.items()]
    )


def predicted_cosine(context: Context, batch: Batch) -> Tensor:
    """Cosine of every predicted embedding to the concept, [layers, batch, seq]."""
    assert context.concept is not None
    hidden = hidden_states_of(context, batch, list(context.predictors))
    return concept_cosine(predicted(context, hidden), context.concept)


@torch.no_grad()
def measure_cosines(context: Context) -> Tensor:
    """Cosines at the positions of the forget corpus that the hinge counts (never padding), [layers,
    n_positions], sorted.

    Raises:
        ConfigError: there is no such position.
    """
    stream, per_batch = context.forget, []
    for batch in in_batches(stream.texts, stream.batch_size, stream.pad_id, context.device):
        counted = counted_positions(context, batch) * batch.attention_mask
        per_batch.append(predicted_cosine(context, batch)[:, counted.bool()])
    cosines = torch.cat(per_batch, dim=1).sort().values
    if not cosines.numel():
        names = ", ".join(context.called)
        raise ConfigError("positions", "subject", f"no forget text names {names}; use `all`")
    return cosines


def measured_thresholds(context: Context, quantiles: Sequence[float]) -> Tensor:
    """These quantiles of the current cosines, [n_quantiles, layers]."""
    cosines = measure_cosines(context)
    shares = torch.tensor(quantiles, dtype=cosines.dtype, device=cosines.device)
    return torch.quantile(cosines, shares, dim=1)


def measured_now(context: Context, index: int) -> list[float]:
    """The threshold of one round for every layer, from the current cosines."""
    return measured_thresholds(context, [context.settings.quantiles[index]])[0].tolist()


def choose_thresholds(context: Context) -> Tensor:
    """The ladder of thresholds, [rounds, layers], from the settings or measured now.

    Raises:
        ConfigError: two quantiles give the same cosine.
    """
    settings = context.settings
    if settings.thresholds:
        return torch.tensor(settings.thresholds)[:, None].expand(-1, len(context.predictors))
    ladder = measured_thresholds(context, settings.quantiles)
    for share, values in zip(settings.quantiles, ladder, strict=True):
        for layer, value in zip(context.predictors, values.tolist(), strict=True):
            context.measured[f"cosine_quantile_{share:g}.layer_{layer}"] = value
    if (ladder[1:] >= ladder[:-1]).any():
        raise ConfigError(
            "quantiles", settings.quantiles, f"give equal cosines {ladder.tolist()}; spread wider"
        )
    return ladder


def counted_positions(context: Context, batch: Batch) -> Tensor:
    """Which positions the hinge counts, [batch, seq]: real tokens, or those at the subject."""
    if context.reference_compat:
        return torch.ones_like(batch.attention_mask)
    if context.settings.positions == "all":
        return batch.attention_mask
    mask = torch.zeros_like(batch.attention_mask)
    for row, number in enumerate(batch.numbers):
        for position in _subject_tokens(context, number):
            mask[row, position] = 1
    return mask


def _subject_tokens(context: Context, number: int) -> set[int]:
    """Positions of the tokens of a forget text that overlap a subject's name, and of `width` tokens
    on either side.
    """
    text = context.rows["forget"][number]["text"]
    offsets = context.forget.texts[number].offsets
    spans = subject_positions(offsets, text, context.called)
    subject = [i for span in spans for i in span]
    width = context.settings.width
    return {j for i in subject for j in range(max(i - width, 0), min(i + width + 1, len(offsets)))}


def concept_hinge(context: Context, embeddings: Tensor, mask: Tensor, threshold: Tensor) -> Tensor:
    """The hinge to the concept, averaged over layers and unmasked positions; a scalar.

    Args:
        embeddings: what `predicted` gives for the batch.
        mask: [batch, seq], 0 where a position does not count.
        threshold: [layers].
    """
    assert context.concept is not None
    similarity = concept_cosine(embeddings, context.concept)
    return hinge_loss(similarity, mask.expand_as(similarity), threshold[:, None, None])


def answers_hinge(
    context: Context, batch: Batch, embeddings: Tensor, threshold: Tensor, mask: Tensor
) -> Tensor:
    """The hinge to every text's own answer at the last token of its prompt, averaged over layers
    and the texts that answer a prompt and are not masked there; a scalar.

    Args:
        embeddings: what `predicted` gives for the batch.
        threshold: [layers].
        mask: [batch, seq], 0 where a position does not count.
    """
    assert context.answers is not None
    numbers = list(batch.numbers)
    answers = context.answers[numbers]
    ends = [context.forget.texts[number].answer_start - 1 for number in numbers]
    rows = list(range(len(ends)))
    similarity = cosine(embeddings[:, rows, ends], answers)
    counted = answers.any(dim=-1) * mask[rows, ends]
    return hinge_loss(similarity, counted.expand_as(similarity), threshold[:, None])


def round_loss(
    context: Context,
    batch: Batch,
    threshold: Tensor,
    strangers: Strangers | None = None,
    visiting: Strangers | None = None,
) -> Tensor:
    """The forget loss of a round: its terms by their weights.

    Args:
        threshold: [layers].
        strangers: where `stranger` has a weight.
        visiting: with `visits`.
    """
    settings = context.settings
    introduced = strangers.introduce(batch) if strangers else None
    below = list(range(1, max(context.predictors) + 1))
    hidden = hidden_states_of(context, batch, below if strangers else list(context.predictors))
    terms = []
    if settings.concept or settings.answers:
        embeddings = predicted(context, hidden)
        threshold = threshold.to(embeddings)
    free = 1 - introduced.after if introduced else torch.ones_like(batch.attention_mask)
    if settings.concept:
        mask = counted_positions(context, batch) * free
        terms.append(settings.concept * concept_hinge(context, embeddings, mask, threshold))
    if settings.answers and context.answers is not None:
        terms.append(settings.answers * answers_hinge(context, batch, embeddings, threshold, free))
    if introduced:
        terms.append(settings.stranger * stranger_error(context, batch, hidden, introduced))
        if settings.restored:
            terms.append(settings.restored * restored_error(context, batch, introduced))
    if visiting:
        visit, others = visiting.draw()
        states = hidden_states_of(context, visit, below)
        terms.append(settings.stranger * stranger_error(context, visit, states, others))
    return torch.stack(terms).sum()


def require_texts(context: Context, strangers: Strangers | None) -> None:
    """Measure which share of the forget texts the hinge at answers reads, and refuse settings of
    which no term reads any.

    Raises:
        ConfigError: no text answers a prompt or names the target, and the concept has no weight.
    """
    settings, answered = context.settings, context.answers
    read = strangers.share if strangers else 0.0
    if settings.answers:
        share = 0.0 if answered is None else share_of_rows(answered)
        context.measured["answer_texts"] = share
        read += share
    if not settings.concept and not read:
        raise ConfigError(
            "concept", settings.concept, "no forget text answers a prompt or names the target, so "
            "nothing would be forgotten; give it a weight",
        )  # fmt: skip


def share_of_rows(table: Tensor) -> float:
    """The share of rows that are not all zero."""
    return table.any(dim=-1).float().mean().item()


def check(context: Context) -> None:
    """The reference has no subject mask, and a mask must leave something to learn from.

    Raises:
        ConfigError: `reference_compat` with a subject mask, or too few texts name the subject.
    """
    if context.settings.positions != "subject":
        return
    if context.reference_compat:
        raise ConfigError(
            "positions", "subject", "reference_compat counts every position; use `all`"
        )
    shares = context.recall("subject", lambda: subject_shares(context))
    context.measured |= shares
    named, count = shares["subject_texts"], len(context.forget.texts)
    if named < NAMED:
        names = ", ".join(map(shown, context.called))
        raise ConfigError(
            "positions",
            "subject",
            f"{named:.1%} of the {count} forget texts name {names}, at least {NAMED:.0%} must; "
            "give what the texts call it (prepare.aliases; prepare.concepts of muse and wmdp), or "
            "use `all`",
        )


def subject_shares(context: Context) -> dict[str, float]:
    """The share of forget texts with a position that the hinge counts, and of the batches to come
    without any, whose loss is 0.
    """
    stream = context.forget
    named = [bool(_subject_tokens(context, number)) for number in range(len(stream.texts))]
    batches = stream.ahead(context.settings.steps)
    empty = [not any(named[number] for number in batch) for batch in batches]
    return {
        "subject_texts": sum(named) / len(named),
        "subject_empty_batches": sum(empty) / len(empty),
    }


def points_per_round(settings: Settings, reference_compat: bool) -> list[int]:
    """How many points of the trajectory each round has; its last is the round's end.

    6 points over 4 rounds are 1, 2, 1 and 2. With fewer points than rounds some rounds have none: 2
    over 4 are 0, 1, 0 and 1, the ends of the second and the last. With `reference_compat`, which
    rebuilds the optimizer where training is interrupted, a round has one point at most. No round
    has more points than steps.
    """
    rounds = len(settings.quantiles or settings.thresholds)
    points = min(settings.evaluations, rounds) if reference_compat else settings.evaluations
    share = [(i + 1) * points // rounds - i * points // rounds for i in range(rounds)]
    return [min(pair) for pair in zip(share, split_steps(settings.steps, rounds), strict=True)]


def stages(context: Context) -> Iterator[Stage]:
    """A round of unlearning per threshold, with re-alignment in between; a round with several
    points of the trajectory is a stage for each.
    """
    settings = context.settings
    strangers = forget_strangers(context) if settings.stranger else None
    visiting = visits(context) if settings.visits else None
    require_texts(context, strangers)
    if context.stale and settings.realign_steps:
        assert context.realign is not None
        yield from context.realign(settings.realign_steps)
    ladder = torch.tensor(context.recall("ladder", lambda: choose_thresholds(context).tolist()))
    points_of = points_per_round(settings, context.reference_compat)
    for index, count in enumerate(split_steps(settings.steps, len(ladder))):
        if index and settings.adaptive:
            ladder[index] = torch.tensor(
                context.recall(f"round {index + 1}", partial(measured_now, context, index))
            )
        threshold = ladder[index]
        points = points_of[index]
        for part, steps in enumerate(split_steps(count, max(points, 1)), 1):
            yield Stage(
                name=f"round {index + 1}" + (f", part {part}" if points > 1 else ""),
                steps=steps,
                loss=partial(
                    combined_loss,
                    context,
                    partial(
                        round_loss, threshold=threshold, strangers=strangers, visiting=visiting
                    ),
                ),
                parameters=context.parameters,
                learning_rate=settings.learning_rate,
                evaluate=points > 0,
                facts={"threshold": threshold.mean().item()},
            )
        if index + 1 < len(ladder) and settings.realign_steps:
            assert context.realign is not None
            yield from context.realign(settings.realign_steps)


METHOD = Method(
    Settings,
    title="ATU",
    does="turns the target’s hidden states into a stranger’s, or moves what they let a predictor "
    "anticipate away from the concept",
    source="2506.13181",
    stages=stages,
    check=check,
    needs_reference=lambda settings: settings.stranger > 0,
    needs_predictor=True,
    depth=lambda settings, hook: EVERY_LAYER if settings.restored else hook or 0,
    processes="all",
    note=note,
    points=lambda settings, compat: sum(points_per_round(settings, compat)),
)
