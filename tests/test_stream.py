"""Live input: what is remembered, what comes out when, and the same answer as a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import TINY
from token_streams import chunk, random_crops

from avsync import InvalidArrayError, InvalidOptionError, Status, StreamEstimate, SyncDetector
from avsync.crops import CropChunk
from avsync.grid import GridFrame
from avsync.media import iter_grid_frames, read_audio
from avsync.rings import FaceRing, SoundRing
from avsync.stream import LEAD_S

RATE = 16_000
onnx = pytest.importorskip("onnxruntime")


class CropTracker:
    """In the face tracker's place: the picture is the crop already, one face at most.

    A picture whose first pixel is blue has no face.
    """

    def __init__(self, **options: Any) -> None:
        self.number = -1
        self.ready: list[tuple[int, np.ndarray]] = []

    def push(self, frame: GridFrame) -> Iterator[CropChunk]:
        if frame.image[0, 0].tolist() == [0, 0, 255]:
            yield from self.end_tracks()
            return
        if not self.ready or frame.tick != self.ready[-1][0] + 1:
            yield from self.end_tracks()
            self.number += 1
        self.ready.append((frame.tick, frame.image[..., 0]))
        if len(self.ready) > 5:
            yield self._take(5, last=False)

    def end_tracks(self) -> Iterator[CropChunk]:
        if self.ready:
            yield self._take(len(self.ready), last=True)

    def close(self) -> Iterator[CropChunk]:
        yield from self.end_tracks()

    def _take(self, count: int, *, last: bool) -> CropChunk:
        part, self.ready = self.ready[:count], self.ready[count:]
        n = len(part)
        return CropChunk(
            self.number,
            part[0][0],
            np.stack([crop for _, crop in part]),
            np.ones(n, bool),
            np.tile(np.float32([0, 0, 112, 80]), (n, 1)),
            np.linspace(0, 1, n, dtype=np.float32),
            np.full(n, 88, np.float32),
            np.zeros(n, np.float32),
            last,
        )


@pytest.fixture
def crops_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsync.faces.FaceTracker", CropTracker)


@pytest.fixture(scope="module")
def tiny() -> SyncDetector:
    return SyncDetector(TINY, provider="cpu", threads=1)


def as_picture(crop: np.ndarray) -> np.ndarray:
    return np.repeat(crop[..., None], 3, 2)


class TestRings:
    def test_a_face_in_small_steps_is_the_face_at_once(self, tiny: SyncDetector) -> None:
        model = tiny.engine.model  # type: ignore[attr-defined]
        crops = random_crops(100)
        whole = FaceRing(model, chunk(crops, 40))
        last = chunk(crops, 40)
        whole.push(CropChunk(*(getattr(last, f) for f in CropChunk.__slots__[:-1]), last=True))
        ring = FaceRing(model, chunk(crops[:5], 40))
        for i in range(0, 100, 5):
            ages = (i + np.arange(5, dtype=np.float32)) / 10_000
            ring.push(replace(chunk(crops[i : i + 5], 40 + i), ages=ages))
        assert ring.encoded < 140 == whole.encoded  # the last ones wait for their context
        got, want = ring.track(), whole.track()
        np.testing.assert_allclose(got.tokens, want.tokens[: len(got.tokens)], atol=1e-5)
        assert not got.valid[:2].any()
        assert got.valid[2:].all()
        ring.forget(60)
        assert ring.first == 60
        np.testing.assert_allclose(ring.track().tokens, got.tokens[20:], atol=0)
        np.testing.assert_allclose(ring.track().ages, np.arange(20, len(got.tokens)) / 10_000)
        assert ring.sight().start_s == 60 / 25
        for i in range(100, 1000, 5):
            ring.push(chunk(crops[:5], 40 + i))
            ring.forget(40 + i - 50)
        assert len(ring.track().tokens) < 75

    def test_sound_in_small_steps_is_the_sound_at_once(self, tiny: SyncDetector) -> None:
        model = tiny.engine.model  # type: ignore[attr-defined]
        wave = np.random.default_rng(0).normal(0, 0.1, 6 * RATE).astype(np.float32)
        ring = SoundRing(model, 1.0)
        for i in range(0, len(wave), 700):
            ring.push(wave[i : i + 700])
        ring.close()
        want = tiny.embed_audio(wave, sample_rate=RATE, audio_start_s=1.0)
        assert (ring.first, ring.encoded) == (50, 7.0)
        np.testing.assert_allclose(ring.sound().tokens[::2], want.tokens, atol=1e-4)
        speech = ring.sound().speech
        ring.forget(100)
        assert ring.first == 200
        np.testing.assert_array_equal(ring.sound().speech, speech[150:])


def feed(stream: Any, seconds: float, *, start: float = 0.0, fps: float = 25.0) -> list[Any]:
    """Crops of nothing and noise, in the order of their times; the estimates that came."""
    rng = np.random.default_rng(1)
    crops = random_crops(20)
    found = []
    for n in range(round(seconds * fps)):
        pts = start + n / fps
        found.append(stream.push_video(as_picture(crops[n % 20]), pts))
        block = rng.normal(0, 0.1, round(RATE / fps)).astype(np.float32)
        found.append(stream.push_audio(block, pts))
    return [f for f in found if f is not None]


@pytest.mark.usefixtures("crops_only")
class TestFlow:
    def test_an_estimate_a_second_with_its_latency(self, tiny: SyncDetector) -> None:
        with tiny.stream(sample_rate=RATE) as stream:
            found = feed(stream, 12, start=100.0)
        heads = [f.time_s + f.latency_s for f in found]
        assert np.diff(heads) == pytest.approx(1.0, abs=0.05)
        assert len(found) >= 11
        assert all(0 <= f.latency_s < 1.6 for f in found[2:])
        assert found[-1].time_s > 110

    def test_memory_does_not_grow(self, tiny: SyncDetector) -> None:
        with tiny.stream(sample_rate=RATE, horizon_s=5) as stream:
            sizes = []
            for part in range(4):
                feed(stream, 20, start=20.0 * part)
                faces = sum(len(f.track().tokens) for f in stream._faces.values())
                sizes.append((faces, len(stream._sound.sound().tokens)))
        assert max(f for f, _ in sizes) <= (5 + LEAD_S + 2) * 25
        assert max(s for _, s in sizes) <= (5 + LEAD_S + 2) * 50
        assert sizes[1] == pytest.approx(sizes[3], abs=40)

    def test_nothing_has_come_yet(self, tiny: SyncDetector) -> None:
        with tiny.stream(sample_rate=RATE) as stream:
            assert stream.result().status is Status.no_video
            stream.push_video(as_picture(random_crops(1)[0]), 0.0)
            early = stream.result()
            assert (early.status, early.reason) == (Status.no_audio, "no sound has come yet")

    def test_one_medium_stops(self, tiny: SyncDetector) -> None:
        with tiny.stream(sample_rate=RATE) as stream:
            feed(stream, 5)
            crop = as_picture(random_crops(1)[0])
            found = [stream.push_video(crop, 5 + n / 25) for n in range(13 * 25)]
            last = [f for f in found if f is not None][-1]
            assert last.status is Status.no_audio
            assert "no sound has come for 1" in str(last.reason)

    def test_the_order_of_both_media_does_not_matter(self, tiny: SyncDetector) -> None:
        crops, wave = random_crops(200), np.random.default_rng(0).normal(0, 0.1, 8 * RATE)
        ends = []
        for first in ("video", "audio"):
            with tiny.stream(sample_rate=RATE) as stream:

                def picture(s: Any = stream) -> None:
                    for n, crop in enumerate(crops):
                        s.push_video(as_picture(crop), n / 25)

                def sound(s: Any = stream) -> None:
                    for i in range(0, len(wave), 1000):
                        s.push_audio(wave[i : i + 1000], i / RATE)

                for push in (picture, sound) if first == "video" else (sound, picture):
                    push()
                ends.append(stream.finish())
        assert ends[0].result.curve == ends[1].result.curve
        assert ends[0].status == ends[1].status
        assert ends[0].time_s == ends[1].time_s == pytest.approx(8.0, abs=0.05)

    def test_frames_that_run_backwards_are_left_out(self, tiny: SyncDetector) -> None:
        crop = as_picture(random_crops(1)[0])
        with tiny.stream(sample_rate=RATE) as stream:
            for pts in (0.0, 0.04, 0.02, 0.04, 0.08):
                stream.push_video(crop, pts)
            assert stream.result().dropped == 2

    def test_gaps_end_a_track_and_a_restart_begins_anew(self, tiny: SyncDetector) -> None:
        with tiny.stream(sample_rate=RATE) as stream:
            feed(stream, 4)
            feed(stream, 4, start=6.0)
            assert len(stream._faces) == 2
            assert stream.finish().result.tracks[1].start_s == pytest.approx(6.0, abs=0.05)
        with tiny.stream(sample_rate=RATE) as stream:
            feed(stream, 4, start=1000.0)
            found = feed(stream, 4, start=0.0)
            assert found[-1].time_s == pytest.approx(4, abs=1.7)
            assert [t.start_s for t in stream.result().result.tracks] == [0.0]

    def test_the_callers_buffer_may_be_used_again(self, tiny: SyncDetector) -> None:
        crops = random_crops(60)
        tokens = []
        for reuse in (False, True):
            buffer = np.zeros((80, 112, 3), np.uint8)
            with tiny.stream(sample_rate=RATE) as stream:
                for n, crop in enumerate(crops):
                    buffer = buffer if reuse else np.empty_like(buffer)
                    buffer[...] = as_picture(crop)
                    stream.push_video(buffer, n / 25)
                stream._end_picture()
                tokens.append(stream._faces[0].track().tokens)
        np.testing.assert_array_equal(*tokens)

    def test_what_makes_no_sense(self, tiny: SyncDetector) -> None:
        for options in ({"horizon_s": 2}, {"every_s": 0}, {"max_offset_ms": 5}):
            with pytest.raises(InvalidOptionError, match=next(iter(options))):
                tiny.stream(sample_rate=RATE, **options)  # type: ignore[arg-type]
        with pytest.raises(InvalidArrayError, match="sample_rate"):
            tiny.stream(sample_rate=0)
        with tiny.stream(sample_rate=RATE) as stream:
            with pytest.raises(InvalidArrayError, match="pts must be"):
                stream.push_video(as_picture(random_crops(1)[0]), float("nan"))
            with pytest.raises(InvalidArrayError, match="frame 1 is float64"):
                stream.push_video(np.zeros((8, 8, 3)), 0.0)
            with pytest.raises(InvalidArrayError, match="int64"):
                stream.push_audio(np.zeros(8, int), 0.0)
        with pytest.raises(InvalidOptionError, match="closed"):
            stream.push_video(as_picture(random_crops(1)[0]), 0.0)


@pytest.fixture(scope="module")
def talk(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """6 s: (150, 80, 112) crops and (96000,) samples, both from 0."""
    from avsync.faces import mouth_chunks

    path = root / "examples" / "talk.mp4"
    chunks = list(mouth_chunks(iter_grid_frames(path, end_s=6.3)))
    crops = np.concatenate([c.crops for c in chunks])[:150]
    sound = read_audio(path)
    lead = round((chunks[0].first / 25 - sound.start_s) * RATE)
    return crops, sound.samples[max(lead, 0) :][: 6 * RATE]


@pytest.mark.usefixtures("crops_only")
class TestTheSample:
    """examples/talk.mp4, whose sound is 120 ms early, cut into crops once and looped."""

    def estimates(
        self, talk: tuple[np.ndarray, np.ndarray], rounds: int, late_s: Any, **options: Any
    ) -> list[StreamEstimate]:
        """``late_s`` of the round's number: how much later its sound is pushed."""
        crops, sound = talk
        detector = SyncDetector(provider="cpu", threads=1)
        found = []
        with detector.stream(sample_rate=RATE, **options) as stream:
            for n in range(rounds * len(crops)):
                found.append(stream.push_video(as_picture(crops[n % len(crops)]), n / 25))
                part, at = divmod(n, len(crops))
                block = sound[at * 640 : (at + 1) * 640]
                found.append(stream.push_audio(block, n / 25 + late_s(part)))
            found.append(stream.finish())
        return [f for f in found if f is not None]

    def test_it_finds_the_offset_and_follows_a_jump(
        self, talk: tuple[np.ndarray, np.ndarray]
    ) -> None:
        found = self.estimates(talk, 5, lambda part: 0.0 if part < 2 else 0.24)
        before = [f for f in found if f.offset_ms is not None and f.time_s < 12]
        assert before[0].time_s + before[0].latency_s < 6
        assert all(f.offset_ms == pytest.approx(120, abs=25) for f in before)
        after = [f for f in found if f.time_s > 12 and f.offset_ms is not None]
        moved = next(f for f in after if f.offset_ms == pytest.approx(-120, abs=25))
        assert moved.time_s + moved.latency_s - 12 < 10  # s after the jump
        last = found[-1]
        assert last.offset_ms == pytest.approx(-120, abs=25)
        assert last.since_s == pytest.approx(12, abs=1.3)
        assert last.time_s == pytest.approx(30, abs=0.1)
        line = json.loads(last.model_dump_json())
        assert "result" not in line
        assert line["direction"] == "audio_lags"
        assert "audio lags by 1" in last.describe()


def test_file_arrays_and_stream_say_the_same(corpus: Path) -> None:
    """A real clip three ways; benchmarks/agreement.py does it with many."""
    from avsync.media import iter_frames

    rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    fit = [r for r in rows if r["split"] == "dev" and r["trusted_sync"] and r["duration_s"] >= 4]
    path = corpus / min(fit, key=lambda r: r["duration_s"])["file"]
    detector = SyncDetector(provider="cpu", threads=1)
    frames, sound = list(iter_frames(path)), read_audio(path)
    images, pts = [f.image for f in frames], [f.pts_seconds for f in frames]
    answers = [
        detector.score(path).offset_ms,
        detector.score_arrays(
            images, sound.samples, pts=pts, sample_rate=RATE, audio_start_s=sound.start_s
        ).offset_ms,
    ]
    with detector.stream(sample_rate=RATE) as stream:
        for image, time_s in zip(images, pts, strict=True):
            stream.push_video(image, time_s)
        for i in range(0, len(sound.samples), 800):
            stream.push_audio(sound.samples[i : i + 800], sound.start_s + i / RATE)
        answers.append(stream.finish().offset_ms)
    assert None not in answers
    assert max(answers) - min(answers) < 10  # type: ignore[operator, type-var]
