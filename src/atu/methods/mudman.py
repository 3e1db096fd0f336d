"""MUDMAN: meta-unlearning with disruption masking and normalisation (Sondej et al. 2025, arXiv
2506.12484), as its authors' code has it (filyp/MUDMAN, src/unlearning/unlearning.py, commit
227eaea).

An adversary, a copy of the model that is made anew every `fork_every` steps, relearns the forget
set. In every step, with retain gradient r and the adversary's forget gradient g:

    m <- momentum m + (1 - momentum) r
    w <- w - learning_rate m - learning_rate (g_1 / g) [sign(g) = sign(m)] g,

where g_1 / g scales g to the norm that it had in the first step, before the mask takes from it what
disagrees. The forget loss is the negative entropy of the predictions. All steps are plain gradient
descent.

The common settings say the rest: their retaining rate is `learning_rate` times the weights of
`retain`, whose `nll` is theirs; `optimizer` is sgd without decay. They clip nothing: give `clip` a
number that is never reached.

Where this differs:
- the forget gradient is that of the adversary's weights before its own step. Theirs goes back
  through the weights after it, with the activations of before;
- both of the adversary's losses are over the positions that predict a scored token, not over a
  prompt's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor, nn

from atu.methods.base import Context, Method, PlainSettings, Stage, retain_loss
from atu.methods.shared.counting import counted_stretches
from atu.methods.shared.disruption_masking import agreeing, gradients_of, total_norm, with_gradient
from atu.methods.shared.reinforced import reinforced_copy
from atu.training.batches import IGNORE
from atu.training.likelihood import mean_nll
from atu.training.means import masked_mean
from atu.untrusted.bounds import Bounds, Count, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Settings(PlainSettings):
    """The adversary and the mean that masks."""

    loss: Literal["mudman"]
    adversary_learning_rate: Positive
    """Of its descent on the forget texts' NLL."""
    fork_every: Count
    """Steps after which the adversary is a copy of the model again."""
    momentum: Annotated[float, Bounds(ge=0, lt=1)]
    """Of the running mean of retain gradients; the authors: .8."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.retain.weights():
            raise ValueError("MUDMAN masks by the retain gradient; give `retain` a weight")
        if self.wrapper != "none":
            raise ValueError(f"wrapper: {self.wrapper} would mask twice; use `none`")
        if (self.optimizer, self.weight_decay) != ("sgd", 0):
            raise ValueError("MUDMAN takes plain steps: `optimizer: sgd`, `weight_decay: 0.0`")


def negative_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-(entropy of the prediction), in nats, averaged over scored tokens; -ln(vocab) at best.

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t is predicted from t-1.

    Predictions (1/2, 1/2) and (1, 0): -ln 2 / 2 = -.3466.
    """
    log_p = logits[:, :-1].log_softmax(dim=-1)
    return masked_mean((log_p.exp() * log_p).sum(dim=-1), labels[:, 1:] != IGNORE)


@dataclass
class State:
    """What a step changes beside the model; checkpoints hold it as parameters without gradient."""

    adversary: PreTrainedModel
    copied: list[nn.Parameter]
    """The adversary's counterparts of the parameters that are trained."""
    means: list[nn.Parameter]
    """Running means of these parameters' retain gradients."""

    def parameters(self) -> list[nn.Parameter]:
        """The adversary's parameters and the means."""
        return [*self.copied, *self.means]


def start(context: Context) -> State:
    """An adversary as the model is, and means of 0."""
    adversary, copied = reinforced_copy(context)
    means = copy.deepcopy(context.parameters)
    for mean in means:
        mean.requires_grad_(False).zero_()
    return State(adversary, copied, means)


def step_loss(context: Context, state: State, fork: bool) -> tuple[Tensor, dict[str, float]]:
    """A scalar with the value forget + retain loss and the gradient of MUDMAN's step. The adversary
    and the means have taken their own.
    """
    settings, parameters = context.settings, context.parameters
    if fork:
        _copy(parameters, state.copied)
    retain, terms = retain_loss(context)
    with torch.no_grad():
        for mean, gradient in zip(state.means, gradients_of(retain, parameters), strict=True):
            mean.lerp_(gradient, 1 - settings.momentum)
    batch = next(context.forget)
    logits = state.adversary(**batch.inputs).logits
    relearn, forget = mean_nll(logits, batch.labels), negative_entropy(logits, batch.labels)
    descent = gradients_of(relearn, state.copied, keep_graph=True)
    ascent = gradients_of(forget, state.copied)
    with torch.no_grad():
        for parameter, gradient in zip(state.copied, descent, strict=True):
            parameter.sub_(gradient, alpha=settings.adversary_learning_rate)
    norm = total_norm(ascent)
    first = context.recall("first norm", norm.item)
    scaled = [g * (first / norm.clamp(min=torch.finfo(g.dtype).tiny)) for g in ascent]
    step = [m + g for m, g in zip(state.means, agreeing(scaled, state.means), strict=True)]
    parts = {"forget": forget.item(), "relearn": relearn.item()} | terms
    return with_gradient((forget + retain).detach(), step, parameters), parts


@torch.no_grad()
def _copy(source: list[nn.Parameter], target: list[nn.Parameter]) -> None:
    for one, other in zip(source, target, strict=True):
        other.copy_(one)


def stages(context: Context) -> Iterator[Stage]:
    """`evaluations` equal stretches, in which the steps are counted through."""
    settings, state = context.settings, start(context)
    yield from counted_stretches(
        settings,
        [*context.parameters, *state.parameters()],
        lambda number: step_loss(context, state, fork=number % settings.fork_every == 0),
    )


METHOD = Method(
    Settings,
    title="MUDMAN",
    does="raises the entropy of an adversary that relearns, where retain gradients agree",
    source="2506.12484",
    stages=stages,
    copies=1,
)
