"""Running a method: its context, its stages, and what is measured on the way.

The phases `unlearn` and `search` share this, so that a trial of the search is the same thing as
the run that is reported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atu import methods
from atu.alignment.loop import AlignmentData, alignment_step, cache_states_at, load_predictors
from atu.config.sections import Unlearn
from atu.distributed import processes
from atu.errors import ConfigError, EvaluationError, MethodError, TrainingError
from atu.methods.base import Context, Method, Stage, wants_reference
from atu.models.compute import device_of
from atu.models.llm import require_room
from atu.models.trainable import Adapter, make_trainable
from atu.results.artifacts import Artifact
from atu.results.costs import COSTS
from atu.results.tables import read_table
from atu.seeding import child_seed, generator
from atu.training.batches import BatchStream, encode_texts, longest_ahead
from atu.training.keeper import Keeper, Trace
from atu.training.loop import LossFunction, make_optimizers, run_steps
from atu.unlearning.neighbours import neighbour_texts
from atu.unlearning.trajectory import Course, Observer, Point, reached, select_probes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class UnlearnInputs:
    """The folders that unlearning reads.

    `pretrain` is the model that the method starts from; `embed` and `align` are there for methods
    that need the predictor, and None for all others, which therefore need not wait for alignment.
    """

    pretrain: Artifact
    prepare: Artifact
    embed: Artifact | None
    align: Artifact | None

    def present(self) -> dict[str, Artifact]:
        """Those that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class Outcome:
    """A method's run: every step, every point, and which point the model was left at."""

    trace: Trace
    trajectory: list[Point]
    kept: Point
    measured: dict[str, float]
    cost: dict[str, float]
    """See `spent`."""
    adapter: Adapter | None = None
    """With LoRA, what was merged into the model."""

    def metrics(self) -> dict[str, float]:
        """The kept point and the cost, named for `metrics.json`."""
        metrics = {f"unlearn/{name}/select": value for name, value in self.kept.items()}
        metrics |= {f"unlearn/{name}/forget": value for name, value in self.measured.items()}
        return metrics | {f"unlearn/{name}/all": value for name, value in self.cost.items()}


def spent(context: Context, trace: Trace) -> dict[str, float]:
    """What a run has cost so far, by the names of `COSTS`."""
    steps = sum(not row["part"].startswith("predictor") for row in trace.rows)
    tokens = context.tokens_before + sum(stream.tokens for stream in context.streams)
    return dict(zip(COSTS, (steps, len(trace.rows) - steps, tokens), strict=True))


def require_inputs(name: str, settings: Any, inputs: UnlearnInputs) -> Method:
    """The method of these settings.

    Raises:
        ConfigError: it needs the predictor and has none.
    """
    method = methods.get(settings.loss)
    if method.needs_predictor and (inputs.embed is None or inputs.align is None):
        raise ConfigError("--method", name, "needs --embed and --align")
    return method


def run_method(
    model: PreTrainedModel,
    tokenizer: Any,
    settings: Any,
    section: Unlearn,
    inputs: UnlearnInputs,
    seed: int,
    keeper: Keeper | None = None,
) -> Outcome:
    """Run a method on `model`, in place. Of several processes each trains its shards of a copy, and
    the first one's `model` is changed in the end.

    Args:
        settings: the method's; of `section` only what holds for every method is read.
        keeper: saves on the way and resumes; None keeps nothing.

    Raises:
        ConfigError: the settings do not suit the model or each other.
        MethodError: a loss was not finite, or a point could not be scored.
    """
    torch.manual_seed(child_seed(seed, "unlearn", "torch"))
    method = methods.get(settings.loss)
    compat = section.compat(settings)
    context = make_context(model, tokenizer, method, settings, inputs, compat, seed)
    hook = max(context.predictors, default=None)
    finish: Callable[[], Adapter | None] = _nothing
    if hasattr(settings, "train"):
        context.parameters, finish = make_trainable(model, settings.train, hook)
    if method.check is not None:  # also by the plan; a large model's first point takes minutes
        method.check(context)
    if processes.world_size() > 1:
        context.shard()
        # What was drawn so far (adapters) is the same everywhere; dropout is of each one's rows.
        torch.manual_seed(child_seed(seed, "unlearn", "torch", *processes.rank_stream()))
    observe = Observer(context, select_probes(inputs.prepare, section.probes))
    keeper = keeper or Keeper(None, Trace())
    course = Course(context, observe, model)
    keeper.capture, keeper.restore = course.capture, course.restore
    context.remembered.update(keeper.recorded("remembered") or {})
    try:
        _run_stages(method, course, section.keep, keeper)
        kept = course.settle()
    except (TrainingError, EvaluationError) as error:
        raise MethodError(str(error), spent(context, keeper.trace)) from error
    adapter = finish() if processes.is_rank_zero() else None
    cost = spent(context, keeper.trace)
    return Outcome(keeper.trace, course.trajectory, kept, context.measured, cost, adapter)


