"""Short files in which little is said: what is looked at, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avsync.detector import SyncDetector
from avsync.media import DecodeStats, probe
from avsync.result import Status
from avsync.speech import SpeechGate
from avsync.whole import _frames, _spoken

CHUNK_S = 512 / 16_000


def gate_of(*spoken: tuple[float, float], length_s: float, start_s: float = 0.0) -> SpeechGate:
    """A gate that found speech from … to … (s)."""
    gate = SpeechGate(start_s)
    times = start_s + CHUNK_S * (np.arange(round(length_s / CHUNK_S)) + 0.5)
    found = [any(a <= t < b for a, b in spoken) for t in times.tolist()]
    gate._found = [0.9 if f else 0.1 for f in found]
    return gate


def write_thrice(source: Path, out: Path, *, keys: bool) -> float:
    """The sample's picture three times in a row, its sound with the second; returns its length.

    Without ``keys`` only the film's first frame can be seeked to.
    """
    with av.open(str(source)) as film, av.open(str(out), "w") as made:
        streams = [film.streams.video[0], film.streams.audio[0]]
        twins = [made.add_stream_from_template(s) for s in streams]
        kept = [[p for p in film.demux(s) if p.size] for s in streams if not film.seek(0)]
        length = max(float((p.pts + p.duration) * p.time_base) for p in kept[0])
        packets = []
        for part in range(3):
            for number in range(1 + (part == 1)):
                for packet in kept[number]:
                    copy = av.Packet(bytes(packet))
                    late = round(part * length / packet.time_base)
                    copy.pts, copy.dts = packet.pts + late, packet.dts + late
                    copy.time_base, copy.duration = packet.time_base, packet.duration
                    copy.is_keyframe = packet.is_keyframe and (number == 1 or keys or not packets)
                    copy.stream = twins[number]
                    packets.append(copy)
        made.mux(sorted(packets, key=lambda p: float(p.dts * p.time_base)))
    return length


@pytest.fixture(scope="module")
def detector() -> SyncDetector:
    return SyncDetector(provider="cpu", threads=1)


class TestSpans:
    def test_speech_is_widened_and_joined(self) -> None:
        gate = gate_of((3, 4), (6, 7), (20, 21), length_s=30)
        spans = gate.spans(1.0, 0.5)
        assert np.allclose(spans, [(2, 8), (19, 22)], atol=2 * CHUNK_S)
        assert np.allclose(gate.spans(1.0, 20), [(2, 22)], atol=2 * CHUNK_S)
        assert gate_of(length_s=30).spans(1.0, 0.5) == []

    @pytest.mark.parametrize("start_s", [0.0, 100.0])
    def test_what_may_belong_to_speech_is_looked_at(self, start_s: float) -> None:
        info: Any = type("Info", (), {"start_s": start_s, "duration_s": 60.0})
        gate = gate_of(
            (start_s + 1, start_s + 5), (start_s + 40, start_s + 45), length_s=60, start_s=start_s
        )
        spans = np.array(_spoken(gate, info, 600.0)) - start_s
        assert np.allclose(spans, [(0, 6.92), (38.08, 46.92)], atol=2 * CHUNK_S)
        far = np.array(_spoken(gate, info, 4000.0)) - start_s
        assert np.allclose(far, [(0, 10.32), (34.68, 50.32)], atol=2 * CHUNK_S)

    def test_sound_beyond_the_declared_end_counts(self) -> None:
        info: Any = type("Info", (), {"start_s": 0.0, "duration_s": 30.0})
        spans = _spoken(gate_of((5, 8), (50, 54), length_s=60), info, 600.0)
        assert np.allclose(spans, [(3.08, 9.92), (48.08, 55.92)], atol=2 * CHUNK_S)

    def test_all_is_looked_at_where_that_saves_little_or_nobody_speaks(self) -> None:
        info: Any = type("Info", (), {"start_s": 0.0, "duration_s": 60.0})
        assert _spoken(gate_of(length_s=60), info, 600.0) == []
        pauses = gate_of((2, 28), (36, 57), length_s=60)
        assert _spoken(pauses, info, 600.0) == []
        info.duration_s = None
        assert _spoken(gate_of((2, 3), length_s=60), info, 600.0) == []


@pytest.mark.parametrize("keys", [True, False])
def test_frames_of_stretches_are_the_files_own(root: Path, tmp_path: Path, keys: bool) -> None:
    film = tmp_path / "film.mkv"
    write_thrice(root / "examples/talk.mp4", film, keys=keys)
    spans = [(1.02, 2.02), (9.02, 10.5), (19.02, 20.02)]
    times = [f.time_s for f in _frames(film, spans, DecodeStats())]
    wanted = [t / 25 for t in range(600) if any(a <= t / 25 <= b for a, b in spans)]
    assert times == pytest.approx(wanted)


def test_the_picture_is_watched_where_something_is_said(
    root: Path, tmp_path: Path, detector: SyncDetector
) -> None:
    """The answer is that of the whole; ``exhaustive`` looks at all of it."""
    film = tmp_path / "film.mkv"
    length = write_thrice(root / "examples/talk.mp4", film, keys=True)
    part = detector.score(film)
    assert part.duration_s == pytest.approx(3 * length, abs=0.2)
    assert part.looked_at_s is not None
    assert length - 1 < part.looked_at_s < length + 4
    assert len(part.tracks) == 1
    detector.exhaustive = True
    whole = detector.score(film)
    detector.exhaustive = False
    assert whole.looked_at_s is None
    assert part.status is whole.status is Status.out_of_sync
    assert part.offset_ms == pytest.approx(whole.offset_ms, abs=5)
    assert part.segments[0].start_s == pytest.approx(whole.segments[0].start_s, abs=0.7)
    short = detector.score(root / "examples/talk.mp4")
    assert short.looked_at_s is None
    assert part.offset_ms == pytest.approx(short.offset_ms, abs=10)
    assert probe(film).duration_s == part.duration_s
