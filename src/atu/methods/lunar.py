"""LUNAR: unlearning by redirecting activations, Shen et al. 2025, arXiv 2502.07218 (NeurIPS 2025),
the section on activation redirection.

One matrix is trained, the MLP output projection W of one decoder layer. At that layer's output,
forget prompts are to move by c r and retain texts to stay, where r points from the activations of
the forget prompts to those of prompts that nobody can answer:

    r = mean h(unanswerable prompts) - mean h(forget prompts), at a prompt's last token
    L = E_f ||h'(t) - (h(t) + c r)||^2 + alpha E_r ||h'(t) - h(t)||^2

The layer's output is a sum of which W x is one term, and only W changes: h' - h = W' x - W x. So
the loss is computed at W, for which the layers below run without gradients. (Gemma 2 and 3 norm W x
before they add it; there the loss is computed behind that norm.)

Where this differs from the official code (facebookresearch/LUNAR, run_lunar.py,
src/generate_directions.py, src/hook_for_unlearn.py, src/estimated_net_utils.py):
- unanswerable prompts are the forget prompts with an invented person's name in place of the
  subject's; the official code takes harmful or unverifiable questions, which make a chat model
  refuse. The models here have no refusal to redirect to. Only prompts that hold the name enter r;
- `alpha` weighs the retain part, and each text counts the same; the official code takes one mean
  over the tokens of both corpora, so that their sizes decide;
- retain texts count at every token, since some have no prompt; forget texts at those of the prompt,
  as there;
- activations are not cached, and the learning rate does not decay.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from atu.errors import ConfigError
from atu.methods.base import Context, Method, OptimizerSettings, Stage, stretches
from atu.models.llm import (
    decoder_layers,
    frozen,
    hidden_states,
    mlp_inputs,
    mlp_output,
    output_norm,
)
from atu.probes.prompts import INVENTED_NAMES
from atu.training.batches import IGNORE, Batch, encode_text, in_batches
from atu.training.losses import activation_error
from atu.untrusted.bounds import Bounds, Count, CountOrZero, Fraction, NonNegative
from atu.untrusted.names import has_name, replace_names


@dataclass(frozen=True)
class Settings(OptimizerSettings):
    """LUNAR chooses what is updated and has a retain part, so neither is a setting."""

    loss: Literal["lunar"]
    layer: CountOrZero
    """Number of the decoder layer whose projection is trained; not the last one."""
    coefficient: Annotated[float, Bounds()]
    """How many times r forget prompts are to move; 2 in the official code."""
    alpha: NonNegative
    """Weight of the retain part."""
    names: list[str]
    """People who do not exist; empty takes a list of invented ones."""
    evaluations: Count
    """Points of the trajectory, spread evenly over the steps."""
    stop_below: Fraction | None
    """Stop after a trajectory point at which at most this share of the plain `select` questions is
    still answered; null runs all steps."""


def redirection_loss(
    output: Tensor, original: Tensor, shift: Tensor | float, mask: Tensor
) -> Tensor:
    """Squared distance per entry to the original output moved by `shift`, averaged over a text's
    unmasked tokens, then over texts; a scalar.

    Args:
        output, original: what the trained and the untouched projection give, [batch, seq, hidden].
        shift: c r, [hidden]; 0 for retain texts.
        mask: [batch, seq], 0 where a token does not count.

    Output (3, 1) and original (1, 1) under the shift (1, 2): (1^2 + 2^2) / 2 = 2.5.
    """
    return activation_error(output, original + shift, mask)


def mean_last_state(context: Context, prompts: Sequence[str], layer: int) -> Tensor:
    """Mean hidden states `layer` at the last token of these prompts, [hidden]."""
    texts = [encode_text(context.tokenizer, prompt, "", end=False) for prompt in prompts]
    total = torch.zeros((), device=context.device)
    for batch in in_batches(
        texts, context.settings.batch_size, context.forget.pad_id, context.device
    ):
        states = hidden_states(context.model, batch.input_ids, batch.attention_mask, layer)
        last = batch.attention_mask.sum(dim=1) - 1
        total = total + states[torch.arange(len(last), device=last.device), last].sum(dim=0)
    return total / len(texts)


@torch.no_grad()
def ignorance_direction(context: Context) -> Tensor:
    """r, [hidden]: from the forget prompts that hold a subject's name to the same prompts about
    people who do not exist; the invented names take turns.

    Raises:
        ConfigError: an invented name is in the corpora, or no prompt holds a subject's name.
    """
    names = context.settings.names or list(INVENTED_NAMES)
    known = {n for rows in context.rows.values() for row in rows for n in row.get("names") or []}
    if not known.isdisjoint(names):
        raise ConfigError("names", sorted(known.intersection(names)), "these people exist")
    prompts = [
        row["prompt"] for row in context.rows["forget"] if has_name(row["prompt"], context.called)
    ]
    if not prompts:
        raise ConfigError("loss", "lunar", f"no forget prompt holds {context.called}")
    unanswerable = [
        replace_names(prompt, context.called, names[i % len(names)])
        for i, prompt in enumerate(prompts)
    ]
    layer = context.settings.layer + 1
    with frozen(context.model):
        return mean_last_state(context, unanswerable, layer) - mean_last_state(
            context, prompts, layer
        )


def projected(
    context: Context, batch: Batch, projection: nn.Module, original: nn.Module
) -> tuple[Tensor, Tensor]:
    """What the trained and the untouched projection add to the residual stream of a batch, [batch,
    seq, hidden] each.
    """
    number = context.settings.layer
    residual = output_norm(decoder_layers(context.model)[number]) or nn.Identity()
    with torch.no_grad():
        inputs = mlp_inputs(context.model, batch.input_ids, batch.attention_mask, number)
        before = residual(original(inputs))
    return residual(projection(inputs)), before


def check(context: Context) -> None:
    """The trained layer must not be the last.

    Raises:
        ConfigError: the model has no such layer, or it is the last one.
    """
    layer, last = context.settings.layer, len(decoder_layers(context.model)) - 1
    if layer >= last:
        raise ConfigError("layer", layer, f"is not in 0..{last - 1}")


def stages(context: Context) -> Iterator[Stage]:
    """Training of the one projection in `evaluations` equal stretches."""
    settings = context.settings
    projection = mlp_output(decoder_layers(context.model)[settings.layer])
    original = copy.deepcopy(projection)
    shift = settings.coefficient * ignorance_direction(context)

    def loss() -> tuple[Tensor, dict[str, float]]:
        forget_batch, retain_batch = next(context.forget), next(context.retain)
        prompts = forget_batch.attention_mask * (forget_batch.labels == IGNORE)
        forget = redirection_loss(
            *projected(context, forget_batch, projection, original), shift, prompts
        )
        retain = redirection_loss(
            *projected(context, retain_batch, projection, original),
            0.0,
            retain_batch.attention_mask,
        )
        parts = {"forget": forget.item(), "retain": retain.item()}
        return forget + settings.alpha * retain, parts

    weight = projection.weight
    assert isinstance(weight, nn.Parameter)
    yield from stretches(settings, [weight], loss)


METHOD = Method(
    Settings,
    title="LUNAR",
    does="moves hidden states to where those of unknown people are, by one down-projection",
    source="2502.07218",
    stages=stages,
    check=check,
    prompted=True,
)
