"""The published protocol on scores made by hand, and where its clips come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import write_media
from fake_published import FakePublished, chunk, sound
from tiny_model import TINY

import avsync.detector
from avsync.detector import SyncDetector
from avsync.errors import InvalidOptionError, MediaNotFoundError
from avsync.offsets import AudioTokens, TrackTokens
from avsync.protocol import (
    FRAME_COUNTS,
    PUBLISHED,
    clip_accuracy,
    clip_rows,
    evaluate,
    find_clips,
    token_rows,
)
from avsync.published_engine import PublishedEngine


def rows_with_best(best: list[int]) -> np.ndarray:
    rows = np.zeros((len(best), 31), np.float32)
    rows[np.arange(len(best)), best] = 1
    return rows


def test_one_frame_either_way_is_right() -> None:
    found = clip_accuracy(rows_with_best([13, 14, 15, 16, 17]))
    assert found[5] == pytest.approx(3 / 5)


def test_neighbours_are_averaged_before_the_argmax() -> None:
    rows = rows_with_best([15, 15, 3, 15, 15, 15])
    rows[2, 3] = 1.5
    assert clip_accuracy(rows)[5] == pytest.approx(5 / 6)
    assert clip_accuracy(rows)[7] == 1.0  # 15 wins 2 : 1.5 beside the wrong window
    rows[2, 3] = 2.5
    assert clip_accuracy(rows)[7] == pytest.approx(3 / 6)
    assert clip_accuracy(rows)[9] == pytest.approx(5 / 6)  # 3 : 2.5; only at the start 2 : 2.5


def test_what_is_outside_never_wins() -> None:
    rows = np.full((3, 31), -5.0, np.float32)
    rows[:, :14] = np.nan
    rows[:, 15] = -4
    assert clip_accuracy(rows) == dict.fromkeys(FRAME_COUNTS, 1.0)
    rows[:, 20] = -4.5
    rows[0, 14:17] = np.nan  # -1000 weighs in the means around it
    assert clip_accuracy(rows)[5] == pytest.approx(2 / 3)
    assert clip_accuracy(rows)[7] == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(0, 31), (4, 30)])
def test_rows_must_be_whole(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="31"):
        clip_accuracy(np.zeros(shape, np.float32))


def test_rows_of_tokens_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    track = TrackTokens(0, 12, rng.normal(size=(40, 8)).astype(np.float32), np.ones(40, bool))
    audio = AudioTokens(20, 2, rng.normal(size=(70, 8)).astype(np.float32), np.ones(70, np.float32))
    rows = token_rows(track, audio, 5)
    assert rows.shape == (36, 31)
    for i in (0, 7, 35):
        for k in range(31):
            tick = 12 + 2 + i
            at = 2 * (tick + k - 15) - 20  # of two tokens a tick the one on it, and its neighbours
            if 0 <= at < 70:
                sound = audio.tokens[[max(at - 1, 0), at, at, min(at + 1, 69)], :5].mean(0)
                want = float(track.tokens[2 + i, :5] @ sound)
                assert rows[i, k] == pytest.approx(want, rel=1e-5)
            else:
                assert np.isnan(rows[i, k])


class TestFindClips:
    def test_video_folders_as_in_lrs2(self, tmp_path: Path) -> None:
        for name in ("main/63/00001.mp4", "main/63/00001.txt", "main/41/00009.mp4", "a.MKV"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        found = [p.relative_to(tmp_path).as_posix() for p in find_clips(tmp_path)]
        assert found == ["a.MKV", "main/41/00009.mp4", "main/63/00001.mp4"]
        (tmp_path / "test.txt").write_text("63/00001 NF\n\n")
        found = find_clips(tmp_path / "main", tmp_path / "test.txt")
        assert found == [tmp_path / "main/63/00001.mp4"]

    def test_of_a_corpus_only_trusted_dev_clips(self, tmp_path: Path) -> None:
        rows = [
            {"file": "dev/b.mkv", "split": "dev", "trusted_sync": True},
            {"file": "dev/c.mkv", "split": "dev", "trusted_sync": False},
            {"file": "train/a.mkv", "split": "train", "trusted_sync": True},
        ]
        (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert find_clips(tmp_path) == [tmp_path / "dev/b.mkv"]

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(MediaNotFoundError, match="no clips"):
            find_clips(tmp_path)
        with pytest.raises(MediaNotFoundError, match="no such folder"):
            find_clips(tmp_path / "none")
        with pytest.raises(MediaNotFoundError, match="no such list"):
            find_clips(tmp_path, tmp_path / "none.txt")


@pytest.fixture
def detector(monkeypatch: Any) -> SyncDetector:
    engine = PublishedEngine(FakePublished("syncnet", width=30))
    monkeypatch.setattr(avsync.detector, "load_engine", lambda *a, **k: engine)
    return SyncDetector("some")


def test_a_published_model_is_scored_window_by_window(
    detector: SyncDetector, monkeypatch: Any, tmp_path: Path
) -> None:
    engine = detector.engine
    clips = [tmp_path / f"{i}.mp4" for i in range(4)]
    for clip in clips[:3]:
        write_media(clip)
    late = {clips[0]: 0, clips[1]: 2}

    def hear(path: Path, *_: Any) -> tuple[Any, float]:
        return (sound(engine, 0, 60, late=late[path]), 1.0) if path in late else (None, 0.0)

    def see(path: Path, *_: Any) -> tuple[list[Any], list[Any]]:
        short, long = engine.eye(0), engine.eye(0)
        short.push(chunk(engine, 0, np.ones(9, bool)))
        long.push(chunk(engine, 0, np.ones(64, bool)))
        return [short.close(0), long.close(1)], []

    monkeypatch.setattr(detector, "_hear", hear)
    monkeypatch.setattr(detector, "_see", see)
    shares: list[float] = []
    report = evaluate(detector, clips, data="here", progress=shares.append)
    assert (report.clips, report.windows, report.model) == (2, 120, "syncnet-fake")
    assert report.accuracy[5] == pytest.approx(0.5, abs=0.02)  # one right, one two frames late
    assert [Path(p).name for p, _ in report.left_out] == ["2.mp4", "3.mp4"]
    assert shares == [0.25, 0.5, 0.75, 1]
    line = json.loads(json.dumps(report.as_dict()))
    assert line["accuracy"]["5"] == report.accuracy[5]
    assert line["published"]["VocaLiST"]["15"] == 99.8
    assert line["published"]["ModEFormer"] == {"5": 94.5}


def test_no_clip_that_can_be_scored(detector: SyncDetector, tmp_path: Path) -> None:
    write_media(tmp_path / "a.mp4")
    with pytest.raises(InvalidOptionError, match="none of 1 clips"):
        evaluate(detector, [tmp_path / "a.mp4"])


def test_published_rows() -> None:
    assert [len(row) for row in PUBLISHED.values()] == [6] * 5 + [1, 1]


@pytest.mark.corpus
def test_tokens_of_a_real_clip(corpus: Path) -> None:
    detector = SyncDetector(TINY, provider="cpu", threads=1)
    clip = find_clips(corpus)[0]
    report = evaluate(detector, [clip])
    rows = clip_rows(detector, clip)
    assert rows is not None
    assert report.windows == len(rows) > 30
    assert report.note.endswith("which see 5 frames only")
    assert np.isfinite(rows[20:-20]).all()
