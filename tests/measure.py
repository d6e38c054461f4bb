"""Where the flashes and clicks of an event video lie, as :mod:`avsync.media` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avsync import media

__all__ = ["click_near", "errors_ms", "flash_times"]

HALF_WINDOW_S = 0.25
SMOOTH = 33  # samples, 2 ms at 16 kHz: the envelope of a 2.5-kHz burst


def flash_times(path: Path, **options: Any) -> list[float]:
    """The time stamps of the white frames."""
    return [f.pts_seconds for f in media.iter_frames(path, **options) if f.image.mean() > 150]


def click_near(sound: media.AudioPiece, instant: float) -> float:
    """The time (s) at which the envelope peaks within 0.25 s of ``instant``."""
    rate = sound.sample_rate
    lo = max(0, round((instant - HALF_WINDOW_S - sound.start_s) * rate))
    hi = round((instant + HALF_WINDOW_S - sound.start_s) * rate)
    envelope = np.convolve(np.abs(sound.samples[lo:hi]), np.ones(SMOOTH) / SMOOTH, "same")
    assert envelope.max() > 0.03, f"no click near {instant:.3f} s"
    return sound.start_s + (lo + int(envelope.argmax())) / rate


def errors_ms(path: Path, flashes: list[float] | None = None, **options: Any) -> list[float]:
    """Click minus flash, in ms, for each flash (positive: the sound is late)."""
    flashes = flash_times(path) if flashes is None else flashes
    sound = media.read_audio(path, **options)
    return [1000 * (click_near(sound, t) - t) for t in flashes]
