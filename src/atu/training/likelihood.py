"""The negative log-likelihood of scored tokens: the loss that trains every model.

Labels follow the Hugging Face convention: they have the shape of `input_ids`, hold `IGNORE` where a
token is not scored, and are shifted here, once. (The reference implementation shifts them in the
data set and again in the model, so that its GA and NPO train the token after next.)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from atu.distributed import processes
from atu.training.batches import IGNORE


def sequence_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood of each sequence, and its number of scored tokens.

    Args:
        logits: [batch, seq, vocab].
        labels: [batch, seq], `IGNORE` where not scored. Position t is predicted from t-1.

    Returns:
        NLL in nats [batch] and token counts [batch].

    With a uniform distribution over 4 tokens and 3 scored tokens the NLL is 3 ln 4 = 4.1589.
    """
    shifted = labels[:, 1:]
    scored = shifted != IGNORE
    # Only for scored tokens, which are few in questions with answers.
    each = F.cross_entropy(logits[:, :-1][scored], shifted[scored], reduction="none")
    nll = logits.new_zeros(scored.shape).masked_scatter(scored, each)
    return nll.sum(dim=1), scored.sum(dim=1)


def mean_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean NLL per scored token over the whole batch, in nats; a scalar."""
    nll, count = sequence_nll(logits, labels)
    return processes.mean(nll.sum(), count.sum())
