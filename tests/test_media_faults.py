"""Parts of a file, what probe tells, and files that are cut, damaged or lack a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import factory
import numpy as np
import pytest
import spoil
from factory import AudioSpec, VideoSpec, write_media
from measure import click_near, errors_ms, flash_times

from avsync import media
from avsync.errors import MediaNotFoundError, MediaReadError

PCM = AudioSpec("pcm_s16le")
AAC = AudioSpec("aac")
MP3 = AudioSpec("libmp3lame")
OPUS = AudioSpec("libopus")
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"


@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        ("a.mp4", VideoSpec(b_frames=2), AAC),
        ("a.mkv", VideoSpec(b_frames=2), OPUS),
        ("a.ts", VideoSpec(b_frames=2), MP3),
        ("a.avi", VideoSpec("mpeg4", b_frames=2, keyframe_every=12), PCM),
        ("a.avi", VideoSpec("libx264", b_frames=2), PCM),
        ("a.webm", VideoSpec("libvpx-vp9"), OPUS),
    ],
    ids=["mp4", "mkv", "ts", "avi mpeg4", "avi h264", "webm"],
)
def test_a_part_has_the_times_of_the_whole(
    name: str, video: VideoSpec, audio: AudioSpec, tmp_path: Path
) -> None:
    made = write_media(
        tmp_path / name, video=video, audio=audio, duration_s=6, events_s=(0.9, 2.1, 3.3, 4.4, 5.3)
    )
    whole = flash_times(made.path)
    assert len(whole) == 5
    for start in (0.1, 0.77, 1.9, 2.75, 4.0, 4.37):
        inside = [t for t in whole if start + 0.1 < t < start + 1.4]
        got = flash_times(made.path, start_s=start, end_s=start + 1.5)
        assert [t for t in got if start + 0.1 < t < start + 1.4] == pytest.approx(inside, abs=1e-3)
        frames = [
            f.pts_seconds for f in media.iter_frames(made.path, start_s=start, end_s=start + 1)
        ]
        assert frames[0] <= max(start, whole[0] - made.events_s[0]) + 1e-3
        assert start + 1 - 0.05 < frames[-1] < start + 1
        sound = media.read_audio(made.path, start_s=start, end_s=start + 1.5)
        assert sound.start_s <= start + 1e-3
        assert sound.end_s >= start + 1.5 - 1e-3
        clicks = [click_near(sound, t) - t for t in inside if start + 0.25 < t < start + 1.25]
        assert clicks == pytest.approx([0.0] * len(clicks), abs=0.003)


def test_probe_tells_what_is_there(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mkv", start_s=1.4, audio=AudioSpec(language="ger"))
    info = media.probe(made.path)
    assert info.path == str(made.path)
    assert "matroska" in info.container
    assert info.start_s == pytest.approx(1.4, abs=2e-3)
    (video,), (audio,) = info.video, info.audio
    assert (video.codec, video.width, video.height, video.fps) == ("h264", 96, 64, 25.0)
    assert video.start_s == pytest.approx(1.4)
    assert not video.attached_picture
    assert (audio.codec, audio.sample_rate, audio.channels, audio.language) == (
        "aac",
        48_000,
        2,
        "ger",
    )


@pytest.mark.parametrize("read", [media.probe, media.read_audio])
def test_faults_have_their_errors(read: Any, tmp_path: Path) -> None:
    with pytest.raises(MediaNotFoundError, match=r"nowhere\.mp4: no such file"):
        read(tmp_path / "nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read(tmp_path)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(MediaReadError, match="the file is empty"):
        read(empty)
    text = spoil.write_text_named_mp4(tmp_path / "text.mp4")
    with pytest.raises(MediaReadError, match=r"text\.mp4: not a media file"):
        read(text)
    cut = spoil.truncate(write_media(tmp_path / "cut.mp4").path, 0.5)
    with pytest.raises(ValueError, match=r"cut\.mp4: not a media file"):
        read(cut)


def test_missing_streams_are_said(tmp_path: Path) -> None:
    mute = write_media(tmp_path / "mute.mp4", audio=None, duration_s=0.4).path
    blind = write_media(tmp_path / "blind.m4a", video=None, duration_s=0.4).path
    assert media.probe(mute).audio == ()
    assert media.probe(blind).video == ()
    with pytest.raises(MediaReadError, match=r"mute\.mp4: has no audio stream"):
        media.read_audio(mute)
    with pytest.raises(MediaReadError, match=r"blind\.m4a: has no video stream"):
        next(media.iter_frames(blind))
    assert len(list(media.iter_frames(mute))) == 10
    assert media.read_audio(blind).end_s == pytest.approx(0.4, abs=0.025)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {}),
        ("a.avi", {}),
        ("a.mp4", {"movflags": "faststart"}),
        ("a.mp4", {"movflags": FRAGMENTS}),
        ("a.webm", {}),
    ],
)
def test_a_cut_file_gives_what_there_is_and_says_so(
    name: str, options: dict[str, str], tmp_path: Path
) -> None:
    webm = name.endswith("webm")
    path = write_media(
        tmp_path / name,
        video=VideoSpec("libvpx" if webm else "libx264", keyframe_every=25),
        audio=OPUS if webm else AAC,
        duration_s=8,
        events_s=(0.5, 1.3),
        options=options,
    ).path
    sound, picture = media.DecodeStats(), media.DecodeStats()
    assert media.read_audio(path, stats=sound).end_s == pytest.approx(8, abs=0.1)
    assert len(list(media.iter_frames(path, stats=picture))) == 200
    assert sound.warnings == picture.warnings == []

    spoil.truncate(path, 0.6)
    both = media.DecodeStats()
    frames = list(media.iter_frames(path, stats=both))
    heard = media.read_audio(path, stats=both)
    assert 30 < len(frames) < 190
    assert frames[-1].pts_seconds == pytest.approx(len(frames) / 25, abs=0.1)
    assert 1.0 < heard.end_s < 7.0
    assert both.video_end_s == pytest.approx(frames[-1].pts_seconds + 0.04, abs=0.01)
    assert both.audio_end_s == pytest.approx(heard.end_s)
    assert any("breaks off" in w or "though the file declares" in w for w in both.warnings)


def test_damaged_packets_are_stepped_over(tmp_path: Path) -> None:
    def hum(t: np.ndarray) -> np.ndarray:
        return 0.3 * np.sin(2 * np.pi * 440 * t) + factory.click_track(t, factory.EVENTS_S)

    made = write_media(tmp_path / "a.ts", audio=AudioSpec(signal=hum), events_s=(0.4, 2.64))
    data = bytearray(made.path.read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 40 * 188] = bytes(40 * 188)
    made.path.write_bytes(bytes(data))
    stats = media.DecodeStats()
    flashes = flash_times(made.path, stats=stats)
    sound = media.read_audio(made.path, stats=stats)
    assert stats.warnings
    assert len(flashes) == 2
    assert flashes[1] - flashes[0] == pytest.approx(2.24, abs=1e-3)
    assert sound.end_s == pytest.approx(flashes[0] - 0.4 + 3.2, abs=0.05)
    assert click_near(sound, flashes[1]) == pytest.approx(flashes[1], abs=0.01)


def test_a_very_short_clip(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4", duration_s=0.3, events_s=(0.12,))
    assert len(list(media.iter_frames(made.path))) == 7
    assert [g.tick for g in media.iter_grid_frames(made.path)] == list(range(7))
    assert errors_ms(made.path) == pytest.approx([0.0], abs=10.0)


def test_silence_is_zeros(tmp_path: Path) -> None:
    made = write_media(tmp_path / "a.mp4", audio=AudioSpec(signal=np.zeros_like), duration_s=1.0)
    sound = media.read_audio(made.path)
    assert len(sound.samples) == pytest.approx(16_000, abs=400)
    assert float(np.abs(sound.samples).max()) < 1e-4


@pytest.mark.parametrize("ending", ["mkv", "ts", "mp4"])
def test_a_picture_that_ends_before_the_sound_is_no_damage(ending: str, tmp_path: Path) -> None:
    made = write_media(tmp_path / f"a.{ending}")
    longer = tmp_path / f"b.{ending}"
    with av.open(str(made.path)) as film, av.open(str(longer), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in film.streams}
        for packet in film.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video" and packet.pts * packet.time_base > 1.6:
                continue
            packet.stream = streams[packet.stream.index]
            out.mux(packet)

    def told() -> list[str]:
        stats = media.DecodeStats()
        assert len(list(media.iter_frames(longer, stats=stats))) > 10
        return [w for w in stats.warnings if "file declares" in w or "breaks off" in w]

    assert told() == []
    if ending == "mkv":
        spoil.truncate(longer, 0.5)
        assert told() != []
