"""Embedding-corrupted prompts (ECO), Liu, Wang, Flanigan and Liu 2024, arXiv 2406.07933: a
classifier decides whether a prompt is about the target; noise on the token embeddings of those
prompts keeps the model from answering. The weights do not change.

Where this differs from the paper and its published code:
- The classifier is a logistic regression on how often each token occurs, not a fine-tuned RoBERTa:
  it needs no second model, and its tokens are the model's own.
- It decides at every token from the tokens so far, and noise goes on all tokens from the first
  positive decision on, generated ones included (`models/guards/embedding_noise.py`). The paper
  decides once per prompt and corrupts only the prompt, or the names that a second classifier sees
  in it. But a scored text, or generation without a cache, does not show where the prompt ends, and
  with a decision on the whole text the answer would influence it.
- The noise is one vector per token id, on all dimensions, times `sigma` standard deviations of the
  embedding table; the paper draws it anew per call and learns its strength by zeroth-order
  optimisation towards an estimate of the retrained model's score. Here `sigma` is a setting.
- `threshold` is a setting; the paper calibrates it, by conformal prediction among other ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atu.methods.base import Context, Method, Stage, done
from atu.models.chat import prompt_ids
from atu.models.guards.embedding_noise import EmbeddingNoise
from atu.seeding import child_seed
from atu.training.batches import right_padded
from atu.untrusted.bounds import STRICT, Bounds, NonNegative

RIDGE = 1e-5
"""Penalty on the sum of the squared weights."""
ITERATIONS = 200


@dataclass(frozen=True)
class Settings:
    """The strength of the noise and when a text is taken to be about the target."""

    __pydantic_config__ = STRICT
    loss: Literal["eco"]
    sigma: NonNegative
    """Standard deviation of the noise, in those of the entries of the embedding table."""
    threshold: Annotated[float, Bounds(gt=0, lt=1)]
    """Probability from which on."""


def fit_classifier(
    forget: Sequence[Sequence[int]], retain: Sequence[Sequence[int]], vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Weights [vocab] and bias of the logistic regression, with equal weight on both classes.

    A forget text is one example; of a retain text every prefix is one, because a text is classified
    at each of its tokens.
    """
    parts = [_padded(rows) for rows in (forget, retain)]
    weight = torch.zeros(vocab_size, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        (forget_ids, forget_mask), (retain_ids, retain_mask) = parts
        whole = bias + (weight[forget_ids] * forget_mask).sum(dim=1)
        prefix = bias + (weight[retain_ids] * retain_mask).cumsum(dim=1)
        error = F.softplus(-whole).mean() + F.softplus(prefix)[retain_mask.bool()].mean()
        value = error + RIDGE * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    ids, mask = right_padded(rows, 0)
    return ids, mask.double()


def make_guard(context: Context) -> EmbeddingNoise:
    """The trained classifier with its noise; measures the share of each corpus that it flags."""
    settings = context.settings
    texts = {name: _prompts(context, name) for name in ("forget", "retain")}
    table = cast(nn.Embedding, context.model.get_input_embeddings()).weight
    weight, bias = fit_classifier(texts["forget"], texts["retain"], table.shape[0])
    guard = EmbeddingNoise(
        {
            "vocab_size": table.shape[0],
            "hidden_size": table.shape[1],
            "seed": child_seed(context.seed, "unlearn", "noise"),
            "scale": settings.sigma * table.std().item(),
            "threshold": settings.threshold,
        }
    )
    guard.load_state_dict({"weight": weight, "bias": bias})
    limit = torch.logit(torch.tensor(settings.threshold, dtype=torch.float64))
    for name, rows in texts.items():
        ids, mask = right_padded(rows, 0)
        flagged = (guard.score(ids, mask) > limit).any(dim=1)
        context.measured[f"flagged_{name}"] = flagged.double().mean().item()
    return guard


def _prompts(context: Context, name: str) -> list[list[int]]:
    """Token ids of a corpus's prompts in the chat template; of the whole text without a prompt."""

    def ids_of(row: Mapping[str, Any]) -> list[int]:
        return prompt_ids(
            context.tokenizer, [row["prompt"] or row["text"]], templated=bool(row["prompt"])
        )[0]

    return [ids_of(row) for row in context.rows[name]]


def stages(context: Context) -> Iterator[Stage]:
    """Train the classifier and attach the guard."""
    make_guard(context).attach(context.model)
    yield done("noise")


METHOD = Method(
    Settings,
    title="ECO",
    does="puts noise on the embeddings of prompts that a classifier flags",
    source="2406.07933",
    stages=stages,
    keeps_weights=True,
    processes="first",
)
