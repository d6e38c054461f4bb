"""Who speaks when, on tokens of speakers who were never filmed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_tokens import CALIBRATION, Speaker, hear, look
from test_verdict import verdict

from avsync.offsets import AudioTokens, TrackTokens
from avsync.result import Segment, Status, SyncResult, Turn
from avsync.speakers import Voices, find_voices, offset_over_time, unseen_voices

ANN, BEN, CARL = Speaker(30, 1), Speaker(30, 2), Speaker(30, 3)
TICKS = 750
LATE_MS = 120.0


def faces() -> list[TrackTokens]:
    return [look(ANN, TICKS, id=4, seed=10), look(BEN, TICKS, id=7, seed=11)]


def mixed(*parts: tuple[Speaker | None, int]) -> AudioTokens:
    """The sound, 120 ms late: each speaker (None: silence) up to a tick, one after the other."""
    whole = hear(CARL, TICKS, LATE_MS)
    tokens, speech = whole.tokens.copy(), whole.speech.copy()
    low = 0
    for speaker, high in parts:
        rows = slice(2 * low, 2 * high)
        if speaker is None:
            speech[rows] = 0
        else:
            tokens[rows] = hear(speaker, TICKS, LATE_MS, seed=len(parts)).tokens[rows]
        low = high
    return AudioTokens(0, 2, tokens, speech)


def voices(tracks: list[TrackTokens], sound: AudioTokens) -> Voices:
    return find_voices(tracks, sound, scale=CALIBRATION.scale, offset_ms=lambda _: -LATE_MS)


def spans(found: tuple[Turn, ...]) -> list[tuple[int | None, float, float]]:
    return [(t.track, t.start_s, t.end_s) for t in found]


class TestTurns:
    def test_one_speaks(self) -> None:
        found = voices(faces(), mixed((ANN, TICKS)))
        ((track, start, end),) = spans(found.turns)
        assert (track, start) == (4, 0.0)
        assert end == pytest.approx(30, abs=0.21)
        assert found.turns[0].probability > 0.95
        assert found.speaking[4] > 0.99
        assert found.speaking[7] < 0.5
        assert found.share[4] > 0.95
        assert found.share[4] + found.share[7] <= 1.0

    def test_both_in_turns(self) -> None:
        found = voices(faces(), mixed((ANN, 250), (BEN, 500), (ANN, TICKS)))
        assert [t.track for t in found.turns] == [4, 7, 4]
        changes = [t.start_s for t in found.turns[1:]]
        # the change of the sound is heard at 10 s, and belongs to lips 120 ms before
        assert changes == pytest.approx([9.88, 19.88], abs=0.41)
        assert min(found.speaking.values()) > 0.99
        assert found.share[4] == pytest.approx(2 / 3, abs=0.03)
        assert found.share[7] == pytest.approx(1 / 3, abs=0.03)

    def test_a_voice_off_screen(self) -> None:
        found = voices(faces(), mixed((ANN, 300), (CARL, 600), (BEN, TICKS)))
        assert [t.track for t in found.turns] == [4, None, 7]
        assert found.turns[1].start_s == pytest.approx(11.88, abs=0.61)
        assert found.turns[1].end_s == pytest.approx(23.88, abs=0.61)
        assert found.turns[1].probability > 0.9

    def test_a_picture_on_the_wall_does_not_speak(self) -> None:
        ann, ben = faces()
        still = replace(ben, tokens=np.repeat(ben.tokens[:1], TICKS, 0))
        found = voices([ann, still], mixed((ANN, TICKS)))
        assert [t.track for t in found.turns] == [4]
        assert found.speaking[7] < 0.5
        assert found.share[7] < 0.05

    def test_who_is_not_seen_is_nobody(self) -> None:
        """The speaker's face is there up to 12 s only; the voice goes on."""
        ann, ben = faces()
        ann = replace(ann, tokens=ann.tokens[:300], valid=ann.valid[:300])
        found = voices([ann, ben], mixed((ANN, TICKS)))
        assert [t.track for t in found.turns] == [4, None]
        assert found.turns[0].end_s == pytest.approx(12, abs=0.61)

    def test_silence_is_nobodys_turn(self) -> None:
        found = voices(faces(), mixed((ANN, 200), (None, 400), (ANN, TICKS)))
        assert [t.track for t in found.turns] == [4, 4]
        assert found.turns[0].end_s == pytest.approx(7.88, abs=0.25)
        assert found.turns[1].start_s == pytest.approx(15.88, abs=0.25)

    def test_no_speech_no_turns(self) -> None:
        found = voices(faces(), mixed((None, TICKS)))
        assert found.turns == ()
        assert found.speaking == {4: 0.0, 7: 0.0}

    def test_turns_never_overlap_and_are_in_order(self) -> None:
        rng = np.random.default_rng(5)
        for _ in range(5):
            edges = sorted(rng.choice(np.arange(20, TICKS), 6, replace=False).tolist())
            who = rng.choice(np.array([ANN, BEN, CARL, None]), 7)
            found = voices(faces(), mixed(*zip(who, [*edges, TICKS], strict=True)))
            times = [t for turn in found.turns for t in (turn.start_s, turn.end_s)]
            assert times == sorted(times)


def test_strangers_make_no_speaker_however_long() -> None:
    """Lips that belong to nobody's sound: chance fits do not add up over five minutes."""
    lips = look(Speaker(300, 8), 7500, seed=3)
    sound = hear(Speaker(300, 9), 7500, seed=4)
    found = find_voices([lips], sound, scale=CALIBRATION.scale, offset_ms=lambda _: 40.0)
    assert found.speaking[0] < 0.01
    assert found.share[0] == 0
    assert {t.track for t in found.turns} == {None}


