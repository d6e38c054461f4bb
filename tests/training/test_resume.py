"""A resumed run goes on with the offsets that cleaning found when it began."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_encoder import TINY  # noqa: E402

from avsync.runtime import Calibration, SyncModel  # noqa: E402
from avsync.training.clean import by_model  # noqa: E402
from avsync.training.commands import _own_offsets  # noqa: E402
from avsync.training.data import ClipFeatures  # noqa: E402
from avsync.training.encoder import SyncEncoder, shipped  # noqa: E402
from avsync.training.evaluate import clip_tokens, score_rows  # noqa: E402
from avsync.training.export import export_model, save_weights  # noqa: E402


def noise(name: str) -> ClipFeatures:
    rng = np.random.default_rng(sum(name.encode()))
    ticks = 60
    crops = rng.integers(0, 255, (ticks, 80, 112), np.uint8)
    mel = rng.standard_normal((4 * ticks, 80)).astype(np.float16)
    return ClipFeatures(
        name, 0, crops, np.ones(ticks, bool), np.zeros(ticks, np.float32), mel, 0, 50.0
    )


def test_cleaned_once_and_taken_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_weights(SyncEncoder(TINY), tmp_path / "tiny.pt")
    clips = [noise("a"), noise("b")]
    rows = {c.clip: {"source": "s", "kind": "real"} for c in clips}
    monkeypatch.setattr("avsync.training.clean.MIN_MARGIN", -1.0)
    monkeypatch.setattr("avsync.training.clean.HALVES_AGREE", 1000.0)
    monkeypatch.setattr("avsync.training.clean.MAX_LATE", 1000.0)
    late, weight = _own_offsets(tmp_path / "run", tmp_path / "tiny.pt", clips, rows)
    assert set(late) == {"a", "b"}
    assert weight == {"a": 1.0, "b": 1.0}
    assert "cleaned 2 clips" in capsys.readouterr().out
    (tmp_path / "tiny.pt").unlink()
    for model in (tmp_path / "tiny.pt", None):
        assert _own_offsets(tmp_path / "run", model, clips, rows) == (late, weight)
    assert capsys.readouterr().out == ""


def test_a_model_folder_finds_what_its_checkpoint_finds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SyncEncoder(TINY).eval()
    uncalibrated = Calibration(scale=20, features=(), weights=(0.0,), method="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's deprecations
        export_model(model, tmp_path, name="tiny", calibration=uncalibrated)
    clip = replace(noise("a"), first=7, lead=13)  # neither begins with the other
    video, audio, lag = clip_tokens(model, clip)
    local = TINY.local_dim
    both = (
        shipped(*torch.from_numpy(x).split([local, x.shape[1] - local], 1)) for x in (video, audio)
    )
    want = 2 * score_rows(*(x.numpy() for x in both), lag)
    got = by_model(SyncModel(tmp_path, provider="cpu", threads=1), clip)[2:-2]
    assert np.array_equal(np.isnan(got), np.isnan(want))
    middle = slice(12, -12)  # what the ends of the clip are filled up with differs
    assert np.nanmax(np.abs(got[middle, 10:21] - want[middle, 10:21])) < 1e-4
