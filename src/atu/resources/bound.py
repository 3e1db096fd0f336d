"""A lower bound of a job's memory: what it must hold at once, whatever texts it reads.

Parameters are counted on a model without memory, by the functions that choose what is trained.
Memory that depends on texts (activations, logits, caches) comes on top; it is measured, not
predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from atu import attacks, methods
from atu.config.params import oracle_method
from atu.config.roles import ORACLE, ORIGINAL
from atu.config.sections import Pinned
from atu.methods.base import Method, wants_reference
from atu.models.encoder import locate_encoder
from atu.models.gguf import gguf_config
from atu.models.gguf_header import is_gguf
from atu.models.llm import decoder_layers, parameters_below
from atu.models.pinned import locate
from atu.models.predictor import EmbeddingPredictor
from atu.models.trainable import Lora, make_trainable, trains_weights
from atu.resources.shape import empty_lm
from atu.results.files import read_json
from atu.results.locks import Lock
from atu.training.loop import split_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from atu.config.params import Params

FLOAT = 4
"""Bytes of a float32: trained weights, their gradients and optimizer state."""
MOMENTS = {"adamw": 2, "muon": 1, "sgd": 0}
"""Tensors that an optimizer keeps per parameter after the first step."""
Parts = dict[str, int]
"""Bytes by the name of what holds them."""


@dataclass(frozen=True)
class PlannedJob:
    """All but the texts that a job's memory depends on."""

    phase: str
    params: Params
    config: Mapping[str, Any]
    """`transformers` values of its model."""
    name: str = ""
    """Of its method or attack, if it has one."""
    settings: Any = None
    """Of that method or attack."""

    @property
    def key(self) -> str:
        """Where its settings are in the parameter file."""
        homes = {"unlearn": "unlearn.methods", "search": "unlearn.methods"}
        home = homes.get(self.phase, f"{self.phase}.{self.phase}s")
        return f"{home}.{self.name}" if self.settings is not None else self.phase

    @property
    def trains(self) -> bool:
        """Whether it trains the language model by settings that can be changed."""
        return self.phase == "pretrain" or hasattr(self.settings, "train")


