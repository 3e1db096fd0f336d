"""The parameter file of `atu forget`: a whole experiment with settings for the model's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from atu.config.overlays import merged, stack
from atu.config.written import EXPERIMENTS, params_text
from atu.errors import ConfigError
from atu.results.files import read_json
from atu.results.locks import Source
from atu.results.sources import PACKAGE

COMMAND = "atu forget"
BASE = "world"
"""The experiment with the default settings."""
EXPERIMENT = "forget"
MODEL = "model"
"""The model's key in the parameter file."""
METHODS = ("atu", "ga", "graddiff", "npo_retain")
"""Methods that need only texts."""
HOOK_SHARE = 29 / 32
"""Depth of the paper's hook layer in Phi-3-mini (arXiv 2506.13181)."""
TINY_WIDTH, TINY_RATE = 128, 2e-3
"""Hidden size of the embedded world's model, and the learning rate of `atu_push` for it
(`experiments/world.yaml`)."""
RATE_EXPONENT = 1.5
"""The rate falls with this power of the hidden size: 128 gives 2e-3, and Phi-3-mini's 3072 1.7e-5,
between the 1e-5 of `experiments/rwku_phi3.yaml` and what AdamW is fine-tuned with elsewhere."""
LORA_FACTOR = 10
"""Adapters learn at ten times the rate, as in `experiments/rwku_phi3_quick.yaml`."""
LORA_LIMIT = 4e-3
"""The adapters' largest rate: ten times the rate (5.7e-2 at hidden size 64) ruined a small
model."""
WITHOUT_PREDICTOR = 0.1
"""Methods on the output learn at a tenth of ATU's rate, as in the embedded world."""
LORA_ALPHA = 2
"""LoRA's alpha as a multiple of the rank."""
LONG_ANSWER = 96
"""Tokens of an answer at most where answers are sentences, as in TOFU's experiments."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model on which the settings depend."""

    layers: int
    hidden: int

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """The shape of the model in a folder, by its configuration.

        Raises:
            ConfigError: there is no depth, or too few layers for a hook.
        """
        config = read_json(folder / "config.json")
        layers, hidden = (
            next((config[k] for k in keys if isinstance(config.get(k), int)), 0)
            for keys in (("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd"))
        )
        if layers < 2 or hidden < 1:
            raise ConfigError(
                "--model", str(folder), f"has {layers} layers of size {hidden} by its config.json; "
                "2 layers are needed, so that one can be hooked"
            )  # fmt: skip
        return cls(layers, hidden)

    @property
    def hook(self) -> int:
        """The hook layer: the paper's share of the depth, 29 of 32, 3 of 4, 2 of 2 layers at 1."""
        return min(max(round(HOOK_SHARE * self.layers), 1), self.layers - 1)

    @property
    def blocks(self) -> int:
        """Parameters of the layers, about: what a token costs is proportional to them."""
        return 12 * self.layers * self.hidden**2

    @property
    def scale(self) -> Scale:
        """The settings of its scale."""
        return next(scale for scale in SCALES if self.blocks <= scale.most)

    @property
    def rate(self) -> float:
        """ATU's learning rate for full weights."""
        return float(f"{TINY_RATE * (TINY_WIDTH / self.hidden) ** RATE_EXPONENT:.1e}")


@dataclass(frozen=True)
class Steps:
    """Training steps."""

    align: int
    realign: int
    unlearn: int


@dataclass(frozen=True)
class Scale:
    """Settings for models up to a size."""

    most: float
    """Parameters of the layers at most (`Shape.blocks`)."""
    steps: Steps
    batch_size: int
    """Of unlearning."""
    retain_texts: int
    """Retain texts that are embedded."""
    width: int
    """Of the predictor."""
    layers: int
    """Of the predictor."""
    heads: int
    """Of the predictor."""
    align_rate: float
    evaluated: int
    """Texts at once in evaluation."""
    holds_states: bool = False
    """Whether ATU holds hidden states of retain texts in place; otherwise `KEPT_BY_OUTPUT`."""
    rate_share: float = 1.0
    """Of the rate that goes by the hidden size, for full weights."""
    retain_share: float = 1.0
    """Of the passages to keep that a model writes by default; few steps read few of them."""
    checkpointing: bool = False
    """Whether memory is scarce."""


HELD = {"nll": 1.0, "states": 0.1}
"""ATU's retain terms where hidden states are held."""
NPO: dict[str, Any] = {"beta": 0.1, "retain": {"kl": 20.0}}
"""NPO with KL at this method's rate; the embedded world's searched settings go with another."""
KEPT_BY_OUTPUT = {"nll": 1.0, "kl": 1.0, "states": 0.0, "layer": None}
"""ATU's retain terms for pretrained models. In some of these the first token's hidden state is
enormous: in SmolLM2 at the hook its mean square is 1e6, that of the median token 500. The distance
of hidden states, weighted as in the embedded world, then outweighs everything and ruins the model
within three steps (the loss went from 3 to 50)."""
SCALES = (
    Scale(1e7, Steps(300, 50, 200), 16, 2000, 128, 2, 4, 3e-3, 128, holds_states=True),
    Scale(4e8, Steps(400, 80, 120), 4, 200, 256, 2, 4, 1e-3, 32, rate_share=0.5, retain_share=0.5),
    Scale(inf, Steps(2000, 200, 400), 4, 2000, 768, 6, 8, 1e-4, 16, checkpointing=True),
)
"""The embedded world's settings; those with which a model of 1e8 parameters is done on two cores
within half an hour (half the rate: docs/log.md has what was tried); and those of the quick Phi-3
experiment, with the paper's predictor."""


