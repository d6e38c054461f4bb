"""Muon: each weight matrix moves by its orthogonalised momentum, all else as Adam moves it.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), scaled as by Liu et al. 2025
(arXiv 2502.16982) so that learning rates of AdamW fit. torch's own ``Muon`` knows matrices only and
always orthogonalises in bfloat16, which a processor without it emulates, 15 times slower.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "orthogonal"]

#: Coefficients of the quintic iteration, and how often it is done.
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
#: Root of the mean square of AdamW's usual updates.
USUAL_UPDATE = 0.2


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the orthogonal factor of (m, n): same directions, singular values 0.7 to 1.2."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For weights of two and more dimensions, the first one against all others; Adam for the rest.

    Args:
        weight_decay: of the former only, decoupled.
        momentum: of the former. betas: Adam's, for the rest.
        bf16: orthogonalise in bfloat16, where the device computes it.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        bf16: bool = False,
    ) -> None:
        self.kind = torch.bfloat16 if bf16 else torch.float32
        common = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas}
        super().__init__(params, common)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.dim() >= 2:
                    self._turn(p, group)
                else:
                    self._adam(p, group)

    def _turn(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["mean"] = torch.zeros_like(p)
        mean: Tensor = state["mean"].lerp_(p.grad, 1 - group["momentum"])
        update = p.grad.lerp(mean, group["momentum"]).flatten(1)  # Nesterov's
        scale = USUAL_UPDATE * max(update.shape) ** 0.5
        turned = orthogonal(update.to(self.kind)).to(p.dtype).view(p.shape)
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(turned, alpha=-group["lr"] * scale)

    def _adam(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state.update(mean=torch.zeros_like(p), square=torch.zeros_like(p), done=0)
        state["done"] += 1
        first, second = group["betas"]
        mean: Tensor = state["mean"].lerp_(p.grad, 1 - first)
        square: Tensor = state["square"].lerp_(p.grad.square(), 1 - second)
        size = (square / (1 - second ** state["done"])).sqrt_().add_(1e-8)
        p.addcdiv_(mean, size, value=-group["lr"] / (1 - first ** state["done"]))
