"""Muon in the precision that the machine computes fast, matrices of one shape at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TOGETHER = 2**20
"""Numbers in the matrices that are iterated at once: few enough that their copies are small."""


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024) with its options and its state, but float32 on a CPU.

    torch's iterates in bfloat16 everywhere. A CPU without units for it is then slower by an order
    of magnitude, and one that has them gains nothing on matrices this small.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; gives what `closure`, if there is one, gives."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(parameter.shape), []).append(parameter)
            for same in alike.values():
                size = max(1, TOGETHER // same[0].numel())
                for start in range(0, len(same), size):
                    self._move(group, same[start : start + size])
        return value

    def _momentum(self, group: dict[str, Any], parameter: nn.Parameter) -> Tensor:
        """What the gradients so far say, the last one a second time with `nesterov`."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        moving = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(moving, group["momentum"]) if group["nesterov"] else moving

    def _move(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        """Step matrices of one shape."""
        directions = orthogonalised(
            torch.stack([self._momentum(group, parameter) for parameter in parameters]),
            group["ns_coefficients"],
            group["ns_steps"],
            group["eps"],
        )
        rate = group["lr"]
        for parameter, direction in zip(parameters, directions, strict=True):
            rows, columns = parameter.shape
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(direction, alpha=-rate * math.sqrt(max(1, rows / columns)))


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Newton-Schulz towards the nearest orthogonal matrix U V^T of each U S V^T: singular values
    x become a x + b x^3 + c x^5, `steps` times, after they have been scaled to at most 1.

    Args:
        matrices: [n, rows, columns].

    Returns:
        [n, rows, columns]; float32 of matrices on a CPU, else bfloat16, as torch has it.
    """
    a, b, c = coefficients
    found = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = matrices.shape[1] > matrices.shape[2]
    if tall:
        found = found.mT
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.baddbmm(found, polynomial, found, beta=a)
    return found.mT if tall else found
