"""What fusion networks are worth on clips known to be in sync, beside the cosines alone.

Windows of K frames (K - 4 video tokens) against all 31 shifts, right within one frame, mean over
windows of a clip and then over clips, as in :mod:`avsync.protocol`; and one's own sound against a
stranger's, as the area under the ROC curve of the best shift's score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from avsync.protocol import FRAME_COUNTS, HALF, clip_accuracy
from avsync.training.encoder import SyncEncoder, shipped
from avsync.training.fusion import FusionNetwork, audio_span
from avsync.training.token_cache import TokenClip

__all__ = ["area_under_roc", "cosine_rows", "evaluate", "stranger", "window_scores"]

FloatArray = npt.NDArray[np.float32]
SHIFTS = 2 * HALF + 1
PAIRS = 512
RUNTIME_TICKS = 15


@torch.no_grad()
def window_scores(
    network: FusionNetwork, clip: TokenClip, starts: Sequence[int], ticks: int
) -> tuple[FloatArray, FloatArray]:
    """Logits and prior cosines, both (N, 31), of windows from video tokens ``starts``.

    NaN where the sound is not all there.
    """
    device = next(network.parameters()).device
    logits = np.full((len(starts), SHIFTS), np.nan, np.float32)
    cosines = logits.copy()
    span = audio_span(ticks)
    places = []
    for n, start in enumerate(starts):
        for s in range(SHIFTS):
            first = 2 * (start + s + 1) - 1
            if clip.known[first : first + span].all():
                places.append((n, s, start, first))
    for i in range(0, len(places), PAIRS):
        part = places[i : i + PAIRS]
        video = np.stack([clip.video[start : start + ticks] for _, _, start, _ in part])
        audio = np.stack([clip.audio[first : first + span] for *_, first in part])
        v = torch.from_numpy(video).float().to(device)
        a = torch.from_numpy(audio).float().to(device)
        rows, columns = [p[0] for p in part], [p[1] for p in part]
        logits[rows, columns] = network(v, a).logits.float().cpu().numpy()
        cosines[rows, columns] = network.cosine(v, a).mean(1).float().cpu().numpy()
    return logits, cosines


@torch.no_grad()
def cosine_rows(encoder: SyncEncoder, clip: TokenClip) -> FloatArray:
    """Scores (T, 31) of all tokens at whole ticks: what the shipped tokens' product is."""
    d = encoder.config.dim

    def shipping(tower: Any, tokens: npt.NDArray[Any], rests: npt.NDArray[Any]) -> Tensor:
        x, y = (torch.from_numpy(part[None, :, :d]).float() for part in (tokens, rests))
        return shipped(*tower.heads(x, y))[0]

    video = shipping(encoder.video, clip.video, clip.video)
    audio = shipping(encoder.audio, clip.audio[2::2], clip.rests[2::2])
    windows: Tensor = audio.unfold(0, SHIFTS, 1)[: len(video)]
    scores = torch.einsum("td,tds->ts", video, windows).numpy()
    known = np.lib.stride_tricks.sliding_window_view(clip.known[2::2], SHIFTS)[: len(scores)]
    return np.where(known, scores, np.nan).astype(np.float32)


def stranger(clip: TokenClip, other: TokenClip) -> TokenClip | None:
    """``clip`` with another's sound in place of its own; None when that is much shorter."""
    ticks = min(len(clip.video), len(other.video))
    if ticks < RUNTIME_TICKS:
        return None
    span = 2 * (ticks + SHIFTS + 1)
    around = None if other.around is None else other.around[:span]
    heard = other.audio[:span], other.known[:span]
    return TokenClip(clip.clip, clip.video[:ticks], *heard, HALF, around)


def area_under_roc(own: Sequence[float], false: Sequence[float]) -> float:
    """Chance that one of ``own`` exceeds one of ``false``; ties count half."""
    a, b = np.asarray(own)[:, None], np.asarray(false)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def _rescored(logits: FloatArray, cosines: FloatArray, best: int = 5) -> FloatArray:
    """Logits of the ``best`` shifts by cosine only."""
    filled = np.where(np.isfinite(cosines), cosines, -np.inf)
    limit = np.sort(filled, 1)[:, -best][:, None]
    return np.where(filled >= limit, logits, -np.inf).astype(np.float32)


