"""What a method is: settings and either one loss or a sequence of stages.

The phase `unlearn` owns the model, the data and the step loop; a method only defines what to
minimise. Most methods have one forget loss; the retain term is added here for all of them, so that
GradDiff is GA with a retain term and every method can be compared with and without one.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from atu.distributed import processes
from atu.errors import ConfigError
from atu.methods.shared.disruption_masking import masked_loss
from atu.models.compute import device_of
from atu.models.llm import decoder_layers, hidden_states_at
from atu.models.predictor import EmbeddingPredictor
from atu.models.trainable import Trainable
from atu.probes.prompts import join_answer
from atu.seeding import generator
from atu.training.batches import Batch, BatchStream, EncodedText, encode_text
from atu.training.likelihood import mean_nll
from atu.training.loop import LossFunction
from atu.training.losses import activation_error, kl_to_reference
from atu.untrusted.bounds import STRICT, Count, Fraction, NonNegative, Positive

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Retain:
    """Weights of the loss terms on retain texts, 0 leaves a term out; and which texts these are."""

    __pydantic_config__ = STRICT

    nll: NonNegative
    """Of their negative log-likelihood."""
    kl: NonNegative
    """Of the divergence from the original model."""
    states: NonNegative
    """Of the distance of hidden states from the original model's (RMU's retain part)."""
    layer: Count | list[Count] | None
    """The hidden states that `states` holds in place, 1 .. number of layers - 1, or a list of them,
    over which it is a mean; null without it."""
    distance: Literal["squared", "relative"]
    """Squared per entry; or that divided by the mean square of the original's state of the token,
    so that one weight suits models whose states differ in size."""
    neighbours: Fraction
    """Share of every retain batch that is drawn from texts that name a neighbour of the target; 0
    draws all from the whole corpus."""

    def __post_init__(self) -> None:
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layer = {self.layer} lists one twice; remove it")
        if (self.states > 0) != bool(self.layers):
            raise ValueError(
                f"states = {self.states:g} with layer = {self.layer}: a weight needs the layer of "
                "hidden states that it holds, and without weight `layer` is null"
            )

    @property
    def layers(self) -> list[int]:
        """The hidden states that are held; none without the term."""
        layers = self.layer or []
        return layers if isinstance(layers, list) else [layers]

    def weights(self) -> dict[str, float]:
        """The terms that are not left out."""
        named = {"nll": self.nll, "kl": self.kl, "states": self.states}
        return {name: weight for name, weight in named.items() if weight}


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of everything that is trained by steps, the model or something beside it."""

    __pydantic_config__ = STRICT

    steps: Count
    """Optimizer steps on the forget loss in all."""
    learning_rate: Positive
    optimizer: Literal["adamw", "sgd"]
    weight_decay: NonNegative
    clip: Positive
    """Largest norm of the gradient."""
    batch_size: Count
    """Texts per batch, of the forget and of the retain corpus each."""


@dataclass(frozen=True)
class MethodSettings(OptimizerSettings):
    """Settings that every gradient method has."""

    retain: Retain
    train: Trainable
    """Which parameters are updated."""
    wrapper: Literal["none", "disruption_masking"]
    """Whether the forget gradient is masked by the retain gradient and normalised."""
    stop_below: Fraction | None
    """Stop after a trajectory point at which at most this share of the plain `select` questions is
    still answered; null runs all steps."""
    reference_compat: bool | None = field(default=None, kw_only=True)
    """Goes before `unlearn.reference_compat` for this entry; null, or left out, it is as there."""

    def __post_init__(self) -> None:
        if self.wrapper == "disruption_masking" and not self.retain.weights():
            raise ValueError(
                f"wrapper: {self.wrapper} masks by the retain gradient; give `retain` a weight"
            )
        if self.retain.neighbours and not self.retains:
            raise ValueError(
                f"retain.neighbours = {self.retain.neighbours:g} is of no use without a weight: no "
                "retain text is read"
            )

    @property
    def retains(self) -> bool:
        """Whether the loss reads retain texts."""
        return bool(self.retain.weights())


@dataclass(frozen=True)
class PlainSettings(MethodSettings):
    """Settings of a method that has one forget loss from start to end."""

    evaluations: Count
    """Points of the trajectory, spread evenly over the steps."""


