"""Headers that lie: nothing is allocated or waited for because a file says so."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from factory import AudioSpec, VideoSpec, write_media

from avsync import media
from avsync.demux import MAX_GAP_S, DecodeStats
from avsync.errors import MediaReadError
from avsync.faces import FaceTracker
from avsync.picture import Picture


def test_a_codec_that_nobody_knows(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", duration_s=0.4).path
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4", b"V_ZEBRA").replace(b"A_AAC", b"A_GNU"))
    info = media.probe(path)
    assert [v.codec for v in info.video] == ["unknown"]
    assert [a.codec for a in info.audio] == ["unknown"]
    assert info.video[0].width == 0
    assert info.audio[0].sample_rate == 0
    for read in (media.iter_frames, media.iter_audio):
        with pytest.raises(MediaReadError, match=r"a\.mkv: the .* has a codec that ffmpeg does"):
            next(iter(read(path)))


def test_a_picture_of_16k_by_16k_is_not_made(tmp_path: Path) -> None:
    spec = VideoSpec(codec="mjpeg", width=96, height=64)
    path = write_media(tmp_path / "a.avi", video=spec, audio=None, duration_s=0.4).path
    data = path.read_bytes()
    true, forged = struct.pack(">HH", 64, 96), struct.pack(">HH", 16_000, 16_000)
    assert data.count(b"\xff\xc0\x00\x11\x08" + true) == 10  # a frame header (SOF0) a picture
    path.write_bytes(data.replace(true, forged))
    stats = DecodeStats()
    begin = time.process_time()
    assert list(media.iter_frames(path, stats=stats)) == []
    assert time.process_time() - begin < 2
    assert "some packets could not be decoded and were stepped over" in stats.warnings


def test_a_large_true_picture_is_made(tmp_path: Path) -> None:
    spec = VideoSpec(codec="mjpeg", width=7680, height=4320)
    path = write_media(tmp_path / "a.avi", video=spec, audio=None, duration_s=0.04).path
    (frame,) = media.iter_frames(path, max_side=480)
    assert frame.image.shape == (270, 480, 3)


@pytest.mark.parametrize("rate", [1, 40, 0x7FFF_FFFF])
def test_an_impossible_sample_rate(rate: int, tmp_path: Path) -> None:
    spec = AudioSpec("pcm_s16le", layout="mono")
    path = write_media(tmp_path / "a.wav", video=None, audio=spec, duration_s=2).path
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<I", 48_000))
    data[at : at + 4] = struct.pack("<I", rate)
    path.write_bytes(bytes(data))
    stats = DecodeStats()
    assert list(media.iter_audio(path, stats=stats)) == []
    assert stats.warnings == ["sound of an impossible sample rate was left out"]


def test_768_khz_is_sound(tmp_path: Path) -> None:
    spec = AudioSpec("pcm_s16le", layout="mono", sample_rate=768_000)
    path = write_media(tmp_path / "a.wav", video=None, audio=spec, duration_s=0.5).path
    assert media.read_audio(path).end_s == pytest.approx(0.5, abs=1e-3)


def test_pictures_hours_apart_make_few_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = [0.0, 0.04, 3500.0, 3500.04, 7000.0]

    def frames(*_: object) -> Iterator[tuple[float, float, Any]]:
        yield from ((t, 0.04, None) for t in stamps)

    monkeypatch.setattr(media, "_iter_video", frames)
    monkeypatch.setattr(media, "frame_look", lambda frame: None)
    blank = Picture.of(np.zeros((9, 16, 3), np.uint8))
    monkeypatch.setattr(media.Picture, "from_frame", lambda frame, side, aspect: blank)
    grid = list(media.iter_grid_frames("any"))
    assert len(grid) < 5 * 25 * 2
    assert [g.tick for g in grid] == sorted({g.tick for g in grid})
    for stamp in stamps:
        assert any(abs(g.time_s - stamp) < 0.021 and g.pts_seconds == stamp for g in grid)
    assert all(0 <= g.time_s - g.pts_seconds + 0.021 < 2.1 for g in grid)


def test_faces_end_where_ticks_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = FaceTracker()
    ended: list[int] = []
    monkeypatch.setattr(tracker, "_detect", lambda image, cut: None)
    monkeypatch.setattr(tracker, "_end", lambda tracks: ended.append(frame.tick) or iter(()))
    for tick in (7, 8, 9, 500, 501):
        frame = media.GridFrame(
            tick, tick / 25, tick / 25, Picture.of(np.zeros((36, 64, 3), np.uint8))
        )
        ended.clear()
        list(tracker.push(frame))
        # once at the end of every push for lost faces, once more where ticks jump
        assert len(ended) == (2 if tick == 500 else 1)


def test_sound_stamped_ever_later_is_filled_for_an_hour_in_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sixty packets, each stamped 20 minutes after the one before."""
    spec = AudioSpec("pcm_s16le", layout="mono", sample_rate=16_000)
    path = write_media(tmp_path / "a.wav", video=None, audio=spec, duration_s=3).path
    true = media.demux.decode

    def jumping(*args: Any) -> Iterator[Any]:
        for n, frame in enumerate(true(*args)):
            frame.pts += n * 1200 * 16_000
            yield frame

    monkeypatch.setattr(media, "demux", SimpleNamespace(**vars(media.demux) | {"decode": jumping}))
    stats = DecodeStats()
    length = sum(len(p.samples) for p in media.iter_audio(path, stats=stats)) / 16_000
    assert 2400 < length < MAX_GAP_S + 4
    assert "some time stamps of the sound jump by hours; those were not believed" in stats.warnings
