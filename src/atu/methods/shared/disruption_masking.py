"""Disruption masking with normalisation, around the losses of any gradient method: a part of MUDMAN
(Sondej et al. 2025, arXiv 2506.12484). The whole of it is `methods/mudman.py`.

The forget gradient is kept only where its sign agrees with the retain gradient's, so that no step
of forgetting undoes what the retain set needs; what is left is scaled to norm 1, so that the size
of a step does not depend on the progress of forgetting.

What its authors' code (filyp/MUDMAN, unlearning.py) does otherwise:
- the forget gradient is that of an adversary, a copy that relearns the forget set on the way;
- its norm is taken before the mask, and brought to that of the first batch: the less agrees, the
  smaller their steps, while ours stay as long;
- the mask's signs are those of a running mean of retain gradients, not of this batch's;
- retain and forget steps are plain descent, each with a rate of its own; here one optimizer takes
  their sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def agreeing(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
    """The forget gradients with a 0 wherever the retain gradient has another sign.

    Forget (3, -1, 4), retain (1, 1, 2): (3, 0, 4).
    """
    return [f * (f.sign() == r.sign()) for f, r in zip(forget, retain, strict=True)]


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm over all parameters together; a scalar."""
    return torch.stack([g.norm() for g in gradients]).norm()


def masked_gradients(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
    """What agrees, brought to norm 1 over all parameters together; all 0 where nothing does.

    Forget (3, -1, 4), retain (1, 1, 2): (3, 0, 4) / 5 = (.6, 0, .8).
    """
    kept = agreeing(forget, retain)
    norm = total_norm(kept)
    return [k / norm.clamp(min=torch.finfo(k.dtype).tiny) for k in kept]


def with_gradient(
    value: Tensor, gradients: Sequence[Tensor], parameters: Sequence[nn.Parameter]
) -> Tensor:
    """A scalar with this value and these gradients by the parameters."""
    surrogate = torch.stack([(g * p).sum() for g, p in zip(gradients, parameters, strict=True)])
    return surrogate.sum() - surrogate.sum().detach() + value


def masked_loss(forget: Tensor, retain: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """A scalar with the value `forget + retain` and another gradient: the masked, normalised forget
    gradient plus the retain gradient. `retain` is the weighted retain loss.
    """
    forgets, retains = (
        gradients_of(loss, parameters, keep_graph=True) for loss in (forget, retain)
    )
    masked = masked_gradients(forgets, retains)
    step = [m + r for m, r in zip(masked, retains, strict=True)]
    return with_gradient((forget + retain).detach(), step, parameters)


def gradients_of(
    loss: Tensor, parameters: Sequence[nn.Parameter], keep_graph: bool = False
) -> list[Tensor]:
    """The gradient of the loss by each parameter; 0 where the loss does not depend on it."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=keep_graph)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
