"""The parameter file of a wish: a complete experiment, with settings that fit the model's size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from atu.errors import ConfigError
from atu.results.files import read_json
from atu.results.locks import Source

EXPERIMENT = "forget"
MODEL = "model"
"""Its key in the parameter file."""
METHODS: dict[str, dict[str, Any]] = {
    "atu": {"loss": "atu"},
    "ga": {"loss": "ga", "retain": "{nll: 0.0, kl: 0.0, states: 0.0, layer: null}"},
    "graddiff": {"loss": "ga", "retain": "{nll: 5.0, kl: 0.0, states: 0.0, layer: null}"},
    "npo_retain": {
        "loss": "npo",
        "retain": "{nll: 0.0, kl: 20.0, states: 0.0, layer: null}",
        "extra": {"beta": 0.1},
    },
}
"""Methods that need nothing but texts, with the settings of `params.yaml` that are their own."""
HOOK_SHARE = 29 / 32
"""Depth of the paper's hook layer in Phi-3-mini (arXiv 2506.13181)."""
TINY_WIDTH, TINY_RATE = 128, 2e-3
"""Hidden size and ATU's learning rate of the embedded world's model (`params.yaml`)."""
RATE_EXPONENT = 1.5
"""The rate falls with this power of the hidden size: 128 gives 2e-3, and Phi-3-mini's 3072 1.7e-5,
between the 1e-5 of `experiments/rwku_phi3.yaml` and what AdamW is fine-tuned with elsewhere."""
LORA_FACTOR = 10
"""Adapters learn at ten times the rate, as in `experiments/rwku_phi3_quick.yaml`."""
LORA_LIMIT = 4e-3
"""Adapters of small models at most: ten times their rate (5.7e-2 at hidden size 64) ruined one."""
WITHOUT_PREDICTOR = 0.1
"""Methods on the output learn at a tenth of ATU's rate, as in `params.yaml`."""
LORA_ALPHA = 2
"""Times the rank."""
LARGE = 1024
"""Hidden size from which memory is short: small batches and checkpointing."""


@dataclass(frozen=True)
class Shape:
    """What the settings need to know of a model."""

    layers: int
    hidden: int

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """Of a model folder, by its configuration.

        Raises:
            ConfigError: it names no depth, or one that leaves no layer to hook.
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
    def large(self) -> bool:
        """Whether memory is short."""
        return self.hidden >= LARGE

    @property
    def width(self) -> int:
        """Of the predictor: the world's for small models, the paper's for large ones."""
        return 768 if self.large else 128

    @property
    def heads(self) -> int:
        """Of the predictor."""
        return 8 if self.large else 4

    @property
    def predictor_layers(self) -> int:
        """Of the predictor."""
        return 6 if self.large else 2

    @property
    def align_rate(self) -> float:
        """Of the predictor: the paper's for its size, the world's for the small one."""
        return 1e-4 if self.large else 3e-3

    @property
    def rate(self) -> float:
        """ATU's learning rate for full weights."""
        return float(f"{TINY_RATE * (TINY_WIDTH / self.hidden) ** RATE_EXPONENT:.1e}")


@dataclass(frozen=True)
class Steps:
    """How long is trained."""

    align: int
    realign: int
    unlearn: int


def steps_for(shape: Shape, quick: bool = False) -> Steps:
    """The world's steps for small models; for large ones those of the quick Phi-3 experiment. A
    third of them where only a first look is wanted.
    """
    found = Steps(2000, 200, 400) if shape.large else Steps(300, 50, 200)
    if not quick:
        return found
    return Steps(found.align // 3, found.realign // 3, found.unlearn // 3)


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
) -> str:
    """The text of `params.yaml`.

    Raises:
        ConfigError: the method is none of `METHODS`.
    """
    import jinja2

    if method not in METHODS:
        raise ConfigError(
            "--method", method, f"needs more than texts; known are {', '.join(METHODS)}"
        )
    text = (resources.files("atu.forget") / "params.yaml.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    # jinja's own `tojson` writes what is beyond 16 bits as halves, which YAML reads as two.
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False)
    return environment.from_string(text).render(
        experiment=EXPERIMENT, names=list(names), descriptions=list(descriptions), method=method,
        seed=seed, select=select, encoder=encoder, model=model, corpus=corpus.place,
        corpus_lock=corpus.lock, shape=shape, steps=steps_for(shape, quick), large=shape.large,
        rate=_rate(shape, rank, method), train=_train(shape, rank, method),
        batch=4 if shape.large else 16, asked_batch=16 if shape.large else 128,
        **{"extra": {}, "retain": "", **METHODS[method]},
    )  # fmt: skip


def _rate(shape: Shape, rank: int | None, method: str) -> str:
    """The method's learning rate, with the point without which YAML 1.1 reads a text."""
    rate = min(LORA_FACTOR * shape.rate, LORA_LIMIT) if rank else shape.rate
    return f"{rate * (1 if method == 'atu' else WITHOUT_PREDICTOR):.1e}"


def _train(shape: Shape, rank: int | None, method: str) -> str:
    """Which parameters are updated: adapters; or for ATU the layers below the hook, embeddings left
    alone, which tied models use as their output head.
    """
    if rank:
        return f"{{update: lora, rank: {rank}, alpha: {LORA_ALPHA * rank}}}"
    if method == "atu":
        return f"{{update: layers, layers: {list(range(shape.hook))}}}"
    return "{update: all}"
