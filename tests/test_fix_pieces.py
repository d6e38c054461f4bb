"""``fix --piecewise``: parts with offsets of their own, each put right, exact to the sample."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import AudioSpec, EventMedia, VideoSpec, click_track, event_picture, write_media
from measure import errors_ms
from numpy.typing import NDArray
from offset_clips import CASES, EVENTS_S, OPTIONS, digest, hashes
from test_fix import FakeDetector
from typer.testing import CliRunner

import avsync
from avsync import FixFailedError, FixRefusedError
from avsync.cli import app
from avsync.errors import InvalidOptionError
from avsync.media import read_audio

#: Seconds at which the offset changes, and the offsets before and after, ms.
JUMP_S = 1.64
OFFSETS = (-90.0, 120.0)


def jumping(
    folder: Path,
    name: str = "flac.mkv",
    offsets: tuple[float, float] = OFFSETS,
    *,
    quiet: tuple[float, float] | None = None,
    cut: bool = False,
) -> EventMedia:
    """Clicks that lead the flashes by the one offset up to 1.64 s, then by the other.

    quiet: a hum is heard outside of this stretch. cut: the picture changes at the jump.
    """
    ending, video, audio = CASES[name]

    def sound(t: NDArray[np.float64]) -> NDArray[np.float64]:
        events = [
            flash - (offsets[0] if flash < JUMP_S else offsets[1]) / 1000
            for flash in (0.76, 1.32, 1.96, 2.56)  # what the 25 frames a second make of EVENTS_S
        ]
        hum = 0.02 * np.sin(2 * np.pi * 200 * t)
        if quiet is None:
            hum[:] = 0
        else:
            hum[(t >= quiet[0]) & (t < quiet[1])] = 0
        return click_track(t, events) + hum

    def picture(t: float, flash: bool) -> Any:
        image = event_picture(t, flash)
        return image if flash or t < JUMP_S - 0.01 else np.minimum(image, 250) + np.uint8(60)

    spec = VideoSpec(video.codec, b_frames=video.b_frames, picture=picture if cut else None)
    return write_media(
        folder / f"clip.{ending}",
        video=spec,
        audio=AudioSpec(audio.codec, trim=audio.trim, signal=sound),
        events_s=EVENTS_S,
        options=OPTIONS.get(ending),
    )


def parts(*offsets: float, probability: float = 0.95) -> dict[str, Any]:
    edges = [0.0, JUMP_S, 3.2] if len(offsets) == 2 else [0.0, 3.2]
    spans = zip(edges, edges[1:], offsets, strict=False)
    segments = [
        {"start_s": a, "end_s": b, "offset_ms": o, "probability": probability} for a, b, o in spans
    ]
    return {"segments": segments, "offset_ms": offsets[0]}


GOOD = {**parts(4.0, -6.0), "status": "in_sync"}


def pieces_of(path: Path, out: Path, *answers: dict[str, Any], **options: Any) -> Any:
    detector: Any = FakeDetector(*answers)
    return avsync.fix(path, out, detector=detector, piecewise=True, **options), detector


SHRINKING = (130.0, -70.0)


@pytest.mark.parametrize(
    ("name", "offsets"),
    [*((name, OFFSETS) for name in CASES), ("flac.mkv", SHRINKING), ("aac.mp4", SHRINKING)],
)
def test_flash_and_click_meet_on_both_sides(
    name: str, offsets: tuple[float, float], tmp_path: Path
) -> None:
    made = jumping(tmp_path, name, offsets)
    before = digest(made.path)
    late = [-offsets[0]] * 2 + [-offsets[1]] * 2
    assert errors_ms(made.path) == pytest.approx(late, abs=5)
    out = tmp_path / f"out{made.path.suffix}"
    done, detector = pieces_of(made.path, out, parts(*offsets), GOOD)
    errors = errors_ms(out)
    assert errors == pytest.approx([0.0] * 4, abs=1.1)
    if name in ("flac.mkv", "pcm.mov", "pcm.avi"):
        assert errors == pytest.approx([0.0] * 4, abs=0.1)
    assert hashes(out) == hashes(made.path)
    assert digest(made.path) == before
    assert [(p.offset_ms, p.residual_ms) for p in done.pieces] == [
        (offsets[0], 4.0),
        (offsets[1], -6.0),
    ]
    assert detector.cuts == [pytest.approx(done.pieces[1].start_s, abs=1e-4)]
    assert (done.residual_ms, done.audio[0].method) == (-6.0, "encoded_anew")
    assert done.describe() == (
        f"2 pieces of the audio were delayed by {offsets[0]:+.0f}, {offsets[1]:+.0f} ms, and "
        "encoded anew; measured again: each within 6 ms"
    )


@pytest.mark.parametrize("offsets", [(0.0, 100.0), (100.0, 0.0)])
def test_the_join_is_where_it_is_quiet(offsets: tuple[float, float], tmp_path: Path) -> None:
    """The quiet part is 160 ms long and not in the middle: what is lost or repeated lies in it."""
    made = jumping(tmp_path, offsets=offsets, quiet=(1.75, 1.91))
    out = tmp_path / "out.mkv"
    done, _ = pieces_of(made.path, out, parts(*offsets), GOOD)
    join = done.pieces[1].start_s
    low, high = join - max(offsets) / 1000, join - min(offsets) / 1000
    assert 1.745 <= low < high <= 1.915
    old, new = read_audio(made.path, sample_rate=48_000), read_audio(out, sample_rate=48_000)

    def loud(sound: Any) -> float:
        rest = np.abs(sound.samples) * (np.abs(sound.samples) < 0.05)
        return float((rest > 1e-4).sum()) / 48_000

    assert loud(new) == pytest.approx(loud(old), abs=0.01)  # no hum is lost and none is repeated


def test_a_cut_of_the_picture_draws_the_join(tmp_path: Path) -> None:
    made = jumping(tmp_path, quiet=(9.0, 9.0), cut=True)
    out = tmp_path / "out.mkv"
    segments = parts(*OFFSETS)
    segments["segments"][0]["end_s"] = 1.4
    segments["segments"][1]["start_s"] = 1.5
    done, _ = pieces_of(made.path, out, segments, GOOD)
    assert done.pieces[1].start_s == pytest.approx(JUMP_S, abs=0.03)
    assert errors_ms(out) == pytest.approx([0.0] * 4, abs=0.2)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (parts(4.0, 55.0), "piece 2 of 2, measured again after the repair: audio leads by 55 ms"),
        (
            {"segments": parts(4.0, 4.0)["segments"][1:], "offset_ms": 4.0},
            "piece 1 of 2 could not be judged",
        ),
    ],
)
def test_a_piece_that_is_still_off_leaves_nothing(
    after: dict[str, Any], words: str, tmp_path: Path
) -> None:
    made = jumping(tmp_path)
    with pytest.raises(FixFailedError, match=words):
        pieces_of(made.path, tmp_path / "out.mkv", parts(*OFFSETS), after)
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mkv"]


def test_unsure_pieces_are_refused_and_one_offset_is_moved_as_ever(tmp_path: Path) -> None:
    made = jumping(tmp_path)
    out = tmp_path / "out.mkv"
    unsure = parts(*OFFSETS, probability=0.6)
    with pytest.raises(FixRefusedError, match="only 60 % sure"):
        pieces_of(made.path, out, unsure)
    done, _ = pieces_of(made.path, out, unsure, GOOD, force=True)
    assert len(done.pieces) == 2
    done, detector = pieces_of(made.path, out, parts(60.0), {**parts(2.0), "status": "in_sync"})
    assert (done.pieces, done.residual_ms, detector.cuts) == ((), 2.0, ())
    assert done.audio[0].method == "time_stamps"
    with pytest.raises(InvalidOptionError, match="give no offset"):
        avsync.fix(made.path, out, offset_ms=5, piecewise=True)


def test_the_command_tells_of_each_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = jumping(tmp_path)
    answers = [parts(*OFFSETS), GOOD]
    monkeypatch.setattr("avsync.detector.SyncDetector", lambda **options: FakeDetector(*answers))
    arguments = ["fix", str(made.path), "-o", str(tmp_path / "out.mkv")]
    told = CliRunner().invoke(app, [*arguments, "--piecewise"])
    assert told.exit_code == 0
    assert "piece 1 from 0.00 s: audio lags by 90 ms; measured again: audio leads by 4 ms" in (
        told.stdout
    )
    assert re.search(r"piece 2 from 1\.\d\d s: audio leads by 120 ms; .* lags by 6 ms", told.stdout)
    refused = CliRunner().invoke(app, arguments)
    assert (refused.exit_code, "--piecewise moves each by its own" in refused.stderr) == (3, True)
