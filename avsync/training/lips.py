"""The shape of the lips, that tokens of pictures are asked for while they are trained.

A face mesh has seen far more faces than this corpus has; what it says of the lips of a clip (see
:mod:`avsync.training.rerender`) helps an encoder to see the same on faces that are new. Shapes are
distances between points of the lips, alike for a mirrored face, against the width of the mouth.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from avsync.training.data import ClipFeatures
from avsync.training.rerender import INNER, OUTER, POINTS

__all__ = ["SHAPES", "LipShapeLoss", "lip_shapes", "load_shapes", "moving", "unknown"]

FloatArray = npt.NDArray[Any]

#: Pairs of face-mesh points, left and right where there are two; the mean of both counts.
PAIRS = (
    ((13, 14),),
    ((82, 87), (312, 317)),
    ((81, 178), (311, 402)),
    ((80, 88), (310, 318)),
    ((191, 95), (415, 324)),
    ((78, 308),),
    ((61, 291),),
    ((0, 17),),
    ((37, 84), (267, 314)),
    ((40, 91), (270, 321)),
    ((0, 13),),
    ((14, 17),),
    ((61, 13), (291, 13)),
    ((61, 14), (291, 14)),
    ((61, 0), (291, 0)),
    ((61, 17), (291, 17)),
)
#: Numbers a token is asked for: each distance, and its change over the token's five frames.
SHAPES = 2 * len(PAIRS)
#: Share of a clip's ticks that must have a mesh.
MESHED = 0.9


def lip_shapes(points: npt.NDArray[np.float32]) -> FloatArray | None:
    """(T, len(POINTS), 2) of a clip → (T, len(PAIRS)) float32; None where few have a mesh."""
    known = np.isfinite(points).all((1, 2))
    if known.mean() < MESHED:
        return None
    at = {name: i for i, name in enumerate(POINTS) if name in (*INNER, *OUTER)}
    out = np.stack(
        [
            np.mean(
                [np.linalg.norm(points[:, at[a]] - points[:, at[b]], axis=-1) for a, b in pair], 0
            )
            for pair in PAIRS
        ],
        1,
    )
    width = np.median(out[known, PAIRS.index(((61, 291),))])
    shapes: FloatArray = (out / max(width, 1e-3)).astype(np.float32)
    return shapes


def load_shapes(folder: Path, clips: Iterable[ClipFeatures]) -> dict[str, FloatArray]:
    """Shapes by clip, of those meshed in ``folder`` over the very ticks that ``clips`` have."""
    found: dict[str, FloatArray] = {}
    for clip in clips:
        file = folder / f"{clip.clip}.npz"
        if not file.exists():
            continue
        with np.load(file) as z:
            if int(z["first"]) != clip.first or len(z["points"]) != len(clip.crops):
                continue
            shapes = lip_shapes(z["points"].astype(np.float32))
        if shapes is not None:
            found[clip.clip] = shapes
    return found


def moving(shapes: FloatArray) -> FloatArray:
    """(T + 4, …) shapes by frame → (T, SHAPES) by token: the middle frame's, and the change."""
    out: FloatArray = np.concatenate([shapes[2:-2], shapes[4:] - shapes[:-4]], 1)
    return out


def unknown(tokens: int) -> FloatArray:
    """What stands for the shapes of a clip without a mesh."""
    return np.full((tokens, SHAPES), np.nan, np.float32)


class LipShapeLoss(nn.Module):
    """How far a linear map of tokens (B, T, dim) misses shapes (B, T, SHAPES), NaN left out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, SHAPES)
        #: Of shapes, followed as they come.
        self.register_buffer("mean", torch.zeros(SHAPES))
        self.register_buffer("spread", torch.ones(SHAPES) * 0.1)
        self.mean: Tensor
        self.spread: Tensor

    def forward(self, tokens: Tensor, shapes: Tensor) -> Tensor:
        """Mean over what is known of the smooth distance, in the shapes' usual spreads."""
        known = torch.isfinite(shapes).all(-1)
        if not known.any():
            return tokens.sum() * 0
        wanted = shapes[known]
        with torch.no_grad():
            self.mean.lerp_(wanted.mean(0), 0.1)
            self.spread.lerp_((wanted - self.mean).square().mean(0).sqrt() + 1e-3, 0.1)
        return F.smooth_l1_loss(self.head(tokens[known]), (wanted - self.mean) / self.spread)
