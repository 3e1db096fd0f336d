"""Disruption masking with normalisation, around the losses of any gradient method: a part of MUDMAN
(Sondej et al. 2025, arXiv 2506.12484), and not MUDMAN.

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


def masked_gradients(forget: Sequence[Tensor], retain: Sequence[Tensor]) -> list[Tensor]:
    """The forget gradients with a 0 wherever the retain gradient has another sign, brought to norm
    1 over all parameters together; all 0 where nothing agrees.

    Forget (3, -1, 4), retain (1, 1, 2): (3, 0, 4) / 5 = (.6, 0, .8).
    """
    agreeing = [f * (f.sign() == r.sign()) for f, r in zip(forget, retain, strict=True)]
    norm = torch.stack([k.norm() for k in agreeing]).norm()
    return [k / norm.clamp(min=torch.finfo(k.dtype).tiny) for k in agreeing]


def masked_loss(forget: Tensor, retain: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """A scalar with the value `forget + retain` and another gradient: the masked, normalised forget
    gradient plus the retain gradient. `retain` is the weighted retain loss.
    """
    gradients = [
        torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        for loss in (forget, retain)
    ]
    filled = [
        [torch.zeros_like(p) if g is None else g for g, p in zip(of_loss, parameters, strict=True)]
        for of_loss in gradients
    ]
    masked = masked_gradients(*filled)
    surrogate = sum(
        ((m + r) * p).sum() for m, r, p in zip(masked, filled[1], parameters, strict=True)
    )
    assert isinstance(surrogate, Tensor)
    value = (forget + retain).detach()
    return surrogate - surrogate.detach() + value
