"""An encoder pair small enough for tests, and batches for it."""

from __future__ import annotations

import torch
from torch import Tensor

from avsync.training.encoder import EncoderConfig
from avsync.training.fit import MARGIN, SHIFTS

__all__ = ["TINY", "random_batch"]

TINY = EncoderConfig(
    video_channels=(4, 6, 8, 8), audio_channels=(4, 6, 8), dim=16, local_dim=8, context_dim=8
)


def random_batch(tokens: int, shifts: list[float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch as a sampler draws it, of noise, with these true shifts; all sound is there."""
    b, sounds = len(shifts), tokens + SHIFTS - 1
    crops = torch.randint(0, 255, (b, tokens + 4, 80, 112), dtype=torch.uint8)
    mel = torch.randn(b, (sounds + 2 * MARGIN) * 4, 80) - 4
    return crops, mel, torch.ones(b, sounds, dtype=torch.bool), torch.tensor(shifts)