def _nothing() -> None:
    """Nothing was put into the model."""


def make_context(
    model: PreTrainedModel,
    tokenizer: Any,
    method: Method,
    settings: Any,
    inputs: UnlearnInputs,
    reference_compat: bool,
    seed: int,
) -> Context:
    """The corpora as streams, a frozen copy of the model, predictors and concept as needed.

    Raises:
        ConfigError: the method trains on questions, and no forget text has one; or a share of texts
            about neighbours is asked for, and there are none.
        LengthError: a text of the corpora does not fit the model's context.
    """
    rows = {
        name: read_table(inputs.prepare.file(f"{name}.parquet")) for name in ("forget", "retain")
    }
    if method.prompted:
        rows["forget"] = [row for row in rows["forget"] if row["prompt"]]
        if not rows["forget"]:
            raise ConfigError(
                "loss", settings.loss, "trains on questions, and no forget text of the benchmark "
                "has one; choose a method that trains on texts"
            )  # fmt: skip
    texts = {name: encode_texts(tokenizer, corpus) for name, corpus in rows.items()}
    for name, corpus in rows.items():
        require_room(model, [t.ids for t in texts[name]], [row["text"] for row in corpus])
    share = settings.retain.neighbours if hasattr(settings, "retain") else 0.0
    often = neighbour_texts(rows["retain"], inputs.prepare.cell["neighbours"], share)
    own: dict[str, dict[str, Any]] = {
        "forget": {"double_shift": reference_compat},
        "retain": {"often": often, "share": share},
    }
    streams = {
        name: BatchStream(
            texts[name],
            getattr(settings, "batch_size", 1),
            tokenizer.pad_token_id,
            generator(seed, "unlearn", name),
            device=processes.device() or device_of(model),
            **own[name],
        )
        for name in rows
    }
    reference = None
    if wants_reference(method, settings):
        reference = _copy(model).requires_grad_(False)
    context = Context(
        model=model,
        tokenizer=tokenizer,
        settings=settings,
        rows=rows,
        forget=streams["forget"],
        retain=streams["retain"],
        reference=reference,
        reference_compat=reference_compat,
        seed=seed,
        subjects=inputs.prepare.cell["new"],
        aliases=inputs.prepare.cell["aliases"],
        neighbours=inputs.prepare.cell["neighbours"],
        streams=list(streams.values()),
    )
    if method.needs_predictor:
        _add_predictors(context, inputs)
    return context


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model; of several processes its shards at once, so that no process has more
    than two whole models in its main memory: this one, and the one that is being split.
    """
    if processes.world_size() == 1:
        return copy.deepcopy(model)
    from atu.models.shards import sharded_copy

    return sharded_copy(model)


def _add_predictors(context: Context, inputs: UnlearnInputs) -> None:
    """The aligned predictors, the concept, and the way to align again."""
    assert inputs.embed is not None and inputs.align is not None
    align = inputs.align.manifest["params"]
    data = AlignmentData.load(inputs.embed.file("embeddings.safetensors"))
    predictors = load_predictors(inputs.align)
    hooks = getattr(context.settings, "hook_layers", []) or list(predictors)
    missing = sorted(set(hooks) - set(predictors))
    if missing:
        raise ConfigError("hook_layers", missing, f"not aligned; align has {list(predictors)}")
    context.predictors = {
        layer: predictors[layer].requires_grad_(False).to(context.device) for layer in sorted(hooks)
    }
    context.concept = data.concept.to(context.device)
    if data.answers is not None:
        context.answers = data.answers.to(context.device)
    context.stale = inputs.align.manifest["inputs"]["pretrain"] != inputs.pretrain.digest
    context.realign = lambda steps: realign_stages(context, data, align, steps)


def realign_stages(
    context: Context, data: AlignmentData, align: Mapping[str, Any], steps: int
) -> Iterator[Stage]:
    """Train every predictor on the model as it is when the first stage begins, for training
    predictors does not change it: one pass gives the hidden states of all layers, and each layer's
    are released after its stage.
    """
    count = context.measured.get("realignments", 0.0)
    context.measured["realignments"] = count + 1
    cached: dict[int, list[Tensor]] = {}

    def states_of(layer: int) -> list[Tensor]:
        if layer not in cached:  # a resumed run may have left earlier layers behind it
            left = [other for other in context.predictors if other >= layer]
            cached.update(cache_states_at(context.model, data, left))
        return cached.pop(layer)

    for layer, predictor in context.predictors.items():
        states = partial(states_of, layer)
        rng = generator(context.seed, "unlearn", "realign", str(count), str(layer))
        predictor.requires_grad_(True).train()
        loss, seek = alignment_step(
            predictor, data, states, range(len(data)), align["batch_tokens"], rng
        )
        yield Stage(
            name=f"re-align {int(count) + 1}, layer {layer}",
            steps=steps,
            loss=loss,
            seek=seek,
            parameters=list(predictor.parameters()),
            learning_rate=align["learning_rate"],
            part=f"predictor {layer}",
            evaluate=False,
        )
        predictor.requires_grad_(False).eval()


def _run_stages(method: Method, course: Course, keep: str, keeper: Keeper) -> None:
    """Run the method's stages up to its stopping rule. The point that is kept is with `keep` `last`
    the last one, with `best` the one with the highest `selection`, the later of equals.

    Where a checkpoint is resumed, stages that were done pass by and their points are the
    checkpoint's.
    """
    context = course.context
    if not keeper.replaying:
        course.trajectory.append(course.observe(0, {}))
    optimizers: dict[str, list[torch.optim.Optimizer]] = {}
    steps = 0
    for stage in method.plan(context):
        _run_stage(stage, context, optimizers, keeper)
        if stage.part == "model":
            steps += stage.steps
        if keeper.replaying or not stage.evaluate:
            continue
        course.add(course.observe(steps, stage.facts), keep)
        if reached(context.settings, course.trajectory[-1]):
            break


def _run_stage(
    stage: Stage,
    context: Context,
    optimizers: dict[str, list[torch.optim.Optimizer]],
    keeper: Keeper,
) -> None:
    if not stage.steps:
        return
    fullest = None if stage.part in optimizers else _fullest(stage, context)
    if stage.part not in optimizers or context.reference_compat:
        optimizers[stage.part] = _optimizers(stage, context.settings)
    context.model.train(stage.part == "model")
    run_steps(
        stage.name,
        stage.steps,
        stage.loss,
        optimizers[stage.part],
        clip=context.settings.clip,
        trace=keeper.trace,
        keeper=keeper,
        part=stage.part,
        seek=stage.seek,
        fullest=fullest,
    )
    if not context.reference_compat:
        context.model.eval()


def _fullest(stage: Stage, context: Context) -> LossFunction | None:
    """The stage's loss on the longest batches to come, of this stage and others of its part; None
    where there are none, or where it reads more than the context's streams.
    """
    ahead = max(stage.steps, context.settings.steps) - 1
    if stage.seek is not None or not ahead:
        return None

    def loss() -> tuple[Tensor, dict[str, float]]:
        with longest_ahead(context.streams, ahead):
            return stage.loss()

    return loss


def _optimizers(stage: Stage, settings: Any) -> list[torch.optim.Optimizer]:
    predictor = stage.part.startswith("predictor")
    kind = "adamw" if predictor else settings.optimizer
    decay = 0.0 if predictor else settings.weight_decay
    return make_optimizers(kind, stage.parameters, stage.learning_rate, weight_decay=decay)
