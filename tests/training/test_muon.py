"""Muon: orthogonal updates for matrices and kernels, Adam's for the rest, and resuming."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from avsync.training.muon import Muon, orthogonal  # noqa: E402


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    turned = orthogonal(matrix)
    values = torch.linalg.svdvals(turned)
    assert float(values.min()) > 0.3
    assert float(values.max()) < 1.3
    # the same directions: the product with the input is nearly symmetric and positive
    product = turned.T @ matrix if shape[0] > shape[1] else turned @ matrix.T
    assert float((product - product.T).abs().max()) < 0.15 * float(product.abs().max())
    assert float(torch.linalg.eigvalsh((product + product.T) / 2).min()) > 0


def test_a_kernel_moves_as_far_as_adamw_would_move_it() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(16, 8, 3, 3))
    before = kernel.detach().clone()
    kernel.grad = torch.randn_like(kernel)
    Muon([kernel], lr=1e-3).step()
    moved = float((kernel.detach() - before).square().mean().sqrt())
    assert moved == pytest.approx(0.2e-3, rel=0.3)


def test_vectors_move_as_by_adam() -> None:
    torch.manual_seed(0)
    mine, theirs = nn.Parameter(torch.randn(9)), nn.Parameter(torch.zeros(9))
    theirs.data.copy_(mine.data)
    ours = Muon([mine], lr=1e-2)
    adam = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.98))
    for seed in range(5):
        torch.manual_seed(seed)
        mine.grad = torch.randn(9)
        theirs.grad = mine.grad.clone()
        ours.step()
        adam.step()
    torch.testing.assert_close(mine, theirs)


def test_learns_and_resumes() -> None:
    torch.manual_seed(0)
    truth, x = torch.randn(6, 4), torch.randn(200, 6)
    model = nn.Linear(6, 4)
    optimiser = Muon(model.parameters(), lr=0.1)

    def loss() -> torch.Tensor:
        return (model(x) - x @ truth).square().mean()

    def go(steps: int) -> float:
        for _ in range(steps):
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()
        return float(loss().detach())

    first = float(loss().detach())
    assert go(60) < 0.2 * first
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimiser.state_dict())
    later = go(5)
    model.load_state_dict(weights)
    optimiser = Muon(model.parameters(), lr=0.1)
    optimiser.load_state_dict(state)
    assert go(5) == later
