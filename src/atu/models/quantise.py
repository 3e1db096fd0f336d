"""Quantised copies of a language model: does rounding its weights bring forgotten facts back?

Quantisation undoes unlearning that moves weights by less than a rounding step (arXiv 2410.16454).
Fake quantisation rounds weights to values of the quantised type but keeps their type, so it runs on
any device; only weights are rounded, never activations (unlike bitsandbytes' LLM.int8()). `nf4` and
`fp4` are bitsandbytes kernels and need CUDA.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from atu.errors import ConfigError
from atu.models.llm import decoder_layers, load_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FORMS = "int8, int4, int8_gN or int4_gN (groups of N inputs, as int4_g64), nf4_sim, nf4, fp4"
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The code values of 4-bit NormalFloat: QLoRA, arXiv 2305.14314, appendix E."""
NF4_BLOCK = 64
_INTEGER = re.compile(r"int([48])(?:_g([1-9]\d*))?")


@dataclass(frozen=True)
class Scheme:
    """How weights are quantised; from its name by `parse_scheme`."""

    name: str
    bits: Literal[4, 8]
    group: int | None
    """Inputs that share a scale; None: one scale per output channel."""
    codes: Literal["integer", "nf4", "fp4"]
    """Symmetric integers, or the values of a 4-bit float type."""
    needs_gpu: bool = False
    """Whether bitsandbytes quantises, while the model is loaded."""


def parse_scheme(name: str) -> Scheme:
    """The scheme of that name: one of `FORMS`.

    `int4_g64` has 4 bits and one scale per 64 inputs of an output channel; `nf4_sim` is `nf4`
    without CUDA.

    Raises:
        ValueError: no such scheme.
    """
    if name == "nf4_sim":
        return Scheme(name, 4, NF4_BLOCK, "nf4")
    if name == "nf4":
        return Scheme(name, 4, NF4_BLOCK, "nf4", needs_gpu=True)
    if name == "fp4":
        return Scheme(name, 4, NF4_BLOCK, "fp4", needs_gpu=True)
    match = _INTEGER.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no quantisation scheme: use {FORMS}")
    bits, group = match.groups()
    return Scheme(name, 4 if bits == "4" else 8, int(group) if group else None, "integer")


def fake_quantise(weight: Tensor, scheme: Scheme) -> Tensor:
    """The weight quantised and dequantised, in its type; the input is unchanged.

    Integers: round(w / scale) * scale with scale = max|w| / (2^(bits - 1) - 1) of the output
    channel, or of each group of `group` consecutive inputs (the last may be shorter); halves round
    to even. No weight moves by more than scale / 2, and zeros stay zero.

    `int4` of the row (7, -3.4, 0.6, 0.2): scale 7 / 7 = 1, so (7, -3, 1, 0). In groups of 2 the
    second group has scale 0.6 / 7 and (0.6, 0.2) becomes (7, 2) * 0.6 / 7 = (0.6, 0.171).

    `nf4_sim`: the nearest of the `NF4` values times max|w| of each block of 64 weights. Blocks
    continue across rows, as in bitsandbytes.

    Args:
        weight: [out, in], floating point.

    Raises:
        ValueError: not a matrix, or a scheme of bitsandbytes (`load_bitsandbytes`).
    """
    if scheme.needs_gpu:
        raise ValueError(f"{scheme.name} is not simulated: use nf4_sim or load with bitsandbytes")
    if weight.ndim != 2:
        raise ValueError(f"a weight of [out, in] is needed, not shape {tuple(weight.shape)}")
    # Half precision has too few digits for the quotient: in bfloat16 8-bit codes would be wrong.
    exact = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if scheme.codes == "nf4":
        rounded = _by_group(exact.reshape(1, -1), scheme.group, _round_nf4).reshape(exact.shape)
    else:
        rounded = _by_group(exact, scheme.group, lambda rows: _round_integer(rows, scheme.bits))
    return rounded.to(weight.dtype)


def _by_group(rows: Tensor, group: int | None, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """`rounding` of every group of inputs: [out, in] as [out, groups, group], and back."""
    out, width = rows.shape
    size = group or width
    # Zeros at the end change no group's largest weight.
    padded = functional.pad(rows, (0, -width % size))
    return rounding(padded.reshape(out, -1, size)).reshape(out, -1)[:, :width]


def _largest(groups: Tensor) -> Tensor:
    return groups.abs().amax(dim=-1, keepdim=True)


def _divisor(scale: Tensor) -> Tensor:
    """The scale, or 1 where a group is all zero: 0 / 1 stays 0."""
    return scale.masked_fill(scale == 0, 1.0)


def _round_integer(groups: Tensor, bits: int) -> Tensor:
    scale = _divisor(_largest(groups) / (2 ** (bits - 1) - 1))
    return torch.round(groups / scale) * scale


def _round_nf4(groups: Tensor) -> Tensor:
    codes = torch.tensor(NF4, dtype=groups.dtype, device=groups.device)
    scale = _divisor(_largest(groups))
    nearest = torch.bucketize(groups / scale, (codes[1:] + codes[:-1]) / 2)
    return codes[nearest] * scale


def quantised(model: PreTrainedModel, scheme: Scheme) -> PreTrainedModel:
    """A copy of the model with every linear weight of its decoder layers fake-quantised.

    Embeddings, norms, biases and the output head stay as they are, as bitsandbytes leaves them.
    The model itself is unchanged; the copy needs as much memory again.

    Raises:
        TypeError: the architecture is unknown.
        ValueError: it is a scheme of bitsandbytes.
    """
    from transformers.pytorch_utils import Conv1D

    result = copy.deepcopy(model)
    with torch.no_grad():
        for module in decoder_layers(result).modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(fake_quantise(module.weight, scheme))
            elif isinstance(module, Conv1D):
                # GPT-2 keeps its weights as [in, out].
                module.weight.copy_(fake_quantise(module.weight.T, scheme).T)
    return result


def require_gpu_scheme(scheme: Scheme) -> None:
    """Make sure that this machine can run the scheme; simulated ones run anywhere.

    Raises:
        ConfigError: CUDA or the package bitsandbytes is needed and missing.
    """
    if not scheme.needs_gpu:
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            "scheme", scheme.name, "needs a CUDA device: use nf4_sim, int4 or int8 on this machine"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("scheme", scheme.name, "run `pip install bitsandbytes`, or use nf4_sim")


def load_bitsandbytes(folder: Path, scheme: Scheme) -> PreTrainedModel:
    """The LM of a local folder (eval mode, on the CUDA device) with `nf4` or `fp4` weights, and its
    guard if it has one.

    Everything else, the guard included, stays in float32, as in `load_lm`, so that scores differ
    only by the quantisation.

    Raises:
        ConfigError: as `require_gpu_scheme`.
        ValueError: the scheme is simulated.
    """
    if not scheme.needs_gpu:
        raise ValueError(f"{scheme.name} is simulated: use `quantised`")
    require_gpu_scheme(scheme)
    from transformers import BitsAndBytesConfig

    codes = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=scheme.codes)
    model = load_weights(folder, torch.float32, quantization_config=codes, device_map={"": "cuda"})
    return model.eval()
