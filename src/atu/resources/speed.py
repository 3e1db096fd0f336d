"""Speed and peak memory of unlearning and alignment on this machine.

Weights and texts are random: the cost of a step depends only on shapes. The steps are those of the
phases, with the same losses, optimizers and step loop; only their inputs are synthetic. It needs
nothing but torch, transformers and, for LoRA, peft.

Model FLOPs are counted as in PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): in the
forward pass two per weight and token, and four per head width, token and attended token; in the
backward pass as much for the gradient of a matrix's inputs, as much for that of trained weights,
and twice as much for attention. Recomputation under checkpointing does not count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atu import methods
from atu.alignment.loop import AlignmentData, alignment_step, cache_hidden_states
from atu.methods.base import Context, Retain, wants_reference
from atu.models.build import build_lm
from atu.models.compute import Compute, drop_dead_models, settle
from atu.models.predictor import PredictorConfig, build_predictor
from atu.models.trainable import make_trainable, trains_weights
from atu.resources.shape import ModelShape, Trained, shape_of, trained_by
from atu.seeding import generator
from atu.training.batches import BatchStream, EncodedText
from atu.training.keeper import Trace
from atu.training.loop import make_optimizers, run_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WARM = 2
"""Warm-up steps: the first creates the optimizer's state."""
SEED = 0


@dataclass(frozen=True)
class Setup:
    """The shapes to measure."""

    config: Mapping[str, Any]
    """`transformers` values of the language model."""
    hook_layer: int
    predictor: PredictorConfig
    texts: int
    """Of a batch."""
    length: int
    """Tokens of every text."""
    compute: Compute

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.texts * self.length


@dataclass(frozen=True)
class Speed:
    """Measurements of one kind of step."""

    name: str
    tokens: int
    """Read by a step, over all corpora."""
    seconds: float
    """Mean of a step."""
    flops: float
    """Model FLOPs of a step."""
    peak: int | None
    """Peak bytes of tensors; None on a CPU, where torch does not count them."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens read per second."""
        return self.tokens / self.seconds

    def utilisation(self, peak_flops: float) -> float:
        """Share of the machine's `peak_flops` per second that were model FLOPs."""
        return self.flops / self.seconds / peak_flops


def measure_unlearning(name: str, setup: Setup, settings: Any, steps: int) -> Speed:
    """Steps of ATU's first round with these settings."""
    context, release = _context(setup, settings)
    stage = next(methods.get("atu").plan(context))
    optimizers = make_optimizers(
        settings.optimizer, stage.parameters, stage.learning_rate, settings.weight_decay
    )

    def run(count: int) -> None:
        run_steps(name, count, stage.loss, optimizers, clip=settings.clip, trace=Trace())

    seconds, peak = _timed(run, steps, setup.compute)
    release()
    return Speed(
        name=name,
        tokens=setup.tokens * (2 if settings.retains else 1),
        seconds=seconds,
        flops=unlearning_flops(setup, settings),
        peak=peak,
    )


def measure_alignment(setup: Setup, steps: int) -> Iterator[Speed]:
    """The frozen model's hidden states, computed once, and steps of the predictor on them."""
    model = _model(setup, training=False)
    data = _alignment_data(setup)
    shape = shape_of(setup.config)
    few = replace(data, token_ids=data.token_ids[: setup.texts])
    cache_hidden_states(model, few, setup.hook_layer)  # warms up the kernels
    started = _clock(setup.compute)
    states = cache_hidden_states(model, data, setup.hook_layer, batch_size=setup.texts)
    seconds = _clock(setup.compute) - started
    forward = forward_flops(shape, setup.hook_layer, setup.length)
    count = len(data)
    yield Speed(
        "hidden states of alignment",
        tokens=count * setup.length,
        seconds=seconds,
        flops=count * setup.length * forward,
        peak=_peak(setup.compute),
    )
    del model
    predictor = build_predictor(setup.predictor, SEED).to(setup.compute.place)
    loss, _ = alignment_step(
        predictor, data, states, range(count), setup.tokens, generator(SEED, "speed", "align")
    )
    optimizers = make_optimizers("adamw", list(predictor.parameters()), 1e-4)

    def run(number: int) -> None:
        run_steps("align", number, loss, optimizers, clip=1.0, trace=Trace())

    seconds, peak = _timed(run, steps, setup.compute)
    yield Speed(
        "alignment",
        tokens=setup.tokens,
        seconds=seconds,
        flops=3 * setup.tokens * predictor_flops(setup.predictor, setup.length),
        peak=peak,
    )


def forward_flops(
    shape: ModelShape, layers: int, length: int, head: bool = False, rank: int = 0
) -> float:
    """FLOPs per token of a forward pass through this many decoder layers, with adapters of a rank.

    For 2 layers with 10 weights each, 4 wide queries and texts of 3 tokens: 2 (20 + 48) = 136.
    """
    per_layer = 2 * shape.matrices + 4 * length * shape.queries + 2 * _adapters(shape, rank)
    return layers * per_layer + (2 * shape.hidden * shape.vocab if head else 0)


def backward_flops(
    shape: ModelShape, trained: Trained, layers: int, length: int, head: bool = False
) -> float:
    """FLOPs per token of the backward pass through this many decoder layers (with `head` also the
    head), down to the lowest layer that is trained.

    A matrix costs its forward pass again for the gradient of its inputs, and again for its own
    gradient if it is trained. Attention has no weights: both factors of its products are
    activations, so it costs twice its forward pass.
    """
    lowest = 0 if trained.tables else min(trained.layers, default=layers)
    passed = range(lowest, layers)
    updated = len(trained.layers.intersection(passed))
    flops = len(passed) * 2 * (shape.matrices + 4 * length * shape.queries)
    weights = shape.mlp_output if trained.mlp_output else shape.matrices
    flops += updated * (4 * _adapters(shape, trained.rank) if trained.rank else 2 * weights)
    if head:
        tied = trained.tables and shape.tied
        flops += 2 * shape.hidden * shape.vocab * (2 if trained.head or tied else 1)
    return flops


