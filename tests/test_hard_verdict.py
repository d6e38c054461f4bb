"""How much must stand out before an offset is claimed, and where."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic_tokens import CALIBRATION, Speaker, hear, look

from avsync.estimates import estimate
from avsync.offsets import gather
from avsync.result import SyncResult, Tolerance
from avsync.verdict import RUN_CLARITY, TrackSight, _needed_clarity, judge


def verdict(ticks: int, spoken: int, *, seed: int) -> tuple[SyncResult, float]:
    """A face that speaks for ``spoken`` ticks and shows a stranger's words after; and its clarity.

    All through, the sound is the speaker's, 80 ms late.
    """
    voice = Speaker(ticks / 25, seed)
    own = look(voice, ticks, noise=1.4)
    other = look(Speaker(ticks / 25, seed + 50), ticks, noise=1.4)
    tokens = np.concatenate([own.tokens[:spoken], other.tokens[spoken:]])
    face, sound = replace(own, tokens=tokens), hear(voice, ticks, 80.0, noise=1.4)
    tolerance = Tolerance.parse("ebu")
    common = {"path": "a", "model": "m", "tolerance": tolerance, "max_offset_ms": 600.0}
    result = judge(
        [face],
        [TrackSight(0, 0.0, ticks / 25, 99.0, (0.0, 0.0, 9.0, 9.0), 0.1, ticks / 25)],
        sound,
        calibration=CALIBRATION,
        max_offset_ms=600,
        tolerance=tolerance,
        common=common,
    )
    evidence = gather([face], sound, max_offset_ms=600)
    return result, estimate(evidence, CALIBRATION).features["clarity"]


@pytest.mark.parametrize(
    ("windows", "shifts", "least"),
    [
        (3, 63, 5.3),
        (6, 63, 6.0),
        (100, 63, 6.0),
        (100, 503, 9.48),
        (3, 503, 12.95),
        (3, 13, 3.57),
        (6, 31, 5.03),
    ],
)
def test_clarity_that_is_needed(windows: int, shifts: int, least: float) -> None:
    assert _needed_clarity(windows, shifts) == pytest.approx(least, abs=0.01)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_speaker_seen_for_a_part_only_is_judged_there(seed: int) -> None:
    result, whole = verdict(4000, 300, seed=seed)
    assert whole < RUN_CLARITY
    assert result.offset_ms == pytest.approx(-80, abs=10)
    (segment,) = result.segments
    assert segment.start_s == 0
    assert segment.end_s == pytest.approx(12, abs=2.5)  # of 160 s


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_few_words_in_a_long_file_are_not_enough(seed: int) -> None:
    assert verdict(4000, 60, seed=seed)[0].offset_ms is None