def held(job: PlannedJob, processes: int = 1) -> Parts:
    """The bytes that each of `processes` ranks of this job must hold at once, at least; {} for an
    unknown architecture.

    Raises:
        ConfigError: the settings do not suit the model.
    """
    try:
        model = empty_lm(job.config)
        decoder_layers(model)
    except (TypeError, ValueError):
        return {}
    make = {
        "pretrain": _pretraining, "align": _alignment, "unlearn": _unlearning,
        "search": _searching, "privacy": _privacy, "attack": _attack,
    }.get(job.phase, _reading)  # fmt: skip
    with torch.random.fork_rng([]):  # adapters are initialised at random
        parts = make(model, job)
    # The model and its copies are sharded; every rank trains the whole predictor.
    share = 1 if job.phase == "align" else processes
    return {name: size // share for name, size in parts.items() if size}


def _pretraining(model: PreTrainedModel, job: PlannedJob) -> Parts:
    """Muon on hidden matrices and AdamW on the rest from scratch; else AdamW alone."""
    matrices, vectors = split_matrices(model)
    scratch = not isinstance(job.params.pretrain.models[job.name], Pinned)
    moments = MOMENTS["muon" if scratch else "adamw"] * count(matrices)
    moments += MOMENTS["adamw"] * count(vectors)
    whole = FLOAT * count(model.parameters())
    return {"weights": whole, "gradients": whole, "optimizer": FLOAT * moments}


def _reading(model: PreTrainedModel, job: PlannedJob) -> Parts:
    return {"weights": _weights(model, job, training=False)}


def _privacy(model: PreTrainedModel, job: PlannedJob) -> Parts:
    """The gradient norm of a text is over all weights."""
    whole = _weights(model, job, training=False)
    return {"weights": whole, "gradients": whole}


def _alignment(model: PreTrainedModel, job: PlannedJob) -> Parts:
    return _reading(model, job) | _fresh_predictor(model, job)


def _attack(model: PreTrainedModel, job: PlannedJob) -> Parts:
    attack = attacks.get(job.settings.attack)
    whole = _weights(model, job, training=attack.exact_weights)
    parts = {"weights": whole}
    if attack.needs_original and ORIGINAL in job.params.grid.methods:
        parts["original"] = whole
    if attack.needs_oracle and oracle_method(job.params) is not None:
        parts[ORACLE] = whole
    if attack.fine_tunes:
        parts |= {"copy": whole} | _training(model.parameters(), "adamw")
    if attack.needs_alignment:
        parts |= _fresh_predictor(model, job)
    return parts


def _searching(model: PreTrainedModel, job: PlannedJob) -> Parts:
    """Of a run, or of the fine-tune that comes after it (`search.relearn`), whichever is more."""
    whole = FLOAT * count(model.parameters())
    fine_tune = {"weights": whole, "copy": whole} | _training(model.parameters(), "adamw")
    run = _unlearning(model, job)  # the last, as it may cut layers off
    if job.params.search.relearn and sum(fine_tune.values()) > sum(run.values()):
        return fine_tune
    return run


def _unlearning(model: PreTrainedModel, job: PlannedJob) -> Parts:
    settings, method = job.settings, methods.get(job.settings.loss)
    whole = _weights(model, job, training=trains_weights(settings))
    parts = {
        "weights": whole,
        "reference": whole * wants_reference(method, settings),
        "copy": whole * method.copies,
    }
    hook = None
    if method.needs_predictor:
        hooks = _hook_layers(job)
        hook = max(hooks)
        parts["predictors"] = FLOAT * len(hooks) * count(_predictor(model, job).parameters())
    if method.assistant is not None:
        del decoder_layers(model)[method.assistant(settings) :]
        parts["assistant"] = FLOAT * count(model.parameters())
        return parts | _training(model.parameters(), settings.optimizer)
    if not hasattr(settings, "train"):
        return parts
    trained, _ = make_trainable(model, settings.train, hook)
    if isinstance(settings.train, Lora):
        parts["adapters"] = FLOAT * count(trained)
    reached = _reached(model, method, settings, hook)
    return parts | _training([p for p in trained if id(p) in reached], settings.optimizer)


def _reached(model: PreTrainedModel, method: Method, settings: Any, hook: int | None) -> set[int]:
    """The parameters with gradients: all, or those below the hidden states that the loss reads."""
    retain = settings.retain
    if method.depth is None or retain.nll or retain.kl:
        return set(map(id, model.parameters()))
    depth = max(method.depth(settings, hook), *retain.layers, 0)
    return set(map(id, parameters_below(model, depth)))


def _training(parameters: Iterable[nn.Parameter], optimizer: str) -> Parts:
    """The memory of an optimizer step besides the parameters."""
    numbers = count(parameters)
    return {"gradients": FLOAT * numbers, "optimizer": FLOAT * MOMENTS[optimizer] * numbers}


def _weights(model: PreTrainedModel, job: PlannedJob, training: bool) -> int:
    return job.params.compute.dtype(training).itemsize * count(model.parameters())


def _fresh_predictor(model: PreTrainedModel, job: PlannedJob) -> Parts:
    """A predictor in training."""
    parameters = list(_predictor(model, job).parameters())
    return {"predictor": FLOAT * count(parameters)} | _training(parameters, "adamw")


def _predictor(model: PreTrainedModel, job: PlannedJob) -> EmbeddingPredictor:
    hidden = int(model.config.hidden_size)
    config = job.params.align.predictor(hidden, encoder_dimension(job.params))
    with torch.device("meta"):
        return EmbeddingPredictor(config)


def _hook_layers(job: PlannedJob) -> list[int]:
    """The hook layers with a predictor; the lowest where one of several is chosen."""
    align = job.params.align
    chosen = align.hook_layers if align.choose == "all" else [min(align.hook_layers)]
    return getattr(job.settings, "hook_layers", None) or chosen


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Numbers in parameters."""
    return sum(parameter.numel() for parameter in parameters)


def encoder_dimension(params: Params) -> int:
    """The dimension of the encoder's embeddings."""
    return int(read_json(locate_encoder(params.embed.encoder) / "config.json")["hidden_size"])


def model_config(params: Params, name: str) -> dict[str, Any]:
    """`transformers` values of a model in the parameters. A model that is trained here has at most
    this vocabulary, and less from a small corpus.

    Raises:
        ArtifactError: the model's folder is missing.
    """
    spec = params.pretrain.models[name]
    if not isinstance(spec, Pinned):
        return spec.config | {"vocab_size": spec.vocab_size}
    return read_config(locate(spec.source, Lock.read(Path(spec.source.lock)).revision))


def read_config(folder: Path) -> dict[str, Any]:
    """`transformers` values of a model's folder or GGUF file, without those that name code."""
    if is_gguf(folder):
        return gguf_config(folder)
    values: dict[str, Any] = read_json(folder / "config.json")
    values.pop("auto_map", None)
    return values
