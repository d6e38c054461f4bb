"""How lips move for a row of phonemes: targets per sound, blended over time.

Each sound has a target for a few shape parameters and a strength for each; the course of a
parameter is the strength-weighted mean of the targets under a smooth window, which looks ahead
as far as it looks back (coarticulation, after the dominance functions of Cohen & Massaro 1993).
Lip closures are then enforced over the closure heard in the sound: coarticulation never leaves
a /p/ open. Sizes are in units of the distance between the outer corners of the eyes (about
90 mm in adults); medians and ranges were set to those measured on recordings of real talkers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from .voice import Phoneme

__all__ = ["LEAD_S", "LipTrack", "lip_track"]

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LipTrack:
    """Shape of the mouth over time; every field float64 (n,), in eye distances unless stated.

    gap: opening between the lips at the middle. jaw: drop of the chin. half_width: middle to
    inner corner. round: protrusion, 0–1. tuck: lower lip under the upper teeth, 0–1. press:
    lips pressed together, 0–1. tongue: tip of the tongue up, 0–1.
    """

    gap: Doubles
    jaw: Doubles
    half_width: Doubles
    round: Doubles
    tuck: Doubles
    press: Doubles
    tongue: Doubles

    def at(self, index: int) -> dict[str, float]:
        """The parameters of one moment by name."""
        return {field.name: float(getattr(self, field.name)[index]) for field in fields(self)}


# (gap, jaw, spread, round, tuck, tongue) and strengths of (gap, jaw, spread, round).
# gap and jaw in eye distances; spread −1 narrow … +1 wide.
_Target = tuple[tuple[float, float, float, float, float, float], tuple[float, float, float, float]]

_REST: _Target = ((0.004, 0.0, 0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.8, 0.6))
_TARGETS: dict[str, _Target] = {}


def _add(
    symbols: str,
    shape: tuple[float, float, float, float, float, float],
    strength: tuple[float, float, float, float],
) -> None:
    for symbol in symbols.split():
        _TARGETS[symbol] = (shape, strength)


# Consonants.
_add("p b m ɓ ɸ β", (0.0, 0.015, 0.0, 0.0, 0.0, 0.0), (2.0, 1.0, 0.3, 0.2))
_add("f v ɱ ʋ", (0.022, 0.015, 0.1, 0.0, 1.0, 0.0), (4.0, 1.6, 0.5, 0.3))
_add("w ʍ ɥ", (0.040, 0.035, -1.0, 1.0, 0.0, 0.0), (3.0, 1.2, 2.5, 3.0))
_add("ɹ r ɻ ʁ ʀ", (0.065, 0.040, -0.45, 0.45, 0.0, 0.3), (1.2, 0.8, 1.0, 1.0))
_add("ʃ ʒ ɕ ʑ ʂ ʐ", (0.080, 0.015, -0.5, 0.65, 0.0, 0.0), (2.5, 2.5, 1.6, 2.0))
_add("s z", (0.060, 0.012, 0.35, 0.0, 0.0, 0.0), (2.2, 2.5, 0.8, 0.4))
_add("t d n ɾ ɲ", (0.065, 0.030, 0.1, 0.0, 0.0, 0.8), (1.0, 1.2, 0.3, 0.15))
_add("l ɫ ɭ", (0.085, 0.045, 0.1, 0.0, 0.0, 1.0), (1.0, 0.9, 0.3, 0.15))
_add("θ ð", (0.060, 0.035, 0.1, 0.0, 0.0, 1.0), (1.8, 1.5, 0.4, 0.3))
_add("k ɡ g ŋ x ɣ ç q χ c ɟ", (0.080, 0.045, 0.0, 0.0, 0.0, 0.0), (0.5, 0.6, 0.15, 0.1))
_add("h ɦ ʔ ħ", (0.090, 0.050, 0.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.1, 0.1))
_add("j ʝ", (0.060, 0.025, 0.5, 0.0, 0.0, 0.2), (0.9, 0.9, 0.8, 0.5))
# Vowels.
_add("i", (0.065, 0.030, 0.80, 0.0, 0.0, 0.1), (1.0, 1.0, 1.0, 0.8))
_add("ɪ ᵻ ɨ", (0.080, 0.042, 0.40, 0.0, 0.0, 0.1), (0.8, 0.8, 0.7, 0.6))
_add("e", (0.095, 0.055, 0.55, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.8))
_add("ɛ", (0.125, 0.080, 0.40, 0.0, 0.0, 0.0), (1.0, 1.0, 0.9, 0.8))
_add("æ", (0.160, 0.110, 0.35, 0.0, 0.0, 0.0), (1.1, 1.1, 0.9, 0.8))
_add("a", (0.175, 0.125, 0.10, 0.0, 0.0, 0.0), (1.1, 1.1, 0.9, 0.8))
_add("ɑ", (0.170, 0.130, 0.0, 0.05, 0.0, 0.0), (1.1, 1.1, 0.9, 0.8))
_add("ʌ ɐ", (0.130, 0.090, 0.0, 0.0, 0.0, 0.0), (0.9, 0.9, 0.7, 0.7))
_add("ə ɚ", (0.090, 0.055, 0.0, 0.05, 0.0, 0.0), (0.6, 0.6, 0.4, 0.4))
_add("ɜ ɝ", (0.095, 0.055, -0.25, 0.30, 0.0, 0.0), (0.9, 0.9, 0.9, 0.9))
_add("ɔ ɒ", (0.150, 0.115, -0.50, 0.50, 0.0, 0.0), (1.0, 1.0, 1.2, 1.2))
_add("o", (0.095, 0.070, -0.80, 0.80, 0.0, 0.0), (1.0, 1.0, 1.4, 1.6))
_add("ʊ", (0.080, 0.050, -0.65, 0.65, 0.0, 0.0), (0.9, 0.9, 1.2, 1.4))
_add("u ɯ", (0.050, 0.035, -1.0, 1.0, 0.0, 0.0), (1.2, 1.0, 1.8, 2.2))
_add("y ʏ", (0.055, 0.035, -0.9, 0.95, 0.0, 0.1), (1.2, 1.0, 1.8, 2.2))
_add("ø", (0.085, 0.055, -0.7, 0.75, 0.0, 0.0), (1.0, 1.0, 1.4, 1.6))
_add("œ", (0.125, 0.085, -0.5, 0.55, 0.0, 0.0), (1.0, 1.0, 1.2, 1.2))

#: Lips are ahead of what they do to the sound: they meet before it has died away, the burst and
#: breath after their parting are still quiet, sound travels 3 ms a metre, and a frame shows what
#: happened after its time stamp, while the shutter was open. A measure: the mean course of the
#: sound's level (0.5–4 kHz) around each deep dip of the lips' opening (time stamps of frames).
#: In 46 recordings marked trusted_sync in ../shared/corpus (11 sources, 115 dips) its valley
#: comes 60 ± 14 ms after the dip; in those from LRS3 (41 dips) 50 ± 25 ms; in single sources 20
#: to 110 ms, the extremes with few dips. Drawn here with leads of 0, 30 and 40 ms: 0, 30 and
#: 40 ms. 40 was taken, after an early model trained on real people alone read a clip with 30 ms
#: as 12 ms off and one with 40 ms as 2 ms off: the model is no independent witness of this lead.
LEAD_S = 0.040

_BILABIAL = frozenset("pbmɓ")
_HALF_WIDTH = 0.245  # at rest
_WIDEN, _NARROW = 0.035, 0.075  # of full spread and full rounding
_STEP_S = 0.002
# Standard deviation of the blending window in seconds, by parameter.
_GAP_SD, _JAW_SD, _SPREAD_SD, _ROUND_SD, _FAST_SD = 0.030, 0.040, 0.052, 0.060, 0.022


def _target(symbol: str) -> _Target:
    return _TARGETS.get(symbol, _TARGETS["ə"])


def _segments(phonemes: Sequence[Phoneme]) -> list[tuple[float, float, _Target]]:
    """Stretches of one target: diphthongs and affricates are several."""
    out: list[tuple[float, float, _Target]] = []
    for phoneme in phonemes:
        parts = [c for c in phoneme.symbol if c in _TARGETS] or [phoneme.symbol]
        if not phoneme.symbol:
            out.append((phoneme.start_s, phoneme.end_s, _REST))
            continue
        edges = np.linspace(phoneme.start_s, phoneme.end_s, len(parts) + 1)
        out += [
            (float(a), float(b), _target(part))
            for a, b, part in zip(edges[:-1], edges[1:], parts, strict=True)
        ]
    return out


def _blend(values: Doubles, strengths: Doubles, sd_s: float) -> Doubles:
    """Strength-weighted mean under a Gaussian window."""
    reach = round(4 * sd_s / _STEP_S)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _STEP_S / sd_s) ** 2)

    def smooth(row: Doubles) -> Doubles:
        return np.convolve(np.pad(row, reach, mode="edge"), window, mode="valid")

    return smooth(values * strengths) / smooth(strengths)


def _ramp(x: Doubles) -> Doubles:
    x = np.clip(x, 0.0, 1.0)
    return x * x * x * (x * (6 * x - 15) + 10)  # minimum jerk


def _closure(time: Doubles, start: float, end: float, close_s: float, open_s: float) -> Doubles:
    """1 while the lips are shut, rising over ``close_s`` before and falling over ``open_s``."""
    return np.minimum(
        _ramp((time - (start - close_s)) / close_s), _ramp(((end + open_s) - time) / open_s)
    )


def lip_track(
    phonemes: Sequence[Phoneme],
    times_s: npt.ArrayLike,
    effort: float = 0.95,
    lead_s: float = LEAD_S,
) -> LipTrack:
    """Mouth shapes at ``times_s`` (seconds on the phonemes' clock, (n,)).

    ``effort`` scales the opening: 0.6 mumbles, 1.3 shouts. ``lead_s``: by how much the lips go
    ahead of the borders of the phonemes, see :data:`LEAD_S`.
    """
    times = np.asarray(times_s, dtype=np.float64) + lead_s
    segments = _segments(phonemes)
    last = max([end for _, end, _ in segments], default=0.0)
    first = min([start for start, _, _ in segments], default=0.0)
    low = min(float(times.min(initial=0.0)), first) - 0.5
    high = max(float(times.max(initial=0.0)), last) + 0.5
    clock = np.arange(low, high, _STEP_S)
    shape = np.tile(np.array(_REST[0])[:, None], (1, len(clock)))
    strength = np.tile(np.array(_REST[1])[:, None], (1, len(clock)))
    for start, end, (target, weights) in segments:
        span = slice(*np.searchsorted(clock, [start, end]).tolist())
        shape[:, span] = np.array(target)[:, None]
        strength[:, span] = np.array(weights)[:, None]
    gap = effort * _blend(shape[0], strength[0], _GAP_SD)
    jaw = effort * _blend(shape[1], strength[1], _JAW_SD)
    spread = _blend(shape[2], strength[2], _SPREAD_SD)
    rounding = _blend(shape[3], strength[3], _ROUND_SD)
    tuck = _blend(shape[4], np.ones_like(clock), _FAST_SD)
    tongue = _blend(shape[5], np.ones_like(clock), _FAST_SD)
    shut = np.zeros_like(clock)
    for phoneme in phonemes:
        if phoneme.symbol[:1] in _BILABIAL:
            middle = (phoneme.start_s + phoneme.end_s) / 2
            start = min(phoneme.start_s + 0.006, middle)
            end = max(phoneme.end_s - 0.004, middle)
            shut = np.maximum(shut, _closure(clock, start, end, 0.075, 0.060))
    gap = gap * (1 - shut)
    press = _blend((shut > 0.98).astype(np.float64), np.ones_like(clock), 0.015)
    tuck = np.clip(1.25 * tuck, 0, 1) * (1 - shut)
    gap = gap * (1 - tuck) + np.minimum(gap, 0.022) * tuck
    half = _HALF_WIDTH + _WIDEN * np.clip(spread, 0, 1) - _NARROW * np.clip(-spread, 0, 1)
    half = half - 0.10 * jaw

    def pick(row: Doubles) -> Doubles:
        return np.interp(times, clock, row)

    return LipTrack(
        pick(gap), pick(jaw), pick(half), pick(rounding), pick(tuck), pick(press), pick(tongue)
    )
