"""Crops and mels of nothing in particular, and their tokens by the streams in any pieces."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk
from avsync.runtime import SyncModel
from avsync.token_streams import AudioTokenStream, VideoTokenStream

__all__ = ["chunk", "random_crops", "random_mel", "stream_audio", "stream_video"]

Floats = npt.NDArray[np.float32]


def random_crops(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Blotches that move, (count, 80, 112) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 5, 7))
    return np.repeat(np.repeat(coarse, 16, 1), 16, 2).astype(np.uint8)


def chunk(crops: npt.NDArray[np.uint8], first: int = 0) -> CropChunk:
    n = len(crops)
    zeros = np.zeros(n, np.float32)
    return CropChunk(
        0, first, crops, np.ones(n, bool), np.zeros((n, 4), np.float32), zeros, zeros, zeros
    )


def random_mel(count: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(-5, 3, (count, 80)).astype(np.float32)


def stream_video(
    model: SyncModel, crops: npt.NDArray[np.uint8], sizes: list[int], block: int = 256
) -> Floats:
    stream = VideoTokenStream(model, block)
    out, at = [], 0
    for size in [*sizes, len(crops)]:
        if at < len(crops) and size:
            out += stream.push(chunk(crops[at : at + size], at))
            at += size
    return np.concatenate(out + stream.close())


def stream_audio(
    model: SyncModel, mel: Floats, first: int, sizes: list[int], block: int = 256
) -> tuple[int, Floats]:
    stream = AudioTokenStream(model, first, block)
    out, at = [], 0
    for size in [*sizes, len(mel)]:
        out += stream.push(mel[at : at + size])
        at += size
    out += stream.close()
    return stream.first, np.concatenate(out) if out else np.empty((0, model.card.dim), np.float32)
