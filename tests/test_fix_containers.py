"""``fix`` in every container: flash and click meet, and all else stays as it was."""

from __future__ import annotations

import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from factory import AudioSpec, VideoSpec, write_media
from measure import errors_ms
from offset_clips import CASES, EVENTS_S, B, clip, digest, hashes

import avsync
from avsync import demux, media, remux
from avsync.digests import read_digests
from avsync.errors import InvalidOptionError, MediaReadError
from avsync.reaudio import Stretch

OFFSETS_MS = (-400, -123, 80, 400)


# --- Every container


@pytest.mark.parametrize("offset_ms", OFFSETS_MS)
@pytest.mark.parametrize("name", CASES)
def test_flash_and_click_meet_after_the_repair(name: str, offset_ms: int, tmp_path: Path) -> None:
    made = clip(tmp_path, name, offset_ms)
    before = digest(made.path)
    assert errors_ms_wide(made.path) == pytest.approx([-offset_ms] * 4, abs=5)
    out = tmp_path / f"out{made.path.suffix}"
    done = avsync.fix(made.path, out, offset_ms=offset_ms)
    assert errors_ms(out) == pytest.approx([0.0] * 4, abs=5.0)
    assert hashes(out) == hashes(made.path)
    assert digest(made.path) == before
    (move,) = done.audio
    assert (done.status, done.residual_ms, done.measured) == ("fixed", None, None)
    assert move.shift_ms == pytest.approx(offset_ms, abs=0.6)
    early = offset_ms < 0
    wanted = {
        ".mp4": "edit_list",
        ".mov": "edit_list",
        ".ts": "time_stamps",
        ".mkv": "encoded_anew" if early else "time_stamps",
        ".webm": "encoded_anew" if early else "time_stamps",
        ".avi": "encoded_anew",
        ".wmv": "encoded_anew" if early else "time_stamps",
        ".mpg": "encoded_anew" if early else "time_stamps",
        ".mxf": "encoded_anew",
    }
    assert move.method == wanted[out.suffix]
    if move.method == "encoded_anew":
        assert move.encoder == CASES[name][2].codec
    else:
        assert set(hashes(out, "audio")) <= set(hashes(made.path, "audio"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([made.path.name, out.name])


def errors_ms_wide(path: Path) -> list[float]:
    """Click minus flash in ms, for offsets up to 0.5 s: events lie 0.56 s apart and more."""
    sound = media.read_audio(path)
    loud = np.convolve(np.abs(sound.samples), np.ones(33) / 33, "same")
    clicks = []
    for _ in EVENTS_S:
        top = int(loud.argmax())
        clicks.append(sound.start_s + top / sound.sample_rate)
        loud[max(0, top - 1600) : top + 1600] = 0
    flashes = [f.pts_seconds for f in media.iter_frames(path) if f.image.mean() > 150]
    return [1000 * (c - f) for c, f in zip(sorted(clicks), flashes, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_sound_encoded_anew_is_exact_to_the_sample(name: str, tmp_path: Path) -> None:
    made = clip(tmp_path, name, 90)
    out = tmp_path / f"out{made.path.suffix}"
    done = avsync.fix(made.path, out, offset_ms=90, reencode_audio=True)
    assert [m.method for m in done.audio] == ["encoded_anew"]
    errors = errors_ms(out)
    assert errors == pytest.approx([0.0] * 4, abs=1.1)
    assert np.ptp(errors) < 0.2
    assert hashes(out) == hashes(made.path)


def test_pcm_encoded_anew_keeps_every_sample(tmp_path: Path) -> None:
    made = clip(tmp_path, "pcm.avi")
    out = tmp_path / "out.avi"
    avsync.fix(made.path, out, offset_ms=100)

    def samples(path: Path) -> Any:
        with av.open(str(path)) as film:
            return np.concatenate([f.to_ndarray().reshape(-1, 2) for f in film.decode(audio=0)])

    old, new = samples(made.path), samples(out)
    assert not new[:4800].any()
    assert np.array_equal(new[4800 : 4800 + len(old)], old)


def test_what_mxf_does_not_hold_becomes_pcm(tmp_path: Path) -> None:
    """The picture begins at zero there, so the sound is laid from where the picture begins."""
    video = VideoSpec("mpeg2video", b_frames=2)
    made = write_media(
        tmp_path / "a.mkv", video=video, audio=AudioSpec("flac"), events_s=EVENTS_S, start_s=0.6
    )
    out = tmp_path / "out.mxf"
    done = avsync.fix(made.path, out, offset_ms=100)
    assert [(m.method, m.encoder) for m in done.audio] == [("encoded_anew", "pcm_s24le")]
    assert errors_ms(out) == pytest.approx([100.0] * 4, abs=0.2)
    assert hashes(out) == hashes(made.path)


@pytest.mark.parametrize("ending", ["vob", "mkv"])
def test_a_disc_loses_its_navigation_and_nothing_else(ending: str, tmp_path: Path) -> None:
    made, disc = clip(tmp_path, "mp2.mpg", 100), tmp_path / "disc.vob"
    with av.open(str(made.path)) as film, av.open(str(disc), "w", format="dvd") as written:
        twins = [written.add_stream_from_template(s, opaque=True) for s in film.streams]
        for packet in film.demux():
            if packet.size:
                packet.stream = twins[packet.stream.index]
                written.mux_one(packet)
    with av.open(str(disc)) as film:
        assert sorted(s.type for s in film.streams) == ["audio", "data", "video"]
    out = tmp_path / f"out.{ending}"
    done = avsync.fix(disc, out, offset_ms=100)
    assert done.warnings == ("the disc's navigation was left out",)
    assert np.ptp(errors_ms_wide(out)) < 2
    assert errors_ms_wide(out)[0] - errors_ms_wide(disc)[0] == pytest.approx(100, abs=2)
    assert hashes(out) == hashes(disc)


def write_gaps(source: Path, out: Path, gaps_s: float) -> Path:
    """The same film, twice interrupted for so long."""
    with av.open(str(source)) as film, av.open(str(out), "w") as made:
        twins = [made.add_stream_from_template(s) for s in film.streams]
        packets = [p for p in film.demux() if p.size]
        for packet in packets:
            late = sum(packet.pts * packet.time_base > t for t in (1, 2)) * gaps_s
            packet.pts += round(late / packet.time_base)
            packet.dts += round(late / packet.time_base)
            packet.stream = twins[packet.stream.index]
            made.mux(packet)
    return out


def test_gaps_are_filled_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forged file would otherwise become terabytes of silence."""
    monkeypatch.setattr(demux, "MAX_GAP_S", 10.0)
    made = clip(tmp_path, "flac.mkv")
    out = tmp_path / "out.mkv"
    filled = write_gaps(made.path, tmp_path / "filled.mkv", 4.0)
    avsync.fix(filled, out, offset_ms=90, reencode_audio=True)
    assert media.read_audio(out).end_s == pytest.approx(
        media.read_audio(filled).end_s + 0.09, abs=0.05
    )
    out.unlink()
    forged = write_gaps(made.path, tmp_path / "forged.mkv", 6.0)
    with pytest.raises(MediaReadError, match=r"gaps of 12 s, more than the 10 s"):
        avsync.fix(forged, out, offset_ms=90, reencode_audio=True)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_a_repair_can_be_undone(tmp_path: Path) -> None:
    made = clip(tmp_path)
    there, back = tmp_path / "there.mp4", tmp_path / "back.mp4"
    avsync.fix(made.path, there, offset_ms=-250)
    avsync.fix(there, back, offset_ms=250)
    assert errors_ms(back) == pytest.approx([0.0] * 4, abs=2.0)
    assert hashes(back) == hashes(made.path)


def test_sound_that_an_edit_list_hides_stays_in_the_file(tmp_path: Path) -> None:
    made = clip(tmp_path, "mp3.mp4")
    out = tmp_path / "out.mp4"
    done = avsync.fix(made.path, out, offset_ms=-2000)
    assert done.warnings == ()
    (whole,) = [d for d in read_digests(out, whole=True) if d.kind == "audio"]
    assert whole.packets == len(hashes(made.path, "audio"))
    again = avsync.fix(out, tmp_path / "again.mp4", offset_ms=40)
    assert any("edit list hides" in w for w in again.warnings)


def test_an_index_in_front_stays_in_front(tmp_path: Path) -> None:
    for flags in ({"movflags": "faststart"}, {}):
        made = write_media(tmp_path / "clip.mp4", options=flags)
        out = tmp_path / "out.mp4"
        avsync.fix(made.path, out, offset_ms=50)
        data = out.read_bytes()
        assert (data.index(b"moov") < data.index(b"mdat")) == bool(flags)


@pytest.mark.parametrize("slope", [1 / 60, -0.0025, 0.003015, 0.0001234, 1e-7])
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_a_drift_is_resampled_away(slope: float, rate: int, tmp_path: Path) -> None:
    made = write_media(tmp_path / "clip.mkv", audio=AudioSpec("flac", rate), events_s=EVENTS_S)
    out = tmp_path / "out.mkv"
    remux.write_moved(made.path, out, shift_s=0.1, stretch=Stretch(slope, 1.0))
    late = [1000 * (0.1 + slope * (t - 1.0)) for t in made.events_s]
    assert errors_ms(out) == pytest.approx(late, abs=0.2)


# --- What ffmpeg's own tools say


def ffmpeg_levels(path: Path) -> list[list[tuple[float, float]]]:
    """[(time stamp, level), …] of all pictures and of each ms of sound, as ffmpeg prints them."""
    lists = [path.with_name("video.txt"), path.with_name("audio.txt")]
    light = f"signalstats,metadata=print:file={lists[0].name}:key=lavfi.signalstats.YAVG"
    peak = "astats=metadata=1:reset=1:measure_overall=none:measure_perchannel=Peak_level"
    loud = f"aformat=cl=mono,asetnsamples=48,{peak},ametadata=print:file={lists[1].name}"
    read = ["ffmpeg", "-v", "error", "-nostdin", "-threads", "1", "-copyts", "-i", path.name]
    maps = ["-map", "0:v:0", "-vf", light, "-map", "0:a:0", "-af", loud, "-f", "null", "-"]
    subprocess.run([*read, *maps], check=True, timeout=60, cwd=path.parent)
    found = []
    for file in lists:
        text = file.read_text()
        times = [float(t) for t in re.findall(r"pts_time:(\S+)", text)]
        levels = [float(v.replace("-inf", "-999")) for v in re.findall(r"lavfi\..*=(.+)", text)]
        found.append(list(zip(times, levels, strict=True)))
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command line")
def test_ffmpeg_presents_flash_and_click_together(name: str, tmp_path: Path) -> None:
    for offset_ms in (-200, 200):
        made = clip(tmp_path, name, offset_ms)
        out = tmp_path / f"out{made.path.suffix}"
        avsync.fix(made.path, out, offset_ms=offset_ms)
        pictures, sound = ffmpeg_levels(out)
        flashes = [t for t, light in pictures if light > 150]
        assert len(flashes) == 4
        for flash in flashes:
            _, click = max((level, t + 0.0005) for t, level in sound if abs(t - flash) < 0.15)
            assert click - flash == pytest.approx(0.0, abs=0.005)


# --- All the rest of a film


def rich(folder: Path, ending: str) -> Path:
    """Two audio streams, subtitles, chapters, tags, a cover; in Matroska an attachment too."""
    made = write_media(
        folder / f"rich0.{ending}",
        video=B,
        audio=[AudioSpec("aac", language="eng"), AudioSpec("aac", 44_100, language="deu")],
        events_s=EVENTS_S,
        cover=True,
    )
    path = folder / f"rich.{ending}"
    with av.open(str(made.path)) as film, av.open(str(path), "w") as out:
        lanes, cover = {}, b""
        for s in film.streams:
            if s.index == 3:
                continue
            lanes[s.index] = out.add_stream_from_template(s, opaque=True)
            lanes[s.index].metadata.update(s.metadata)
        lanes[2].disposition = av.stream.Disposition.comment
        text = out.add_stream("mov_text" if ending == "mp4" else "ass")
        text.metadata["language"] = "fra"
        text.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n"
        packets = list(film.demux())
        cover = next(bytes(p) for p in packets if p.stream_index == 3)
        if ending == "mkv":
            out.add_attachment("cover.png", "image/png", cover)
            out.add_attachment("font.ttf", "font/ttf", b"not much of a font" * 50)
        else:
            lanes[3] = out.add_stream_from_template(film.streams[3], opaque=True)
            lanes[3].disposition = av.stream.Disposition.attached_pic
        out.metadata.update({"title": "A talk", "artist": "Someone"})
        out.set_chapters(
            [
                chapter_of(0, 0, 1500, "One"),
                chapter_of(1, 1500, 3200, "Two"),
            ]
        )
        for p in packets:
            if p.stream_index in lanes and p.size:
                if p.pts is None and p.dts is None:
                    p.pts = p.dts = 0
                p.stream = lanes[p.stream_index]
                out.mux_one(p)
        words = "Hello there"
        line = words.encode() if ending == "mkv" else len(words).to_bytes(2, "big") + words.encode()
        subtitle = av.Packet(b"0,0,Default,,0,0,0,," + line if ending == "mkv" else line)
        subtitle.stream = text
        subtitle.pts = subtitle.dts = 500
        subtitle.duration = 900
        subtitle.time_base = Fraction(1, 1000)
        out.mux_one(subtitle)
    made.path.unlink()
    return path


def chapter_of(number: int, start: int, end: int, title: str) -> Any:
    return {
        "id": number,
        "start": start,
        "end": end,
        "time_base": Fraction(1, 1000),
        "metadata": {"title": title},
    }


def card(path: Path) -> dict[str, Any]:
    """What a file is besides its packets."""
    with av.open(str(path)) as film:
        return {
            "streams": [
                (s.type, int(s.disposition), s.metadata.get("language"), s.metadata.get("filename"))
                for s in film.streams
            ],
            "chapters": [
                (float(c["start"] * c["time_base"]), c["metadata"].get("title"))
                for c in film.chapters()
            ],
            "tags": {k.lower(): v for k, v in film.metadata.items() if k.lower() != "encoder"},
            "files": [bytes(s.data) for s in film.streams if s.type == "attachment"],
        }


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_everything_else_stays_as_it_was(ending: str, tmp_path: Path) -> None:
    path = rich(tmp_path, ending)
    was = card(path)
    assert was["chapters"] == [(0.0, "One"), (1.5, "Two")]
    assert was["tags"]["title"] == "A talk"
    assert "subtitle" in [s[0] for s in was["streams"]]
    for offset_ms in (150.0, -150.0):
        out = tmp_path / f"out.{ending}"
        done = avsync.fix(path, out, offset_ms=offset_ms, audio_stream=1)
        assert card(out) == was
        assert [m.position for m in done.audio] == [1]
        assert done.warnings == ()
        for kind in ("video", "subtitle"):
            assert hashes(out, kind) == hashes(path, kind)
        still = [h for h in hashes(path, "audio") if h.startswith("0 ")]
        assert [h for h in hashes(out, "audio") if h.startswith("0 ")] == still
        assert errors_ms(out, audio_stream=0) == pytest.approx([0.0] * 4, abs=2.0)
        moved = errors_ms(out, audio_stream=1)
        assert moved == pytest.approx([offset_ms] * 4, abs=2.0)


def test_all_audio_streams_move_unless_one_is_named(tmp_path: Path) -> None:
    path = rich(tmp_path, "mp4")
    out = tmp_path / "out.mp4"
    done = avsync.fix(path, out, offset_ms=150)
    assert [m.position for m in done.audio] == [0, 1]
    for stream in (0, 1):
        assert errors_ms(out, audio_stream=stream) == pytest.approx([150.0] * 4, abs=2.0)
    with pytest.raises(InvalidOptionError, match="audio stream 2"):
        avsync.fix(path, out, offset_ms=150, audio_stream=2)