@dataclass
class Context:
    """Everything a method may use.

    `reference` is a frozen copy of the model before unlearning, where one is needed; `predictors`,
    `concept` ([n_concepts, dim], unit length), `answers` and `realign` are set for methods that
    need the predictor.
    """

    model: PreTrainedModel
    tokenizer: Any
    settings: Any
    rows: dict[str, list[dict[str, Any]]]
    """The corpora `forget` and `retain`, as tables: row i is text i of the stream of that name."""
    forget: BatchStream
    retain: BatchStream
    reference: PreTrainedModel | None
    reference_compat: bool
    seed: int
    parameters: list[nn.Parameter] = field(default_factory=list)
    """The parameters to update, by the settings."""
    subjects: list[str] = field(default_factory=list)
    """The names of what is to be forgotten."""
    aliases: list[str] = field(default_factory=list)
    """What else the texts call it."""
    neighbours: list[str] = field(default_factory=list)
    """The names of whom `select` questions about neighbours name."""
    predictors: dict[int, EmbeddingPredictor] = field(default_factory=dict)
    """The aligned predictor of every hook layer."""
    concept: Tensor | None = None
    answers: Tensor | None = None
    """See `AlignmentData.answers`: row i is of text i of `forget`."""
    stale: bool = False
    """Whether the predictors were aligned with another model than this one: the original, where an
    earlier request has changed it since."""
    remembered: dict[str, Any] = field(default_factory=dict)
    """See `recall`."""
    tokens_before: int = 0
    """Tokens read before a checkpoint by streams that this process has not created again."""
    measured: dict[str, float] = field(default_factory=dict)
    """Numbers that a method measured before its first step; they enter the phase's metrics."""
    realign: Callable[[int], Iterator[Stage]] | None = None
    """Stages that train the predictors on the current model for a number of steps."""
    streams: list[BatchStream] = field(default_factory=list)
    """Every stream that training reads, so that its tokens are counted."""

    plain: PreTrainedModel | None = None
    """With several ranks, the model before it was sharded."""

    @property
    def device(self) -> torch.device:
        """The device of the model and of all tensors that are used with it."""
        return processes.device() or device_of(self.model)

    @property
    def called(self) -> list[str]:
        """Every name by which texts can be about what is to be forgotten."""
        return [*self.subjects, *self.aliases]

    def recall(self, name: str, compute: Callable[[], Any]) -> Any:
        """The value of `compute`, saved in checkpoints: for values that depend on the model between
        two stages, which a resumed run skips. JSON must be able to hold the value.
        """
        if name not in self.remembered:
            self.remembered[name] = processes.agreed(compute())
        return self.remembered[name]

    def shard(self) -> None:
        """Shard the model over all ranks, as the reference is already; `parameters` become their
        shards.
        """
        from atu.models.shards import counterparts, sharded_copy

        self.plain, self.model = self.model, sharded_copy(self.model)
        self.parameters = counterparts(self.parameters, self.plain, self.model)

    def duplicate(self) -> PreTrainedModel:
        """A copy of the model as it was before the first step."""
        from atu.models.shards import sharded_copy

        if self.plain is not None:
            return sharded_copy(self.plain)
        return copy.deepcopy(self.model)

    def stream(
        self, name: str, texts: Sequence[EncodedText], batch_size: int | None = None
    ) -> BatchStream:
        """Endless batches of other texts, from the generator of this name."""
        size = batch_size if batch_size else int(getattr(self.settings, "batch_size", 1))
        rng = generator(self.seed, "unlearn", name)
        stream = BatchStream(texts, size, self.tokenizer.pad_token_id, rng, device=self.device)
        self.streams.append(stream)
        return stream

    def encode(self, prompt: str, answer: str) -> EncodedText:
        """A prompt with an answer, of which only the answer is scored."""
        return encode_text(self.tokenizer, join_answer(prompt, answer), prompt)


