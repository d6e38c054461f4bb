"""Published checkpoints on a real clip: checkpoint to command line, ONNX against torch, LSE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from typer.testing import CliRunner  # noqa: E402

from avsync.cli import app  # noqa: E402
from avsync.detector import SyncDetector  # noqa: E402
from avsync.media import DecodeStats, probe  # noqa: E402
from avsync.metrics import lse  # noqa: E402
from avsync.offsets import gather  # noqa: E402
from avsync.published import audio_windows, video_windows  # noqa: E402
from avsync.published_engine import PublishedEngine  # noqa: E402
from avsync.verdict import judge  # noqa: E402

pytestmark = pytest.mark.corpus

ARCHS = ["mtdvocalist", "syncnet", pytest.param("vocalist", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def clip(corpus: Path, corpus_index: list[dict[str, Any]]) -> Path:
    """The shortest dev clip of trusted sync."""
    rows = [r for r in corpus_index if r["split"] == "dev" and r["trusted_sync"]]
    return corpus / min(rows, key=lambda r: r["duration_s"])["file"]


class Watched:
    """What an engine made of a clip, and the crops that it saw."""

    def __init__(self, folder: Path, clip: Path) -> None:
        self.detector = SyncDetector(folder, provider="cpu", threads=1, max_offset_ms=200)
        assert isinstance(self.detector.engine, PublishedEngine)
        self.engine = self.detector.engine
        self.crops: list[np.ndarray] = []
        eye_of = self.engine.eye

        def noted(first: int) -> Any:
            eye = eye_of(first)
            push = eye.push
            eye.push = lambda chunk: (self.crops.append(chunk.crops), push(chunk))  # type: ignore
            return eye

        self.engine.eye = noted  # type: ignore[method-assign]
        self.sound, self.speech_s = self.detector._hear(clip, None, DecodeStats())
        self.tracks, self.sights = self.detector._see(clip, probe(clip), DecodeStats(), None)


@pytest.fixture(scope="module")
def watched(exported: Any, clip: Path) -> Any:
    made: dict[str, Watched] = {}

    def watch(arch: str) -> Watched:
        if arch not in made:
            made[arch] = Watched(exported(arch), clip)
        return made[arch]

    return watch


@pytest.mark.parametrize("arch", ARCHS)
def test_scores_of_a_clip_are_torchs(arch: str, watched: Any, golden_network: Any) -> None:
    """Windows cut out of the whole anew, the published network on every pair by itself."""
    found: Watched = watched(arch)
    taken, network = found.engine.model.convention, golden_network(arch)
    track, sound = found.tracks[0], found.sound
    crops = np.concatenate(found.crops)
    assert crops.shape[1:] == (taken.side, taken.side, 3)
    (rows,) = found.engine.rows([track], sound, reach=3)
    for i in (0, 20, len(rows) - 1):
        tick = int(track.starts[i])
        lip = torch.from_numpy(
            video_windows(crops, tick - track.first, tick - track.first + 1, taken)
        )
        for k in (0, 3, 6):
            at = tick + k - 3 - sound.first
            if not 0 <= at < sound.count:
                assert np.isnan(rows[i, k])
                continue
            voice = torch.from_numpy(audio_windows(sound.features, at, at + 1, taken))
            with torch.no_grad():
                want = network(lip, voice)
            score = -float(want) if arch == "syncnet" else float(want.logits)
            assert rows[i, k] == pytest.approx(score, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_result_of_a_clip(arch: str, watched: Any) -> None:
    found: Watched = watched(arch)
    seen, heard = found.engine.compare(found.tracks, found.sound, max_offset_ms=200)
    evidence = gather(seen, heard, max_offset_ms=200)
    assert len(evidence) >= 3
    assert np.isfinite(evidence.scores).mean() > 0.9
    result = judge(
        seen,
        found.sights,
        heard,
        calibration=found.engine.calibration,
        max_offset_ms=200,
        tolerance=found.detector.tolerance,
        common={
            "path": "clip",
            "model": found.engine.name,
            "speech_s": found.speech_s,
            "warnings": found.engine.warnings,
            "max_offset_ms": 200,
        },
    )
    assert result.model.startswith(f"{arch}-")
    assert result.curve is not None
    assert result.curve.shift_ms == tuple(range(-200, 201, 40))
    assert result.status.value == "ambiguous"  # these weights know nothing
    assert "not calibrated" in result.warnings[0]


def test_checkpoint_to_command_line(clip: Path, golden_state: Any, tmp_path: Path) -> None:
    """A published file → avsync export → avsync score, avsync lse."""
    state = {f"module.{name}": tensor for name, tensor in golden_state("syncnet").items()}
    torch.save({"state_dict": state, "epoch": 9}, tmp_path / "syncnet.pt")
    folder = str(tmp_path / "model")

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code in (0, 3), done.stderr
        return done.stdout

    made = run(
        "export", "--arch", "syncnet", "--checkpoint", str(tmp_path / "syncnet.pt"), "-o", folder
    )
    assert "syncnet-" in made
    result = json.loads(run("score", str(clip), "--model", folder, "--json", "--threads", "1"))
    assert result["model"].startswith("syncnet-")
    assert result["status"] == "ambiguous"
    assert any("not calibrated" in w for w in result["warnings"])
    found = json.loads(run("lse", str(clip), "--model", folder, "--json", "--threads", "1"))
    assert found["model"] == result["model"]
    assert found["lse_d"] > 0
    assert found["lse_c"] >= 0
    assert found["offset_ms"] == 40 * found["offset_frames"]


def test_lse_of_a_clip_is_that_of_torchs_embeddings(
    clip: Path, exported: Any, watched: Any, golden_network: Any
) -> None:
    """The public evaluation's own steps on the same crops: embed, pad by zeros, compare."""
    found: Watched = watched("syncnet")
    taken, network = found.engine.model.convention, golden_network("syncnet")
    track, sound = found.tracks[0], found.sound
    assert track.first == sound.first == 0
    count = min(track.frames - 5, sound.count)
    crops = np.concatenate(found.crops)[: track.frames]
    with torch.no_grad():
        lip = torch.cat(
            [
                network.encode_video(torch.from_numpy(video_windows(crops, i, i + 1, taken)))
                for i in range(count)
            ]
        ).numpy()
        voice = torch.from_numpy(audio_windows(sound.features, 0, count, taken))
        voice = np.pad(network.encode_audio(voice).numpy(), ((15, 15), (0, 0)))
    rows = np.array(
        [[np.linalg.norm(v - voice[i + s]) for s in range(31)] for i, v in enumerate(lip)]
    )
    mean = rows.mean(0)
    got = lse(clip, exported("syncnet"), provider="cpu", threads=1)
    (face,) = got.tracks
    assert face.windows == count
    assert got.lse_d == face.lse_d == pytest.approx(mean.min(), rel=1e-4)
    assert got.lse_c == pytest.approx(np.median(mean) - mean.min(), rel=1e-3, abs=1e-4)
    assert got.offset_frames == 15 - int(mean.argmin())
