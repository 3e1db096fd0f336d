"""ROCR, rank-one concept redirection (Ye, Zhang and Wu 2025, "LLM Unlearning Should Be
Form-Independent", arXiv 2506.07795): the model is edited so that it mistakes the subject for
somebody else. Nothing is trained.

An MLP's output projection W is read as a memory that answers a key, its input at a name's last
token, with a value. The subject's key k is given the value v* that belongs to a substitute, by the
rank-one update of ROME (Meng et al. 2022, arXiv 2202.05262, equation 2)

    W' = W + (v* - W k) (C^-1 k)^T / (k^T C^-1 k)

which of all W' with W' k = v* changes the values of retain texts least: C is the second moment of
the keys at their tokens. A small model may know a person by every token of the name; `tokens` > 1
redirects as many, each by its own key, in one update under all their equations, which is EMMET's
(Gupta, Sajnani and Anumanchipalli 2024, arXiv 2403.14236).

Where this differs from the official code (Acruxos/ORT, llmtuner/train/rocr):
- the official code solves for the update in the null space of C, as AlphaEdit does (Fang et al.
  2024, arXiv 2410.02355), with a ridge, so that W' k is near v*, not equal. The null space is what
  lies below a threshold on C's eigenvalues, which depends on the model's scale;
- keys and values are means over the forget prompts, and over the same prompts with the substitute's
  name; there, keys are means over six instructions in the chat template, the value is the
  substitute's state in the first of them;
- `value: state` is the official value, of which every layer takes an equal share of what is left;
  `value: projection`, where each layer gives its own value, has no counterpart there;
- the substitute there is Donald Trump, for every target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from atu.errors import ConfigError
from atu.methods.base import Context, Method, Stage, done
from atu.models.llm import (
    decoder_layers,
    frozen,
    hidden_states,
    mlp_inputs,
    mlp_output,
    output_norm,
    weight_matrix,
)
from atu.seeding import generator, hash_fraction
from atu.training.batches import Batch, EncodedText, encode_text, in_batches, subject_positions
from atu.untrusted.bounds import STRICT, Bounds, Count, Positive
from atu.untrusted.names import has_name, replace_names


@dataclass(frozen=True)
class Settings:
    """Where the edit is made and whom the subject is taken for."""

    __pydantic_config__ = STRICT

    loss: Literal["rocr"]
    layers: list[Annotated[int, Bounds(ge=0)]]
    """Numbers of the decoder layers to edit, from 0, rising."""
    value: Literal["projection", "state"]
    """The value that is taken from the substitute: the projection's output for its key, or the
    output of the last edited layer at its name."""
    substitute: str | None
    """Whom the subject is taken for; null chooses somebody whom no forget text names."""
    tokens: Count
    """Tokens of a name that are redirected, from its last; 1 in the official code."""
    ridge: Positive
    """Added to C's diagonal, as a share of its mean."""
    texts: Count
    """At most this many retain texts to measure C on."""
    batch_size: Count
    """Texts per forward pass."""

    def __post_init__(self) -> None:
        if not self.layers or sorted(set(self.layers)) != self.layers:
            raise ValueError(f"layers = {self.layers}: list each layer to edit once, rising")


def redirecting_update(keys: Tensor, changes: Tensor, moment: Tensor) -> Tensor:
    """D = V (K^T C^-1 K)^-1 K^T C^-1, [out, in]: D K = V, and D x = 0 where x is C-orthogonal to
    every key (x^T C^-1 K = 0). For one key this is ROME's (v* - W k) (C^-1 k)^T / (k^T C^-1 k).

    Args:
        keys: K, one key per row, [n, in], linearly independent.
        changes: V, what each key's value changes by, v* - W k, [n, out].
        moment: C, [in, in], symmetric and positive definite.

    k = (1, 2), C = diag(1, 4), change 2: C^-1 k = (1, 1/2), k^T C^-1 k = 2, so D = (1, 1/2); times
    k this is 1 + 1 = 2.
    """
    directions = torch.linalg.solve(moment, keys.T)
    return changes.T @ torch.linalg.solve(keys @ directions, directions.T)


def regularised(moment: Tensor, ridge: float) -> Tensor:
    """C + ridge * mean(diag C) * I, [in, in]. diag(1, 3) at ridge 1/2: diag(2, 4)."""
    size = moment.shape[0]
    return moment + ridge * moment.trace() / size * torch.eye(size).to(moment)


@torch.no_grad()
def key_moment(context: Context, layer: int) -> Tensor:
    """C, [in, in] in float64: the mean of x x^T over all real tokens x of the retain texts."""
    settings, stream = context.settings, context.retain
    order = generator(context.seed, "unlearn", "rocr").permutation(len(stream.texts))
    total, count = torch.zeros((), dtype=torch.float64, device=context.device), 0
    for batch in _batches(context, [stream.texts[i] for i in order[: settings.texts]]):
        inputs = mlp_inputs(context.model, batch.input_ids, batch.attention_mask, layer)
        keys = inputs[batch.attention_mask.bool()].double()
        total, count = total + keys.T @ keys, count + len(keys)
    return total / count