def steps_for(shape: Shape, quick: bool = False) -> Steps:
    """The steps of the model's scale; a third of them if `quick`."""
    steps = shape.scale.steps
    if not quick:
        return steps
    return Steps(steps.align // 3, steps.realign // 3, steps.unlearn // 3)


def render(
    *,
    names: Sequence[str],
    descriptions: Sequence[str],
    method: str,
    rank: int | None,
    seed: int,
    select: float,
    encoder: str,
    model: Source,
    corpus: Source,
    shape: Shape,
    quick: bool = False,
    long_answers: bool = False,
) -> str:
    """The text of `params.yaml`: the embedded world's experiment with these changes.

    Args:
        long_answers: whether questions are answered by sentences, not by names.

    Raises:
        ConfigError: the method is none of `METHODS`.
    """
    if method not in METHODS:
        raise ConfigError(
            "--method", method, f"needs more than texts; known are {', '.join(METHODS)}"
        )
    steps = steps_for(shape, quick)
    change = {
        "base": BASE,
        "keep": {
            "prepare": [],
            "pretrain.models": [],
            "search.spaces": [],
            "unlearn.methods": ["none", method],
            f"unlearn.methods.{method}.train": [],
            "attack.attacks": [],
        },
        "experiment": EXPERIMENT,
        # No oracle: nobody has trained this model without the concept.
        "grid": {
            "models": [MODEL], "targets": [names[0]], "methods": ["none", method],
            "seeds": [seed], "attacks": [],
        },
        # The texts and questions that the model wrote.
        "prepare": {"benchmark": "concept", "source": asdict(corpus), "select": select},
        "pretrain": _pinned(model, seed),
        "embed": {
            "encoder": encoder, "descriptions": [*descriptions],
            "retain_texts": shape.scale.retain_texts,
        },
        "align": _alignment(shape, steps),
        "search": {"targets": names[:1], "seed": seed, "trials": 1},
        "unlearn": {"methods": {method: _unlearning(shape, steps, rank, method)}},
        "report": {"compare": method},
        "track": {"experiment": EXPERIMENT},
        **_evaluation(shape, long_answers),
    }  # fmt: skip
    return params_text(merged(stack(change, COMMAND, PACKAGE.parents[1] / EXPERIMENTS)), COMMAND)


def _pinned(model: Source, seed: int) -> dict[str, Any]:
    """The model; the numbers are only for models that are trained here."""
    return {
        "seed": seed,
        "models": {MODEL: {"source": asdict(model), "finetune": False}},
        "steps": 1, "learning_rate": 1e-5, "matrix_learning_rate": 1e-3, "warmup": 0.0,
    }  # fmt: skip


def _alignment(shape: Shape, steps: Steps) -> dict[str, Any]:
    return {
        "hook_layers": [shape.hook],
        "width": shape.scale.width,
        "layers": shape.scale.layers,
        "heads": shape.scale.heads,
        "feedforward": 2 * shape.scale.width,
        "steps": steps.align,
        "learning_rate": shape.scale.align_rate,
    }


def _unlearning(shape: Shape, steps: Steps, rank: int | None, method: str) -> dict[str, Any]:
    held = HELD | {"layer": shape.hook} if shape.scale.holds_states else KEPT_BY_OUTPUT
    # A stranger as the aim was tried in the world alone.
    pushed = {
        "thresholds": [0.0, -0.2, -0.4, -0.6], "answers": 0.0, "stranger": 0.0, "visits": False,
        "restored": 0.0,
    }  # fmt: skip
    own = {"atu": pushed | {"realign_steps": steps.realign, "retain": held}, "npo_retain": NPO}
    return {
        **own.get(method, {}),
        "steps": steps.unlearn,
        "learning_rate": _rate(shape, rank, method),
        "batch_size": shape.scale.batch_size,
        "train": _train(shape, rank, method),
    }


def _evaluation(shape: Shape, long_answers: bool) -> dict[str, Any]:
    """Settings of the machine and of the phases that evaluate."""
    batch = {"batch_size": shape.scale.evaluated}
    answers = {"max_new_tokens": LONG_ANSWER} if long_answers else {}
    return {
        "compute": {"checkpointing": shape.scale.checkpointing},
        "rephrase": batch | answers,
        "utility": batch | {"fluency_tokens": 64},
        "privacy": batch | {"retain_texts": 100, "gradient_texts": 30, "verbatim_tokens": 64},
        "attack": batch | {"max_new_tokens": 32} | answers,
    }


def _rate(shape: Shape, rank: int | None, method: str) -> float:
    """The method's learning rate, with two digits."""
    full = shape.scale.rate_share * shape.rate
    rate = min(LORA_FACTOR * shape.rate, LORA_LIMIT) if rank else full
    return float(f"{rate * (1 if method == 'atu' else WITHOUT_PREDICTOR):.1e}")


def _train(shape: Shape, rank: int | None, method: str) -> dict[str, Any]:
    """The parameters to update: adapters, or for ATU the layers below the hook. Embeddings stay as
    they are, since tied models use them as their output head.
    """
    if rank:
        return {"update": "lora", "rank": rank, "alpha": LORA_ALPHA * rank}
    if method == "atu":
        return {"update": "layers", "layers": list(range(shape.hook))}
    return {"update": "all"}
