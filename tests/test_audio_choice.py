"""Files with several audio streams: the one in which something is said is judged, and named."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

import avsync
from avsync import Status, SyncDetector, SyncResult
from avsync.audio_choice import default_stream, noted, voiced_stream
from avsync.media import probe

RATE = 48_000


def write(
    source: Path, out: Path, streams: str, *, default: int = 0, length_s: float = 5.0
) -> Path:
    """The picture of ``source`` with an audio stream a letter: its (v)oice, (s)ilence, a (h)um."""
    with av.open(str(source)) as film, av.open(str(out), "w") as made:
        picture = film.streams.video[0]
        twin = made.add_stream_from_template(picture)
        voice = av.AudioResampler("flt", "mono", RATE)
        heard = [f.to_ndarray()[0] for frame in film.decode(audio=0) for f in voice.resample(frame)]
        samples = np.concatenate(heard)[: int(length_s * RATE)]
        hum = 0.2 * np.sin(2 * np.pi * 120 * np.arange(len(samples)) / RATE).astype(np.float32)
        kinds = {"v": samples, "s": 0 * samples, "h": hum}
        tracks = [(made.add_stream("aac", rate=RATE, layout="mono"), kinds[k]) for k in streams]
        for n, (stream, _) in enumerate(tracks):
            chosen = av.stream.Disposition.default if n == default else 0
            stream.disposition = av.stream.Disposition(chosen)
        film.seek(0)
        for packet in film.demux(picture):
            if packet.dts is not None and packet.pts * packet.time_base < length_s:
                packet.stream = twin
                made.mux(packet)
        for stream, data in tracks:
            for start in range(0, len(data), 1024):
                frame = av.AudioFrame.from_ndarray(data[None, start : start + 1024], "flt", "mono")
                frame.sample_rate, frame.pts = RATE, start
                made.mux(stream.encode(frame))
            made.mux(stream.encode())
    return out


@pytest.fixture(scope="module")
def talk(root: Path) -> Path:
    return root / "examples" / "talk.mp4"


@pytest.mark.parametrize(
    ("streams", "default", "wanted"),
    [("v", 0, 0), ("sv", 0, 1), ("shv", 0, 2), ("vs", 1, 0), ("vv", 1, 1), ("sh", 1, 1)],
)
def test_the_first_stream_with_speech(
    streams: str, default: int, wanted: int, talk: Path, tmp_path: Path
) -> None:
    film = write(talk, tmp_path / "a.mkv", streams, default=default)
    info = probe(film)
    assert default_stream(info) == default
    assert voiced_stream(film, info) == wanted


def test_a_stream_that_cannot_be_read_is_passed_over(
    talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write(talk, tmp_path / "a.mkv", "sv")
    known = avsync.audio_choice.iter_audio

    def reads(path: Path, audio_stream: int) -> object:
        if audio_stream == 0:
            raise avsync.MediaReadError("a codec that ffmpeg does not know")
        return known(path, audio_stream=audio_stream)

    monkeypatch.setattr(avsync.audio_choice, "iter_audio", reads)
    assert voiced_stream(film, probe(film)) == 1


class TestNoted:
    def noted(self, film: Path, judged: int, status: Status, *, asked: bool = False) -> SyncResult:
        told = {"offset_ms": 5.0, "probability": 0.9, "windows": 3} if status.judged else {}
        result = SyncResult(path="a", status=status, model="m", **told)
        return noted(result, probe(film), judged, asked=asked)

    def test_what_was_judged_is_named(self, talk: Path, tmp_path: Path) -> None:
        film = write(talk, tmp_path / "a.mkv", "sv")
        found = self.noted(film, 1, Status.in_sync)
        assert found.audio_stream == 1
        assert found.warnings == (
            "nothing is said in audio stream 0, the default one; stream 1 was judged",
        )
        (warning,) = self.noted(film, 0, Status.ambiguous).warnings
        assert warning.startswith("the file has 2 audio streams, 0 was judged; --audio-stream")
        assert self.noted(film, 0, Status.in_sync).warnings == ()
        assert self.noted(film, 0, Status.no_face).warnings == ()
        assert self.noted(film, 0, Status.ambiguous, asked=True).warnings == ()

    def test_one_stream_is_nothing_to_speak_of(self, talk: Path, tmp_path: Path) -> None:
        found = self.noted(write(talk, tmp_path / "a.mkv", "s"), 0, Status.no_speech)
        assert (found.audio_stream, found.warnings) == (0, ())


def test_score_and_fix_find_the_voice_behind_silence(talk: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    film = write(talk, tmp_path / "a.mp4", "sv")
    detector = SyncDetector(provider="cpu", threads=1)
    found = detector.score(film)
    assert found.audio_stream == 1
    assert found.offset_ms == pytest.approx(120, abs=30)
    assert detector.score(film, audio_stream=0).status is Status.no_speech
    done = avsync.fix(film, tmp_path / "b.mp4", detector=detector)
    assert [m.position for m in done.audio] == [0, 1]
    assert done.after is not None
    assert done.after.audio_stream == 1
    assert abs(done.residual_ms or 99) <= 15
