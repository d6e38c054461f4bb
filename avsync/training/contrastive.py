"""Contrastive loss over time: every video token against all shifts of the sound around it.

A shift ``s`` pairs video token ``t`` with audio token ``t + s``; positive ``s`` means that the
sound comes later than the lips (the opposite sign of ``offset_ms``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync.offsets import RIVAL_SHARPNESS

__all__ = [
    "MultiScaleShiftLoss",
    "NearLoss",
    "StrangerLoss",
    "rival_grid",
    "shift_grid",
    "soft_targets",
]

#: What lies no further (ticks) from the true place counts as right, as in the protocol.
NEAR = 1.25


def shift_grid(video: Tensor, audio: Tensor) -> Tensor:
    """Cosines (B, T, S) of video (B, T, d), audio (B, T + S - 1, d): index s pairs t, t + s."""
    return _by_shift(video @ audio.transpose(1, 2))


def _by_shift(pairs: Tensor) -> Tensor:
    """(B, T, N) of all pairs → (B, T, N - T + 1): index s is that of t and t + s."""
    tokens, sounds = pairs.shape[1:]
    first = torch.arange(tokens, device=pairs.device)[:, None]
    index = first + torch.arange(sounds - tokens + 1, device=pairs.device)
    return pairs.gather(2, index.expand(len(pairs), -1, -1))


def soft_targets(true_shift: Tensor, shifts: int) -> Tensor:
    """(B,) fractional shift index → (B, S) weights on the two neighbouring indices."""
    low = true_shift.floor().long().clamp(0, shifts - 2)
    high_weight = (true_shift - low).clamp(0, 1)
    out = torch.zeros(len(true_shift), shifts, device=true_shift.device)
    rows = torch.arange(len(true_shift), device=true_shift.device)
    out[rows, low] = 1 - high_weight
    out[rows, low + 1] = high_weight
    return out


def rival_grid(video: Tensor, audio: Tensor, *, sharpness: float = RIVAL_SHARPNESS) -> Tensor:
    """As :func:`shift_grid`, less how well each audio token fits the clip's video tokens at large.

    So a window must find its sound and a sound its window: subtracted is the soft maximum of the
    sound's cosines over all T video tokens (log of the mean of ``exp(sharpness · cosine)``).
    """
    cosines = video @ audio.transpose(1, 2)
    at_large = (sharpness * cosines).logsumexp(1) - math.log(video.shape[1])
    return _by_shift(cosines - at_large[:, None] / sharpness)


class MultiScaleShiftLoss(nn.Module):
    """Mean cross-entropy over the shifts for windows of several lengths, one temperature each.

    Args:
        scales: window lengths in tokens; the grid is averaged over each window before softmax.
    """

    def __init__(self, scales: tuple[int, ...] = (1, 5, 20)) -> None:
        super().__init__()
        self.scales = scales
        start = torch.tensor([10.0 * k**0.25 for k in scales])
        self.log_scale = nn.Parameter(start.log())

    def forward(self, grid: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """Loss of cosines ``grid`` (B, T, S), ``known`` (B, T, S) bool, ``target`` (B, S)."""
        weight = known.to(grid.dtype).transpose(1, 2)
        total = grid.new_zeros(())
        for i, k in enumerate(self.scales):
            share = F.avg_pool1d(weight, k, 1)
            mean = F.avg_pool1d(grid.transpose(1, 2) * weight, k, 1) / share.clamp_min(1e-6)
            logits = (mean * self.log_scale[i].exp()).masked_fill(share < 0.5, -30.0)
            nll = -(target.unsqueeze(-1) * logits.log_softmax(1)).sum(1)
            alive = (share * (target > 0).unsqueeze(-1)).sum(1) > 0.25
            total = total + (nll * alive).sum() / alive.sum().clamp_min(1)
        return total / len(self.scales)


class NearLoss(nn.Module):
    """Single tokens against all sounds of the clip, and sounds against all its tokens.

    Right is what lies within a frame (:data:`NEAR`), as the published protocol counts: neighbours
    share four of five frames, and to tell them apart is learned by longer windows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(12.0).log())

    def forward(self, video: Tensor, audio: Tensor, known: Tensor, true_shift: Tensor) -> Tensor:
        """Loss of unit tokens (B, T, d) and (B, N, d), ``known`` (B, N) bool, shifts (B,)."""
        scores = (video @ audio.transpose(1, 2)) * self.log_scale.exp()
        tokens, sounds = scores.shape[1:]
        place = torch.arange(tokens, device=scores.device)[:, None] + true_shift[:, None, None]
        right = (torch.arange(sounds, device=scores.device) - place).abs() <= NEAR
        right = right & known[:, None]
        scores = scores.masked_fill(~known[:, None], -30.0)
        hits = scores.masked_fill(~right, -1e4)
        total = scores.new_zeros(())
        for dim in (1, 2):
            alive = right.any(dim)
            missed = scores.logsumexp(dim) - hits.logsumexp(dim)
            total = total + (missed * alive).sum() / alive.sum().clamp_min(1)
        return total / 2


class StrangerLoss(nn.Module):
    """Whether a window's sound is its own at all: at the true shift, against other clips' sounds.

    What is judged is how far a shift stands above the window's mean over all shifts, as at run
    time: of the own sound at the true shift, of a stranger's at whichever shift is highest.

    Args:
        scales: window lengths in tokens. strangers: how many other clips' sounds each gets.
    """

    def __init__(self, scales: tuple[int, ...] = (15, 30), strangers: int = 3) -> None:
        super().__init__()
        self.scales, self.strangers = scales, strangers
        self.log_scale = nn.Parameter(torch.full((len(scales),), math.log(15.0)))
        self.threshold = nn.Parameter(torch.full((len(scales),), 0.2))

    def forward(self, video: Tensor, audio: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """Loss of tokens (B, T, d), (B, N, d), ``known`` (B, N) bool, ``target`` (B, S)."""
        shifts = known.unfold(1, target.shape[1], 1)
        own = self._above(shift_grid(video, audio), shifts)
        total = video.new_zeros(())
        for i, (high, all_known) in enumerate(own):
            true = (high * target[:, None]).sum(-1)
            total = total + self._judge(i, true, all_known, right=True)
        turns = torch.randperm(len(video) - 1)[: self.strangers] + 1
        for turn in turns.tolist():
            other, there = audio.roll(turn, 0), shifts.roll(turn, 0)
            for i, (high, all_known) in enumerate(self._above(shift_grid(video, other), there)):
                best = high.amax(-1)
                total = total + self._judge(i, best, all_known, right=False) / len(turns)
        return total / len(self.scales)

    def _above(self, grid: Tensor, known: Tensor) -> list[tuple[Tensor, Tensor]]:
        """By scale: windows' scores (B, W, S) less their mean, and whether all was known (B, W)."""
        out = []
        for k in self.scales:
            mean = F.avg_pool1d(grid.transpose(1, 2), k, 1).transpose(1, 2)
            share = F.avg_pool1d(known.to(grid.dtype).transpose(1, 2), k, 1)
            out.append((mean - mean.mean(-1, keepdim=True), share.amin(1) > 0.99))
        return out

    def _judge(self, i: int, high: Tensor, counts: Tensor, *, right: bool) -> Tensor:
        logit = (high - self.threshold[i]) * self.log_scale[i].exp()
        missed = F.softplus(-logit if right else logit)
        return (missed * counts).sum() / counts.sum().clamp_min(1)
