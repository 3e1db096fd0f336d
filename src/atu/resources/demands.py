"""The memory request of every phase's job, and the table of all of a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atu import attacks, methods
from atu.config.sections import Pinned
from atu.distributed import processes
from atu.errors import ArtifactError, ResourceError
from atu.models.encoder import locate_encoder
from atu.models.pinned import locate
from atu.models.predictor import PredictorConfig
from atu.models.trainable import trains_weights
from atu.resources.expected import (
    Job,
    Request,
    compute_of,
    expect,
    known_shape,
    measure,
    read_shape,
    require_fit,
    size,
)
from atu.resources.forecast import (
    align_plan,
    answering_plan,
    evaluation_plan,
    fine_tuning_plan,
    lens_plan,
    pretrain_plan,
)
from atu.resources.memory import Corpus, Plan
from atu.resources.planning import Alignment, Lengths, unlearn_plan
from atu.resources.saved import Compute, Texts
from atu.resources.shape import ModelShape
from atu.results.artifacts import Artifact
from atu.results.files import read_json
from atu.results.locks import Lock

if TYPE_CHECKING:
    from atu.config.params import Params


CHECKPOINTING = "compute.checkpointing"


def pretrain_request(params: Params, shape: ModelShape) -> Request:
    """Training; `batch_tokens` are taken as texts of the model's context."""
    section = params.pretrain

    def make(compute: Compute, batch: int, _lora: Any) -> Plan:
        return pretrain_plan(shape, compute, batch, min(shape.context, batch))

    return Request(
        "pretrain", compute_of(params), section.batch_tokens, "pretrain.batch_tokens", make,
        checkpointing_key=CHECKPOINTING,
    )  # fmt: skip


def predictor_of(params: Params, job: Job) -> PredictorConfig:
    """A predictor of the section's size on this model."""
    return params.align.predictor(job.shape.hidden, job.dimension)


def align_request(params: Params, job: Job) -> Request:
    """One hook layer's alignment."""
    config, corpus = predictor_of(params, job), job.corpus
    assert corpus is not None

    def make(compute: Compute, batch: int, _lora: Any) -> Plan:
        return align_plan(job.shape, compute, config, corpus, batch)

    return Request(
        "align", compute_of(params), params.align.batch_tokens, "align.batch_tokens", make
    )


def unlearn_request(params: Params, job: Job, name: str, settings: Any) -> Request:
    """A method's run, or a trial of its search, at these settings."""
    key = f"unlearn.methods.{name}"
    lengths = replace(job.lengths, probes=min(job.lengths.probes, 4 * params.unlearn.probes))
    alignment = None
    if job.corpus is not None:
        hooks = getattr(settings, "hook_layers", []) or params.align.hook_layers
        predictors = dict.fromkeys(hooks, predictor_of(params, job))
        alignment = Alignment(predictors, job.corpus, params.align.batch_tokens)
    best = params.unlearn.keep == "best"
    trains = hasattr(settings, "train")

    def make(compute: Compute, batch: int, lora: Any, count: int = processes.count()) -> Plan:
        own = replace(settings, batch_size=batch) if hasattr(settings, "batch_size") else settings
        own = replace(own, train=lora) if lora is not None else own
        if lora is not None:
            compute = replace(compute, weights=compute_of(params, training=False).weights)
        return unlearn_plan(job.shape, compute, own, best, lengths, alignment, count)

    held, batch = compute_of(params, trains_weights(settings)), getattr(settings, "batch_size", 1)
    shares = held.device == "cuda" and methods.get(settings.loss).processes == "all"
    return Request(
        key, held, batch, f"{key}.batch_size", make,
        spread=(lambda count: make(held, batch, None, count)) if shares else None,
        checkpointing_key=CHECKPOINTING if trains else None,
        train_key=f"{key}.train" if trains and settings.loss != "task_vector" else None,
    )  # fmt: skip


def evaluation_request(params: Params, job: Job, phase: str) -> Request:
    """rephrase, utility or privacy."""
    section = getattr(params, phase)
    new = {
        "rephrase": params.rephrase.max_new_tokens,
        "utility": params.utility.fluency_tokens,
        "privacy": params.privacy.verbatim_tokens,
    }[phase]

    def make(compute: Compute, batch: int, _lora: Any) -> Plan:
        plans = [evaluation_plan(job.shape, compute, batch, job.lengths, new)]
        if phase == "privacy":
            one = Texts(1, job.lengths.forget, padded=False)
            plans.append(fine_tuning_plan(job.shape, compute, one, None, copies=1))
        return max(plans, key=lambda found: found.peak)

    held = compute_of(params, training=False)
    return Request(phase, held, section.batch_size, f"{phase}.batch_size", make)