@dataclass
class Stage:
    """One stretch of the step loop: `steps` minimisations of `loss` over `parameters`.

    A method that edits the model itself, between two stages, yields `done(name)`: a point of the
    trajectory without steps.
    """

    name: str
    steps: int
    loss: LossFunction
    parameters: list[nn.Parameter]
    learning_rate: float
    part: str = "model"
    """The name of what is trained; stages of one part share an optimizer and its state."""
    evaluate: bool = True
    """Whether the stage's end is a point of the trajectory."""
    seek: Callable[[int], None] | None = None
    """Skips what the first steps read, if the stage reads more than the context's streams."""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers that belong to the point, such as the threshold."""


def done(name: str) -> Stage:
    """The point after an edit that needs no steps."""

    def no_loss() -> tuple[Tensor, dict[str, float]]:
        raise AssertionError(f"{name} has no steps")

    return Stage(name, steps=0, loss=no_loss, parameters=[], learning_rate=0.0)


ForgetLoss = Callable[[Context, Batch], Tensor]
EVERY_LAYER = sys.maxsize
"""As the highest hidden states that a loss reads: what the last layer returns."""
GUARDED = "leaves the weights as they are: whoever has them can take the guard away"


@dataclass(frozen=True)
class Method:
    """A method: its settings type and its forget loss, or its own sequence of stages.

    `start` names the model it starts from. A method without loss and stages changes nothing.
    """

    settings: type
    title: str = ""
    """What people call it; its key where there is none."""
    does: str = ""
    """What it does to the target, as the end of a sentence that begins with its name."""
    source: str = ""
    """The arXiv number of its paper."""
    forget_loss: ForgetLoss | None = None
    stages: Callable[[Context], Iterator[Stage]] | None = None
    check: Callable[[Context], None] | None = None
    """Raises ConfigError where the settings do not suit the model or each other."""
    needs_reference: bool | Callable[[Any], bool] = False
    """Whether its loss reads the model before unlearning, always or by settings."""
    needs_predictor: bool = False
    prompted: bool = False
    """Whether the forget stream holds only texts that answer a prompt."""
    start: Literal["full", "oracle", "second_oracle"] = "full"
    """Which trained model it starts from."""
    copies: int = 0
    """Whole copies of the model that it holds while it trains, besides the reference."""
    assistant: Callable[[Any], int] | None = None
    """If it trains a smaller copy beside the model: its number of decoder layers, by settings."""
    depth: Callable[[Any, int | None], int] | None = None
    """The highest hidden states that its loss reads, by settings and highest hook layer; None where
    it reads logits, so that every parameter gets a gradient."""
    given: bool = False
    """Whether it trains nothing, for its settings name a `source` that holds the result."""
    keeps_weights: bool = False
    """Whether it leaves the weights as they are, so that anyone who has them can undo it."""
    processes: Literal["one", "first", "all"] = "one"
    """How it runs on several ranks. `all`: every rank trains its shard of the model, by losses
    whose means are those of `training.means` (`masked_mean`, `batch_mean`), hence over the whole
    batch. `first`: it trains nothing, and rank 0 runs alone. `one`: several ranks are refused."""
    compat_alone: bool = False
    """Whether its loss under `reference_compat` needs the whole batch on one rank."""
    note: Callable[[Any], str] | None = None
    """What a reader must know before the numbers of a row with these settings, as a sentence that
    begins with the row's name."""
    points: Callable[[Any, bool], int] | None = None
    """At how many points a run is observed, by settings and `reference_compat`; None for a method
    that has `evaluations` equal stretches, or no course to choose from."""

    def notes(self, settings: Any) -> list[str]:
        """Every such sentence, without the name."""
        guarded = [GUARDED] if self.keeps_weights else []
        return guarded + ([self.note(settings)] if self.note is not None else [])

    def require_processes(self, key: str, settings: Any, reference_compat: bool, count: int) -> int:
        """How many of `count` ranks a job uses: all, or one if there is nothing to share.

        Args:
            key: where its settings are in the parameter file.

        Raises:
            ConfigError: it cannot run on several ranks.
        """
        if count == 1 or self.processes == "first":
            return 1
        whole = f"{key} (loss {settings.loss}) runs in one process"
        wrapper = getattr(settings, "wrapper", "none")
        # Its means are over a padded batch, of which a rank knows only its part.
        official = getattr(settings, "variant", None)
        reason = {
            whole: self.processes == "one",
            f"{whole} with wrapper = {wrapper}": wrapper != "none",
            f"{whole} with reference_compat": reference_compat and self.compat_alone,
            f"{whole} with variant = open_unlearning": official == "open_unlearning",
        }
        for problem in (text for text, holds in reason.items() if holds):
            raise ConfigError(
                "--processes", count,
                f"{problem}; set `gpu: 1` for its rule (cluster/config.yaml, set-resources)",
            )  # fmt: skip
        if settings.batch_size < count:
            raise ConfigError(
                f"{key}.batch_size", settings.batch_size,
                f"leaves some of --processes = {count} without a text; give at least {count}",
            )  # fmt: skip
        return count

    def observed(self, settings: Any, reference_compat: bool) -> int | None:
        """At how many points a run with these settings is observed, so that `keep: best` can choose
        among them; None for a method with nothing to choose: it changes nothing, edits the model at
        once, or puts a guard around it.
        """
        if self.points is not None:
            return self.points(settings, reference_compat)
        if hasattr(settings, "evaluations"):
            return len(split_steps(settings.steps, settings.evaluations))
        return None

    @property
    def unchanged(self) -> bool:
        """Whether the model stays as it was, without a guard."""
        return self.forget_loss is None and self.stages is None and not self.given

    def plan(self, context: Context) -> Iterator[Stage]:
        """The method's stages; by default the forget loss in `evaluations` equal stretches.

        Raises:
            ConfigError: the settings do not suit the model or each other.
        """
        if self.check is not None:
            self.check(context)
        if self.stages is not None:
            yield from self.stages(context)
        elif self.forget_loss is not None:
            yield from _plain_stages(context, self.forget_loss)


