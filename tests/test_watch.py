"""Hearing and seeing a file, one after the other or at the same time: the same outcome."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from avsync.errors import MediaReadError
from avsync.media import DecodeStats
from avsync.watch import hear_and_see

SOUND, SEEN = ("sound", 3.0), (["face"], [])


def until_enough(stats: DecodeStats, heard: Any) -> Any:
    """Watches until it is told that it is enough, for 10 s at most."""
    for _ in range(1000):
        if stats.enough:
            return [], []
        time.sleep(0.01)
    raise AssertionError("was not cut short")


@pytest.mark.parametrize("overlap", [False, True])
def test_both_and_what_they_met(overlap: bool) -> None:
    def hearing(stats: DecodeStats) -> Any:
        time.sleep(0.05)
        stats.warn("of both")
        stats.warn("of the sound")
        stats.audio_end_s, stats.bad_packets = 4.0, 2
        return SOUND

    def seeing(stats: DecodeStats, heard: Any) -> Any:
        assert heard == (None if overlap else SOUND)
        stats.warn("of the picture")
        stats.warn("of both")
        stats.video_end_s, stats.bad_packets = 5.0, stats.bad_packets + 1
        return SEEN

    stats = DecodeStats()
    assert hear_and_see(hearing, seeing, stats, overlap=overlap) == (SOUND, SEEN)
    assert stats.warnings == ["of both", "of the sound", "of the picture"]
    assert (stats.audio_end_s, stats.video_end_s, stats.bad_packets) == (4.0, 5.0, 3)


def test_at_the_same_time() -> None:
    met = threading.Barrier(2, timeout=10)

    def hearing(stats: DecodeStats) -> Any:
        met.wait()
        return SOUND

    def seeing(stats: DecodeStats, heard: Any) -> Any:
        met.wait()
        return SEEN

    assert hear_and_see(hearing, seeing, DecodeStats(), overlap=True) == (SOUND, SEEN)


@pytest.mark.parametrize("overlap", [False, True])
def test_where_nothing_is_heard_the_seeing_is_cut_short(overlap: bool) -> None:
    stats = DecodeStats()
    nothing = (None, 0.0)
    assert hear_and_see(lambda _: nothing, until_enough, stats, overlap=overlap) == (nothing, None)
    assert stats.video_end_s is None


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_what_is_wrong_with_the_sound_is_said_first(overlap: bool, both: bool) -> None:
    def hearing(stats: DecodeStats) -> Any:
        raise MediaReadError("no such sound")

    def seeing(stats: DecodeStats, heard: Any) -> Any:
        until_enough(stats, heard)
        if both:
            raise MediaReadError("no such picture")
        return SEEN

    with pytest.raises(MediaReadError, match="no such sound"):
        hear_and_see(hearing, seeing, DecodeStats(), overlap=overlap)


def test_what_is_wrong_with_the_picture_is_said() -> None:
    def seeing(stats: DecodeStats, heard: Any) -> Any:
        raise MediaReadError("no such picture")

    for overlap in (False, True):
        with pytest.raises(MediaReadError, match="no such picture"):
            hear_and_see(lambda _: SOUND, seeing, DecodeStats(), overlap=overlap)
