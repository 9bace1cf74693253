"""Muon (Jordan et al. 2024): momentum, then the update's singular values set to one by Newton-Schulz.

Matrices of one shape are orthogonalised together in float32, which is what a CPU without bf16 units is quick at
(`torch.optim.Muon` works in bf16, one matrix at a time).
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For the hidden matrices only; `lr` is scaled per matrix so that AdamW's learning rates fit (Liu et al. 2025)."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0, steps: int = 5
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[(parameter.shape[0], parameter.shape[1])].append(parameter)
            for (rows, columns), parameters in shapes.items():
                updates = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
                scale = 0.2 * max(rows, columns) ** 0.5
                for parameter, update in zip(parameters, orthogonalize(updates, group["steps"]), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        buffer: Tensor = state["momentum"]
        buffer.lerp_(parameter.grad, 1 - momentum)
        update: Tensor = parameter.grad.lerp(buffer, momentum)
        return update


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """[n, rows, columns] -> the same with singular values near one (between about 0.7 and 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    out: Tensor = x.mT if tall else x
    return out