def test_offset_over_time() -> None:
    parts = [
        Segment(start_s=0, end_s=10, offset_ms=50, probability=0.9),
        Segment(start_s=20, end_s=30, offset_ms=-80, probability=0.9),
    ]
    at = offset_over_time(parts, None)
    assert [at(t) for t in (-5, 5, 14, 16, 25, 99)] == [50, 50, 50, -80, -80, -80]
    drifting = offset_over_time(parts[:1], 60.0)
    assert drifting(11.0) == pytest.approx(56.0)


def test_unseen_voices() -> None:
    found = unseen_voices(mixed((None, 100), (CARL, 300), (None, TICKS)), 0.75)
    assert spans(found) == [(None, 4.0, 12.0)]
    assert found[0].probability == 0.75


class TestResults:
    """What a file's result says."""

    def test_turns_at_the_files_own_offset(self) -> None:
        found = verdict(faces(), mixed((ANN, 375), (BEN, TICKS)), duration_s=30.0)
        assert found.offset_ms == pytest.approx(-LATE_MS, abs=5)
        assert [t.track for t in found.turns] == [4, 7]
        assert {t.id: t.share for t in found.tracks} == pytest.approx({4: 0.5, 7: 0.5}, abs=0.03)
        assert all(t.speaking is not None and t.speaking > 0.99 for t in found.tracks)
        again = SyncResult.model_validate_json(found.model_dump_json())
        assert again == found

    def test_a_dubbed_film_has_voices_but_no_speaker(self) -> None:
        found = verdict([look(ANN, TICKS, seed=1)], hear(BEN, TICKS, seed=2), duration_s=30.0)
        assert found.status is Status.ambiguous
        assert {t.track for t in found.turns} == {None}
        assert found.probability is not None
        assert found.turns[0].probability == pytest.approx(1 - found.probability, abs=1e-4)
        assert found.tracks[0].speaking is None

    def test_no_face(self) -> None:
        found = verdict([], mixed((CARL, 200), (None, TICKS)), duration_s=30.0)
        assert found.status is Status.no_face
        assert [(t.track, t.probability) for t in found.turns] == [(None, 1.0)]


class TestCommand:
    """``avsync speakers``; the detector is a fake that answers by the file's name."""

    @pytest.fixture
    def run(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        from typer.testing import CliRunner

        from avsync import detector
        from avsync.cli import app
        from avsync.errors import MediaNotFoundError

        class Fake:
            def __init__(self, **options: Any) -> None:
                pass

            def score(self, path: str, **options: Any) -> SyncResult:
                if path == "gone.mp4":
                    raise MediaNotFoundError("gone.mp4: no such file")
                if path == "mute.mp4":
                    return SyncResult(path=path, status="no_audio", model="fake")  # type: ignore[arg-type]
                sound = mixed((ANN, 300), (CARL, 600), (BEN, TICKS))
                return verdict(faces(), sound, duration_s=30.0, path=path)

        monkeypatch.setattr(detector, "SyncDetector", Fake)
        return lambda *words: CliRunner().invoke(app, ["speakers", *words])

    def test_table(self, run: Any) -> None:
        done = run("a.mp4")
        assert done.exit_code == 0, done.output
        lines = [line.split() for line in done.stdout.splitlines() if "face 4" in line]
        assert any(line[:2] == ["0:00.0", "0:12.2"] for line in lines), done.stdout
        assert "nobody seen" in done.stdout

    def test_json(self, run: Any) -> None:
        done = run("a.mp4", "gone.mp4", "mute.mp4", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.exit_code == 4
        assert [line["path"] for line in lines] == ["a.mp4", "gone.mp4", "mute.mp4"]
        assert [t["track"] for t in lines[0]["turns"]] == [4, None, 7]
        assert set(lines[0]["turns"][0]) == {"start_s", "end_s", "track", "probability"}
        assert {t["id"]: t["share"] for t in lines[0]["tracks"]}[4] == pytest.approx(0.4, abs=0.03)
        assert "no such file" in lines[1]["error"]
        assert (lines[2]["status"], lines[2]["turns"]) == ("no_audio", [])

    def test_not_told(self, run: Any) -> None:
        done = run("mute.mp4")
        assert done.exit_code == 3
        assert "no audio stream" in done.stdout


def test_real_talkers_side_by_side(corpus: Path, tmp_path: Path) -> None:
    """Two clips of the corpus in one picture, only the sound of the left one."""
    pytest.importorskip("onnxruntime")
    from avsync import SyncDetector
    from avsync.media import iter_frames, read_audio

    rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    fit = [r for r in rows if r["split"] == "dev" and r["trusted_sync"] and r["fps"] == 25]
    fit = sorted((r for r in fit if r["duration_s"] >= 4), key=lambda r: r["duration_s"])
    left, right = fit[0], next(r for r in fit[1:] if r["speaker"] != fit[0]["speaker"])
    pictures = [
        [f.image for f in iter_frames(corpus / r["file"], end_s=4.0)] for r in (left, right)
    ]
    frames = [np.concatenate(pair, 1) for pair in zip(*pictures, strict=False)]
    sound = read_audio(corpus / left["file"])
    found = SyncDetector(provider="cpu", threads=1).score_arrays(
        frames, sound.samples, fps=25, sample_rate=16_000, audio_start_s=sound.start_s
    )
    assert found.status.judged
    speaker = max(found.tracks, key=lambda t: t.share or 0)
    assert speaker.box[2] < frames[0].shape[1] / 2 + 20  # the left one
    assert speaker.share is not None
    assert speaker.share > 0.7
    assert {t.track for t in found.turns if t.probability > 0.8} <= {speaker.id, None}