def _adapters(shape: ModelShape, rank: int) -> int:
    """Weights of LoRA's adapters of one layer."""
    return rank * (shape.inputs + shape.outputs)


def predictor_flops(config: PredictorConfig, length: int) -> float:
    """FLOPs per token of the predictor's forward pass."""
    width = config.width
    matrices = _attentions(config) * 4 * width * width + 2 * width * config.feedforward
    outer = config.input_dim * width + width * config.output_dim
    return config.layers * 2 * matrices + 2 * outer + _attention_flops(config, length)


def _attentions(config: PredictorConfig) -> int:
    """Attentions per layer; a predictor that sees the future has a second over the whole text."""
    return 2 if config.sees_future else 1


def _attention_flops(config: PredictorConfig, length: int) -> float:
    return config.layers * _attentions(config) * 4 * length * config.width


def unlearning_flops(setup: Setup, settings: Any) -> float:
    """Model FLOPs of one step: the hinge through the layers below the hook and the predictor, and
    the retain terms through the whole model and its reference.
    """
    shape, length, hook = shape_of(setup.config), setup.length, setup.hook_layer
    trained = trained_by(settings.train, shape, hook)
    flops = forward_flops(shape, hook, length, rank=trained.rank)
    flops += backward_flops(shape, trained, hook, length)
    # The frozen predictor: gradients of its matrices' inputs, and its attention in full.
    flops += 2 * predictor_flops(setup.predictor, length)
    flops += _attention_flops(setup.predictor, length)
    return setup.tokens * (flops + _retain_flops(shape, trained, settings.retain, length))


def _retain_flops(shape: ModelShape, trained: Trained, retain: Retain, length: int) -> float:
    """FLOPs per token of the retain terms. `states` alone reads no logits: its backward pass begins
    at the highest layer whose states are held.
    """
    terms = set(retain.weights())
    if not terms:
        return 0.0
    flops = forward_flops(shape, shape.layers, length, head=True, rank=trained.rank)
    if terms == {"states"}:
        flops += backward_flops(shape, trained, max(retain.layers), length)
    else:
        flops += backward_flops(shape, trained, shape.layers, length, head=True)
    if "kl" in terms:  # the reference's logits
        flops += forward_flops(shape, shape.layers, length, head=True)
    elif "states" in terms:  # the reference stops at the highest layer that is held
        flops += forward_flops(shape, max(retain.layers), length)
    return flops


def _model(setup: Setup, training: bool) -> PreTrainedModel:
    with setup.compute.place:
        model = build_lm(setup.config, SEED)
    model.to(setup.compute.dtype(training))  # type: ignore[arg-type]
    return settle(model, setup.compute).eval()


def _texts(setup: Setup, name: str) -> list[EncodedText]:
    """Four batches of random tokens."""
    rng = generator(SEED, "speed", name)
    vocabulary = int(setup.config["vocab_size"])
    rows = rng.integers(vocabulary, size=(4 * setup.texts, setup.length)).tolist()
    return [EncodedText(row, 1, []) for row in rows]


def _context(setup: Setup, settings: Any) -> tuple[Context, Any]:
    """A synthetic context for ATU, and the function that ends `make_trainable`."""
    model = _model(setup, trains_weights(settings))
    reference = None
    if wants_reference(methods.get("atu"), settings):
        reference = _model(setup, training=False).requires_grad_(False)
    place, streams = setup.compute.place, {}
    for name in ("forget", "retain"):
        rng = generator(SEED, "speed", "order", name)
        streams[name] = BatchStream(_texts(setup, name), setup.texts, 0, rng, device=place)
    predictor = build_predictor(setup.predictor, SEED).to(place).requires_grad_(False).eval()
    context = Context(
        model=model,
        tokenizer=None,
        settings=settings,
        rows={"forget": [], "retain": []},
        forget=streams["forget"],
        retain=streams["retain"],
        reference=reference,
        reference_compat=False,
        seed=SEED,
        predictors={setup.hook_layer: predictor},
        concept=_unit(1, setup.predictor.output_dim, "concept").to(place),
    )
    context.parameters, release = make_trainable(model, settings.train, setup.hook_layer)
    return context, release


def _alignment_data(setup: Setup) -> AlignmentData:
    """Random texts in which every token begins a full window."""
    texts = _texts(setup, "align")
    count = len(texts) * setup.length
    return AlignmentData(
        windows=_unit(count, setup.predictor.output_dim, "windows"),
        concept=_unit(1, setup.predictor.output_dim, "concept"),
        token_ids=[torch.tensor(text.ids) for text in texts],
        window_numbers=list(torch.arange(count).split(setup.length)),
    )


def _unit(count: int, size: int, name: str) -> Tensor:
    """Random unit vectors, [count, size]."""
    values = generator(SEED, "speed", name).standard_normal((count, size))
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=-1)


def _timed(run: Any, steps: int, compute: Compute) -> tuple[float, int | None]:
    """Mean seconds of a step after `WARM` steps, and the peak memory of all."""
    drop_dead_models()  # earlier measurements must not count
    if compute.place.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run(WARM)
    started = _clock(compute)
    run(steps)
    return (_clock(compute) - started) / steps, _peak(compute)


def _clock(compute: Compute) -> float:
    if compute.place.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(compute: Compute) -> int | None:
    return torch.cuda.max_memory_allocated() if compute.place.type == "cuda" else None
