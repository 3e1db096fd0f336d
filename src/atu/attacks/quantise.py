"""Quantisation: forgetting that rounding the weights undoes, arXiv 2410.16454."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from atu.attacks.base import Attack, AttackContext, Column, Result, answer_items
from atu.models.quantise import load_bitsandbytes, parse_scheme, quantised, require_gpu_scheme
from atu.untrusted.bounds import STRICT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FULL = "full precision"


@dataclass(frozen=True)
class Settings:
    """The schemes to try: `int8`, `int4`, `int4_g64`, `nf4_sim`, ..."""

    __pydantic_config__ = STRICT

    attack: Literal["quantise"]
    schemes: list[str]

    def __post_init__(self) -> None:
        for name in self.schemes:
            parse_scheme(name)


def run(context: AttackContext) -> Result:
    """Answers about the target and its neighbours in full precision and under every scheme."""
    probes = context.questions("target", "neighbour")
    for name in context.settings.schemes:
        require_gpu_scheme(parse_scheme(name))
    items = answer_items(context, context.model, probes, FULL)
    for name in context.settings.schemes:
        items += answer_items(context, quantised_model(context, name), probes, name)
    return Result(items)


def quantised_model(context: AttackContext, name: str) -> PreTrainedModel:
    """A copy of the model under one scheme; bitsandbytes' own load the folder again.

    Raises:
        ConfigError: the scheme needs a GPU that is not there.
    """
    scheme = parse_scheme(name)
    if not scheme.needs_gpu:
        return quantised(context.model, scheme)
    assert context.folder is not None
    return load_bitsandbytes(context.folder, scheme)


def columns(settings: Settings) -> list[Column]:
    """Every scheme."""
    return [Column(f"quantised, {name}", (name,)) for name in settings.schemes]


ATTACK = Attack(Settings, run, columns, exact_weights=True, noun="quantisation")
