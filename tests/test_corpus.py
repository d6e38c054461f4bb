"""The bundled model on real people it never saw; skipped where the corpus is not there."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from avsync import SyncDetector
from avsync.media import read_audio

CLIPS = 6


def _dev_rows(corpus: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    fit = [r for r in rows if r["split"] == "dev" and r["trusted_sync"] and r["duration_s"] >= 3.5]
    return sorted(fit, key=lambda r: r["id"])[:CLIPS]


def _with_late_sound(clip: Path, out: Path, late_ms: int) -> None:
    """The clip with its own frames at their own times and its sound ``late_ms`` later (PCM)."""
    sound = read_audio(clip, sample_rate=48_000)
    silence = np.zeros(late_ms * 48, np.float32)
    pcm = (np.clip(np.concatenate([silence, sound.samples]), -1, 1) * 32767).astype("<i2")
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        picture = target.add_stream("libx264", rate=25, options={"crf": "12", "bf": "0"})
        picture.width, picture.height, picture.pix_fmt = 192, 192, "yuv420p"
        picture.codec_context.time_base = Fraction(1, 1000)
        voice = target.add_stream("pcm_s16le", rate=48_000, layout="mono")
        for frame in source.decode(video=0):
            assert frame.time is not None
            again = av.VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p")
            again.pts, again.time_base = round(frame.time * 1000), Fraction(1, 1000)
            target.mux(picture.encode(again))
        target.mux(picture.encode(None))
        for start in range(0, len(pcm), 4800):
            block = av.AudioFrame.from_ndarray(pcm[None, start : start + 4800], layout="mono")
            block.sample_rate, block.pts, block.time_base = 48_000, start, Fraction(1, 48_000)
            target.mux(voice.encode(block))
        target.mux(voice.encode(None))


@pytest.fixture(scope="module")
def detector() -> SyncDetector:
    pytest.importorskip("onnxruntime")
    return SyncDetector(provider="cpu")


def test_trusted_clips_are_in_step_and_follow_a_shift(
    corpus: Path, detector: SyncDetector, tmp_path: Path
) -> None:
    rows = _dev_rows(corpus)
    assert len(rows) == CLIPS
    plain, moved = [], []
    for row in rows:
        path = corpus / row["file"]
        plain.append(detector.score(path).offset_ms)
        _with_late_sound(path, tmp_path / "late.mkv", 230)
        moved.append(detector.score(tmp_path / "late.mkv").offset_ms)
    answered = [p for p in plain if p is not None]
    assert len(answered) >= CLIPS - 1
    assert sum(abs(p) <= 40 for p in answered) >= len(answered) - 1
    pairs = [(p, m) for p, m in zip(plain, moved, strict=True) if p is not None and m is not None]
    assert len(pairs) >= CLIPS - 1
    # the sound was made 230 ms later: the audio leads by 230 ms less
    assert sum(abs(m - p + 230) <= 40 for p, m in pairs) >= len(pairs) - 1