def attack_request(params: Params, job: Job, name: str) -> Request:
    """One attack: its own training, and answers in the section's batches."""
    settings, section = params.attack.attacks[name], params.attack
    key = f"attack.attacks.{name}"
    copies = 2 if settings.attack in ("quantise", "relearn") else 1

    def answers(compute: Compute, batch: int, _lora: Any) -> Plan:
        if settings.attack == "lens":
            return lens_plan(job.shape, compute, batch, job.lengths)
        new = section.max_new_tokens
        return answering_plan(job.shape, compute, batch, job.lengths, new, copies)

    def relearn(compute: Compute, batch: int, _lora: Any) -> Plan:
        texts = Texts(batch, job.lengths.forget)
        trained = fine_tuning_plan(job.shape, compute, texts, "adamw", copies)
        asked = answers(compute, section.batch_size, None)
        return max(trained, asked, key=lambda found: found.peak)

    if settings.attack == "relearn":
        size = settings.batch_size
        return Request(key, compute_of(params), size, f"{key}.batch_size", relearn)
    if settings.attack == "fresh_predictor" and job.corpus is not None:
        return replace(align_request(params, job), name=key)
    held = compute_of(params, attacks.get(settings.attack).exact_weights)
    return Request(key, held, section.batch_size, "attack.batch_size", answers)


def grid_requests(params: Params, tokens: int | None) -> Iterator[tuple[str, str, Request]]:
    """Model, what runs, and request of every kind of job of the grid.

    Args:
        tokens: of every text and prompt; None takes each model's context, which no text exceeds.
    """
    for model in params.grid.models:
        shape = spec_shape(params, model)
        if shape is None:
            continue
        length = tokens or shape.context
        texts = Texts(params.embed.retain_texts, length)
        job = Job(
            shape,
            Lengths(length, length, length, 4 * params.unlearn.probes),
            Corpus(texts, texts.count, texts.count),
            encoder_dimension(params),
        )
        if trains(params, model):
            yield model, "pretrain", pretrain_request(params, shape)
        for what, request in _jobs(params, job):
            yield model, what, request


def trains(params: Params, name: str) -> bool:
    """Whether `pretrain` trains this model, and does not only pin it."""
    spec = params.pretrain.models[name]
    return not isinstance(spec, Pinned) or spec.finetune


def spec_shape(params: Params, name: str) -> ModelShape | None:
    """The shape of a model of the parameters; None as for `read_shape`."""
    spec = params.pretrain.models[name]
    if isinstance(spec, Pinned):
        return read_shape(locate(spec.source, Lock.read(Path(spec.source.lock)).revision))
    return known_shape(spec.config | {"vocab_size": spec.vocab_size})


def _jobs(params: Params, job: Job) -> Iterator[tuple[str, Request]]:
    yield "align", align_request(params, job)
    for name in params.grid.methods:
        settings = params.unlearn.methods[name]
        own = job if methods.get(settings.loss).needs_predictor else replace(job, corpus=None)
        yield f"unlearn {name}", unlearn_request(params, own, name, settings)
    for phase in ("rephrase", "utility", "privacy"):
        yield phase, evaluation_request(params, job, phase)
    for name in params.grid.attacks:
        yield f"attack {name}", attack_request(params, job, name)


def encoder_dimension(params: Params) -> int:
    """Of the encoder's embeddings."""
    return int(read_json(locate_encoder(params.embed.encoder) / "config.json")["hidden_size"])


def grid_table(params: Params, tokens: int | None, free: int | None) -> str:
    """Every kind of job with its expected peak, the moment of it, and what to change where it does
    not fit.
    """
    rows = [("model", "job", "expected", "at", "largest parts")]
    refused = []
    for model, what, request in grid_requests(params, tokens):
        found = request.plan
        parts = sorted(found.parts, key=lambda part: -part[1])[:3]
        named = ", ".join(f"{name} {size(count)}" for name, count in parts)
        rows.append((model, what, size(found.peak), found.moment, named))
        try:
            require_fit(request, free)
        except ResourceError as error:
            refused.append(f"{model}: {error}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)) for r in rows]
    return "\n".join([*(text.rstrip() for text in lines), *refused]) + "\n"


def expected(
    phase: str,
    params: Params,
    *,
    model: Artifact | None = None,
    prepare: Artifact | None = None,
    embed: Artifact | None = None,
    name: str = "",
    settings: Any = None,
) -> None:
    """Print what a job is expected to need, before it loads anything.

    Args:
        model: the folder that holds the job's model; of `pretrain` none, which makes it.
        name: the model, method or attack of `phase`, where it has one.
        settings: the method's, where a search chose them; else those of the parameters.

    Raises:
        ResourceError: it needs more than is free; names the first change of parameters that fits.
    """
    if phase == "pretrain":
        shape = spec_shape(params, name) if trains(params, name) else None
        if shape is not None:
            expect(pretrain_request(params, shape))
        return
    assert model is not None and prepare is not None
    try:
        job = measure(model, prepare, embed)
    except ArtifactError:
        return  # the job opens the same files, and says what is wrong with them
    if job is None:
        return
    if phase == "align":
        expect(align_request(params, job))
    elif phase in ("unlearn", "search"):
        chosen = settings if settings is not None else params.unlearn.methods[name]
        expect(unlearn_request(params, job, name, chosen))
    elif phase == "attack":
        expect(attack_request(params, job, name))
    else:
        expect(evaluation_request(params, job, phase))