@torch.no_grad()
def mean_at_names(
    context: Context, texts: Sequence[str], names: Sequence[str], read: Callable[[Batch], Tensor]
) -> Tensor:
    """Mean of `read`'s values ([batch, seq, size]) at each of the last `tokens` tokens of a name,
    over all occurrences, from the last token backwards: [tokens, size].

    A name with fewer tokens repeats its first.
    """
    encoded = [encode_text(context.tokenizer, text, "", end=False) for text in texts]
    positions = [
        [
            [span[-min(back, len(span))] for back in range(1, context.settings.tokens + 1)]
            for span in subject_positions(row.offsets, text, names)
        ]
        for row, text in zip(encoded, texts, strict=True)
    ]
    total = torch.zeros((), device=context.device)
    for batch in _batches(context, encoded):
        values = read(batch)
        for row, number in enumerate(batch.numbers):
            for span in positions[number]:
                total = total + values[row, span]
    return total / sum(map(len, positions))


def _batches(context: Context, texts: Sequence[EncodedText]) -> Iterator[Batch]:
    return in_batches(texts, context.settings.batch_size, context.retain.pad_id, context.device)


def choose_substitute(context: Context) -> str:
    """The substitute of the settings, or one, chosen by hash, whom retain texts but no forget text
    name.

    Raises:
        ConfigError: there is none.
    """
    if context.settings.substitute is not None:
        return str(context.settings.substitute)
    people = {
        corpus: {name for row in rows for name in row.get("names") or []}
        for corpus, rows in context.rows.items()
    }
    strangers = people["retain"] - people["forget"] - set(context.called)
    if not strangers:
        raise ConfigError("substitute", None, "the retain texts name no stranger; give a name")
    return min(strangers, key=lambda name: hash_fraction("rocr", str(context.seed), name))


@dataclass(frozen=True)
class Redirection:
    """Texts that hold a subject's name, and the same with the substitute's in its place."""

    context: Context
    names: list[str]
    """What the subject is called in the texts."""
    texts: list[str]
    swapped: list[str]
    substitute: str

    def means(self, read: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor]:
        """`mean_at_names` at the subject and at the substitute, [tokens, size] each."""
        context = self.context
        return (
            mean_at_names(context, self.texts, self.names, read),
            mean_at_names(context, self.swapped, [self.substitute], read),
        )


def make_redirection(context: Context) -> Redirection:
    """The forget prompts (texts where there is none) that hold a subject's name, and their copies.
    Names with fewer tokens than are redirected, such as a surname, give no key.

    Raises:
        ConfigError: no forget text holds a subject's name, or every name has too few tokens.
    """
    wanted = context.settings.tokens
    prompts = [row["prompt"] or row["text"] for row in context.rows["forget"]]
    fewest = fewest_tokens(context, prompts)
    if not fewest:
        raise ConfigError("loss", "rocr", f"no forget text holds {context.called}")
    names = [name for name, count in fewest.items() if count >= wanted]
    if not names:
        raise ConfigError("tokens", wanted, f"the name has only {max(fewest.values())}")
    texts = [text for text in prompts if has_name(text, names)]
    substitute = choose_substitute(context)
    swapped = [replace_names(text, context.called, substitute) for text in texts]
    return Redirection(context, names, texts, swapped, substitute)


def fewest_tokens(context: Context, texts: Sequence[str]) -> dict[str, int]:
    """For each of the subject's names in the texts, the tokens of its shortest occurrence."""
    offsets = [encode_text(context.tokenizer, text, "").offsets for text in texts]
    lengths = {
        name: [
            len(span)
            for text, places in zip(texts, offsets, strict=True)
            for span in subject_positions(places, text, [name])
        ]
        for name in context.called
    }
    return {name: min(counts) for name, counts in lengths.items() if counts}


@torch.no_grad()
def edit_layer(redirection: Redirection, layer: int, remaining: int) -> None:
    """Edit one layer's projection, in place.

    Args:
        remaining: layers to edit from here on, this one included; `value: state` divides by it.
    """
    context = redirection.context
    settings, model = context.settings, context.model

    def read_keys(batch: Batch) -> Tensor:
        return mlp_inputs(model, batch.input_ids, batch.attention_mask, layer)

    def read_states(batch: Batch) -> Tensor:
        last = settings.layers[-1] + 1
        return hidden_states(model, batch.input_ids, batch.attention_mask, last)

    matrix = weight_matrix(mlp_output(decoder_layers(model)[layer]))
    keys, others = redirection.means(read_keys)
    if settings.value == "projection":
        changes = (others - keys) @ matrix.T
    else:
        states, substitutes = redirection.means(read_states)
        changes = (substitutes - states) / remaining
    moment = regularised(key_moment(context, layer), settings.ridge)
    matrix += redirecting_update(keys.double(), changes.double(), moment).to(matrix)


def stages(context: Context) -> Iterator[Stage]:
    """Edit the layers from below, each in the model edited so far; one point.

    Raises:
        ConfigError: the model has no such layer, or `value: state` is given the last layer or a
            model with a norm between projection and state.
    """
    settings, count = context.settings, len(decoder_layers(context.model))
    limit = count - (settings.value == "state")
    if settings.layers[-1] >= limit:
        raise ConfigError("layers", settings.layers, f"are not all in 0..{limit - 1}")
    if settings.value == "state" and output_norm(decoder_layers(context.model)[0]) is not None:
        raise ConfigError(
            "value",
            settings.value,
            "this model norms what a projection puts out before it is added; use projection",
        )
    redirection = make_redirection(context)
    with frozen(context.model):
        for index, layer in enumerate(settings.layers):
            edit_layer(redirection, layer, len(settings.layers) - index)
    yield done("edit")


METHOD = Method(
    Settings,
    title="ROCR",
    does="edits matrices by low rank, so that another person’s value is returned",
    source="2506.07795",
    stages=stages,
    processes="first",
)
