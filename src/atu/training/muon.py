"""Muon in float32 on a CPU, with matrices of one shape in one batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TOGETHER = 2**20
"""Numbers in the matrices that are iterated at once: few enough that their copies are small."""


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024) with its options and state, but in float32 on a CPU.

    torch's iterates in bfloat16 on every device. That is an order of magnitude slower on a CPU
    without bf16 units, and no faster on one with them for matrices this small.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; returns the value of `closure`, if there is one."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for same in by_shape.values():
                size = max(1, TOGETHER // same[0].numel())
                for start in range(0, len(same), size):
                    self._move(group, same[start : start + size])
        return value

    def _momentum(self, group: dict[str, Any], parameter: nn.Parameter) -> Tensor:
        """The momentum of the gradients so far, with `nesterov` one step ahead."""
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
    """Newton-Schulz iteration towards the orthogonal factor U V^T of each matrix U S V^T: singular
    values x, first scaled to at most 1, become a x + b x^3 + c x^5, `steps` times.

    Args:
        matrices: [n, rows, columns].

    Returns:
        [n, rows, columns]; float32 on a CPU, else bfloat16, as in torch.
    """
    a, b, c = coefficients
    result = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    tall = matrices.shape[1] > matrices.shape[2]
    if tall:
        result = result.mT
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = result @ result.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        result = torch.baddbmm(result, polynomial, result, beta=a)
    return result.mT if tall else result
