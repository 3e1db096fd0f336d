"""`atu speed`: the cost of an experiment's steps on this machine, and its utilisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from atu.errors import ConfigError
from atu.resources.bound import encoder_dimension, model_config
from atu.resources.machine import aligned, size
from atu.resources.shape import shape_of
from atu.resources.speed import Setup, Speed, measure_alignment, measure_unlearning

if TYPE_CHECKING:
    from atu.config.params import Params


def make_setup(params: Params, name: str, length: int) -> Setup:
    """The first model's shape with the experiment's highest hook layer and its predictor."""
    config = model_config(params, name)
    predictor = params.align.predictor(shape_of(config).hidden, encoder_dimension(params))
    return Setup(config, max(params.align.hook_layers), predictor, 1, length, params.compute)


def measured(params: Params, name: str, length: int, steps: int) -> Iterator[Speed]:
    """Alignment, then every method of the grid whose loss is ATU's, at its settings.

    Raises:
        ConfigError: the grid has no such method.
    """
    setup = make_setup(params, name, length)
    chosen = {
        key: settings
        for key, settings in params.unlearn.methods.items()
        if key in params.grid.methods and settings.loss == "atu"
    }
    if not chosen:
        raise ConfigError("grid.methods", params.grid.methods, "none has the loss atu; add one")
    texts = max(1, params.align.batch_tokens // length)
    yield from measure_alignment(replace(setup, texts=texts), steps)
    for key, settings in chosen.items():
        # Texts are random: no name is in them, and no answer.
        everywhere = replace(
            settings,
            positions="all",
            width=0,
            concept=1.0,
            answers=0.0,
            stranger=0.0,
            visits=False,
            restored=0.0,
        )
        yield measure_unlearning(key, replace(setup, texts=settings.batch_size), everywhere, steps)


def speed_table(speeds: Sequence[Speed], peak_flops: float | None) -> str:
    """One line per kind of step; with `peak_flops` per second also the share that is used."""
    rows = [("step", "tokens", "seconds", "tokens/s", "model TFLOP/s", "of the peak", "memory")]
    for speed in speeds:
        share = "" if peak_flops is None else f"{100 * speed.utilisation(peak_flops):.1f} %"
        rows.append(
            (
                speed.name,
                str(speed.tokens),
                f"{speed.seconds:.3f}",
                f"{speed.tokens_per_second:.0f}",
                f"{speed.flops / speed.seconds / 1e12:.3g}",
                share,
                "" if speed.peak is None else size(speed.peak),
            )
        )
    return "\n".join(aligned(rows)) + "\n"
