"""Measures on cached clips: the published window protocol and whole-clip offsets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from avsync.crops import CropChunk
from avsync.offsets import AudioTokens, TrackTokens
from avsync.protocol import HALF, clip_accuracy
from avsync.runtime import SyncModel
from avsync.token_streams import AudioTokenStream, VideoTokenStream
from avsync.training.augment import crop_centre
from avsync.training.data import COLUMNS_A_TICK, ClipFeatures
from avsync.training.encoder import SyncEncoder, has_bf16

__all__ = ["clip_late_columns", "clip_tokens", "score_rows", "shipped_tokens", "validate"]

FloatArray = npt.NDArray[np.float32]


@torch.no_grad()
def clip_tokens(
    model: SyncEncoder, clip: ClipFeatures, *, bf16: bool | None = None, phase: int = 0
) -> tuple[FloatArray, FloatArray, int]:
    """Tokens of a whole clip: video (T - 4, d), audio (N, d), and ``lag``.

    Audio token ``t + lag`` belongs to the same instant as video token ``t``. ``d`` is the local
    and the context part side by side, each a unit vector. ``phase`` (mel columns) delays the
    columns that the audio tokens are centred on.
    """
    device = next(model.parameters()).device
    crops = crop_centre(torch.from_numpy(clip.crops)).to(device).float()[None]
    begin = (clip.lead + 2 * COLUMNS_A_TICK + phase) % COLUMNS_A_TICK
    mel = torch.from_numpy(clip.mel[begin:].astype(np.float32))[None]
    mel = mel[:, : mel.shape[1] // COLUMNS_A_TICK * COLUMNS_A_TICK]
    half = has_bf16(device.type) if bf16 is None else bf16
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        video = torch.cat(model.video(crops), -1)[0]
        audio = torch.cat(model.audio(mel.to(device)), -1)[0]
    lag = (clip.lead + 2 * COLUMNS_A_TICK + phase - begin) // COLUMNS_A_TICK
    return video.float().cpu().numpy(), audio.float().cpu().numpy(), lag


def score_rows(video: FloatArray, audio: FloatArray, lag: int, half: int = HALF) -> FloatArray:
    """Scores (T, 2 half + 1): video token t with audio t + lag + s - half; NaN outside."""
    full = video @ audio.T
    index = np.arange(len(video))[:, None] + lag + np.arange(-half, half + 1)[None, :]
    inside = (index >= 0) & (index < full.shape[1])
    rows = np.take_along_axis(full, index.clip(0, full.shape[1] - 1), 1)
    return np.where(inside, rows, np.nan).astype(np.float32)


def clip_late_columns(rows: FloatArray) -> tuple[float, float]:
    """By how many mel columns (10 ms) the sound comes after the lips, and the peak's margin."""
    mean = np.nanmean(np.where(np.isfinite(rows), rows, np.nan), 0)
    counted = np.isfinite(rows).sum(0)
    mean = np.where(counted >= 0.4 * len(rows), mean, -1.0)
    best = int(mean.argmax())
    shift = float(best)
    if 0 < best < len(mean) - 1:
        a, b, c = mean[best - 1 : best + 2]
        shift += float(np.clip(0.5 * (a - c) / (a - 2 * b + c - 1e-9), -0.5, 0.5))
    far = np.delete(mean, range(max(0, best - 2), min(len(mean), best + 3)))
    return (shift - HALF) * COLUMNS_A_TICK, float(mean[best] - far.max())


def validate(model: SyncEncoder, clips: Sequence[ClipFeatures], *, local: int) -> dict[str, float]:
    """K = 5, 9, 15 protocol with local tokens; K = 5 and clip accuracy with all tokens."""
    model.eval()
    sums: dict[str, list[float]] = {}
    for clip in clips:
        video, audio, lag = clip_tokens(model, clip)
        own = clip_accuracy(score_rows(video[:, :local], audio[:, :local], lag))
        rows = score_rows(video, audio, lag)
        for k in (5, 9, 15):
            sums.setdefault(f"k{k}", []).append(own[k])
        sums.setdefault("wide5", []).append(clip_accuracy(rows)[5])
        late, margin = clip_late_columns(rows)
        sums.setdefault("clip40", []).append(float(abs(late) <= 4))
        sums.setdefault("abs_ms", []).append(abs(late) * 10)
        sums.setdefault("margin", []).append(margin)
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items()}


def shipped_tokens(model: SyncModel, clip: ClipFeatures) -> tuple[list[TrackTokens], AudioTokens]:
    """A cached clip through the product's own token streams; all its sound counts as speech."""
    n = len(clip.crops)
    nothing = np.zeros((2, n), np.float32)
    chunk = CropChunk(
        0, clip.first, clip.crops, clip.valid, np.zeros((n, 4), np.float32), clip.opening, *nothing
    )
    video = VideoTokenStream(model)
    tokens = np.concatenate([*video.push(chunk), *video.close()])
    valid = clip.valid.copy()
    valid[:2] = valid[-2:] = False
    audio = AudioTokenStream(model, clip.first * 4 - clip.lead)
    sound = np.concatenate([*audio.push(clip.mel.astype(np.float32)), *audio.close()])
    heard = np.ones(len(sound), np.float32)
    return [TrackTokens(0, clip.first, tokens, valid)], AudioTokens(
        audio.first, model.card.phases, sound, heard
    )