def evaluate(
    network: FusionNetwork,
    clips: Sequence[TokenClip],
    *,
    encoder: SyncEncoder | None = None,
    frames: Sequence[int] = FRAME_COUNTS,
    stride: int = 1,
) -> dict[str, float]:
    """Shares and areas by name, over clips in sync.

    ``averaged_K``: scores of 5-frame windows averaged over neighbours (the published way; needs
    ``stride`` 1); ``joint_K``: one window of K frames scored as one; ``cosine_K``: the mean local
    cosine of the same windows; ``rescored_K``: the fusion among the cosines' best five shifts.
    ``auc_logit``, ``auc_cosine``: best shift of a window of the most frames, own sound against a
    stranger's. With ``encoder``, ``run_*``: windows of 15 ticks as the runtime has them, where
    ``run_context`` is what it uses, ``run_rescored`` the fusion among its best five shifts and
    ``run_mixed`` the sum of both scaled to unit spread; and ``auc_run_*``.

    Args:
        stride: 5-frame windows start at so many-th ticks; longer ones follow one another and
            only every so many-th is taken.
    """
    found: dict[str, list[float]] = {}
    areas: dict[str, tuple[list[float], list[float]]] = {}

    def note(name: str, scores: FloatArray) -> None:
        filled = np.where(np.isfinite(scores), scores, -np.inf)
        right = np.abs(filled.argmax(1) - HALF) <= 1
        found.setdefault(name, []).append(float(right.mean()))

    def best(name: str, side: int, scores: FloatArray) -> None:
        top = np.where(np.isfinite(scores), scores, -np.inf).max(1)
        areas.setdefault(name, ([], []))[side].extend(top[np.isfinite(top)].tolist())

    for i, clip in enumerate(clips):
        other = stranger(clip, clips[i - 1])
        for count in frames:
            ticks = count - 4
            starts = _starts(clip, ticks, stride)
            if not starts:
                continue
            logits, cosines = window_scores(network, clip, starts, ticks)
            if ticks == 1 and stride == 1:
                for k, value in clip_accuracy(logits).items():
                    found.setdefault(f"averaged_{k}", []).append(value)
            note(f"joint_{count}", logits)
            note(f"cosine_{count}", cosines)
            note(f"rescored_{count}", _rescored(logits, cosines))
            if count == max(frames) and other is not None:
                false = window_scores(network, other, _starts(other, ticks, stride), ticks)
                for name, own, strange in zip(
                    ("logit", "cosine"), (logits, cosines), false, strict=True
                ):
                    best(name, 0, own)
                    best(name, 1, strange)
        if encoder is not None:
            for side, film in enumerate((clip, other)):
                starts = [] if film is None else _starts(film, RUNTIME_TICKS, stride)
                if film is None or not starts:
                    continue
                logits, cosines = window_scores(network, film, starts, RUNTIME_TICKS)
                rows = cosine_rows(encoder, film)
                means = np.stack([rows[s : s + RUNTIME_TICKS].mean(0) for s in starts])
                mixed = _unit(means) + _unit(logits)
                if side == 0:
                    note("run_logit", logits)
                    note("run_cosine", cosines)
                    note("run_context", means)
                    note("run_mixed", mixed)
                    note("run_rescored", _rescored(logits, means))
                best("run_logit", side, logits)
                best("run_context", side, means)
    out = {name: float(np.mean(values)) for name, values in found.items()}
    for name, (own_best, false_best) in areas.items():
        if own_best and false_best:
            out[f"auc_{name}"] = area_under_roc(own_best, false_best)
    return {name: round(value, 4) for name, value in out.items()}


def _starts(clip: TokenClip, ticks: int, stride: int) -> list[int]:
    return list(range(0, len(clip.video) - ticks + 1, ticks * stride))


def _unit(scores: FloatArray) -> FloatArray:
    middle, spread = np.nanmean(scores, 1, keepdims=True), np.nanstd(scores, 1, keepdims=True)
    return np.asarray((scores - middle) / np.maximum(spread, 1e-6), np.float32)