def _plain_stages(context: Context, forget_loss: ForgetLoss) -> Iterator[Stage]:
    yield from stretches(
        context.settings, context.parameters, lambda: combined_loss(context, forget_loss)
    )


def stretches(settings: Any, parameters: list[nn.Parameter], loss: LossFunction) -> Iterator[Stage]:
    """All steps with one loss, in `evaluations` equal stretches."""
    for index, steps in enumerate(split_steps(settings.steps, settings.evaluations)):
        yield Stage(
            name=f"stretch {index + 1}",
            steps=steps,
            loss=loss,
            parameters=parameters,
            learning_rate=settings.learning_rate,
        )


def split_steps(steps: int, parts: int) -> list[int]:
    """`steps` as at most `parts` nearly equal positive numbers, the larger ones first."""
    parts = min(parts, steps)
    return [steps // parts + (i < steps % parts) for i in range(parts)]


def combined_loss(context: Context, forget_loss: ForgetLoss) -> tuple[Tensor, dict[str, float]]:
    """Forget loss of the next batch plus the weighted retain terms of the next retain batch.

    Returns:
        The sum, and for the trace the forget loss and every term as `retain_<term>`, unweighted.
    """
    forget = forget_loss(context, next(context.forget))
    parts = {"forget": forget.item()}
    if not context.settings.retain.weights():
        return forget, parts
    retain, terms = retain_loss(context)
    parts |= terms
    if context.settings.wrapper == "disruption_masking":
        return masked_loss(forget, retain, context.parameters), parts
    return forget + retain, parts


def retain_loss(context: Context) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the retain terms of the next retain batch, a scalar; and for the trace
    every term as `retain_<term>`, unweighted.
    """
    weights, terms = context.settings.retain.weights(), retain_terms(context, next(context.retain))
    total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
    return total, {f"retain_{name}": value.item() for name, value in terms.items()}


def retain_terms(context: Context, batch: Batch) -> dict[str, Tensor]:
    """Every retain term that has a weight, on these retain texts, unweighted; scalars.

    Raises:
        ConfigError: the model has no such hidden states.
    """
    retain = context.settings.retain
    weights, layers = retain.weights(), retain.layers
    if layers and max(layers) >= (count := len(decoder_layers(context.model))):
        raise ConfigError(
            "retain.layer", retain.layer, f"the model has hidden states 1..{count - 1}"
        )
    logits, states = _forward(context.model, batch, layers)
    terms: dict[str, Tensor] = {}
    if "nll" in weights:
        terms["nll"] = mean_nll(logits, batch.labels)
    if "kl" in weights or "states" in weights:
        assert context.reference is not None
        with torch.no_grad():
            original, held = _original(context.reference, batch, layers, "kl" in weights)
        if "kl" in weights:
            terms["kl"] = kl_to_reference(logits, original, batch.attention_mask)
        if "states" in weights:
            relative = retain.distance == "relative"
            errors = [
                activation_error(states[n], held[n], batch.attention_mask, relative=relative)
                for n in layers
            ]
            terms["states"] = torch.stack(errors).mean()
    return terms


def _forward(
    model: PreTrainedModel, batch: Batch, layers: Sequence[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Logits, and the hidden states at these layers."""
    output = model(**batch.inputs, output_hidden_states=bool(layers))
    return output.logits, {layer: output.hidden_states[layer] for layer in layers}


def _original(
    reference: PreTrainedModel, batch: Batch, layers: Sequence[int], logits: bool
) -> tuple[Any, dict[int, Tensor]]:
    """What `_forward` gives; without the logits no layer above is run."""
    if logits or not layers:
        return _forward(reference, batch, layers)
    return None, hidden_states_at(reference, batch.input_ids, batch.attention_mask, layers)


def wants_reference(method: Method, settings: Any) -> bool:
    """Whether a frozen copy of the original model is needed."""
    retain = getattr(settings, "retain", None)
    if retain is not None and (retain.kl or retain.states):
        return True
    needed = method.needs_reference
    return needed(settings) if callable(needed) else needed
