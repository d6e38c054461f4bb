"""Packed features: nearly what went in, in shards that are never too large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avsync.errors import AVSyncError
from avsync.training.data import ClipFeatures, load_features, save_features
from avsync.training.pack import MEL_LOW, MEL_SPAN, pack, pack_clip, unpack, unpack_clip


def clip(name: str = "one", ticks: int = 30, seed: int = 0) -> ClipFeatures:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:80, :112]
    wave = [100 + 60 * np.sin(x / 9 + t / 3) * np.cos(y / 7) for t in range(ticks)]
    mel = rng.uniform(MEL_LOW, 3, (4 * ticks + 5, 80))
    mel[:3] = MEL_LOW
    return ClipFeatures(
        clip=name,
        first=7,
        crops=np.stack(wave).round().astype(np.uint8),
        valid=rng.random(ticks) < 0.8,
        opening=rng.random(ticks).astype(np.float32),
        mel=mel.astype(np.float16),
        lead=11,
        eye_px=63.5,
    )


def test_comes_back_nearly_the_same() -> None:
    before = clip()
    film, data = pack_clip(before)
    after = unpack_clip("one", film, data)
    assert after.crops.shape == before.crops.shape
    assert after.crops.dtype == np.uint8
    assert np.abs(after.crops.astype(int) - before.crops).mean() < 3
    step = MEL_SPAN / 255
    off = np.abs(after.mel.astype(np.float32) - before.mel.astype(np.float32))
    assert off.max() <= step / 2 + 0.01  # half precision adds up to 0.004
    assert (after.mel[:3] == np.float16(MEL_LOW)).all()
    np.testing.assert_array_equal(after.valid, before.valid)
    np.testing.assert_allclose(after.opening, before.opening, atol=1e-3)
    assert (after.clip, after.first, after.lead, after.eye_px) == ("one", 7, 11, 63.5)
    assert len(film) < before.crops.nbytes / 10


def test_shards_and_back(tmp_path: Path) -> None:
    cache, files = tmp_path / "cache", []
    cache.mkdir()
    for i in range(5):
        files.append(cache / f"clip{i}.npz")
        save_features(clip(f"clip{i}", seed=i), files[-1])
    size = sum(map(len, pack_clip(load_features(files[0])))) / (1 << 20)
    done: list[float] = []
    shards = pack(
        files, tmp_path / "shards", index='{"id": "x"}', shard_mib=2.5 * size, progress=done.append
    )
    assert [s.name for s in shards] == ["shard-000.zip", "shard-001.zip", "shard-002.zip"]
    assert all(s.stat().st_size <= 2.5 * size * (1 << 20) for s in shards)
    assert done == [0.2, 0.4, 0.6, 0.8, 1.0]
    again = tmp_path / "again"
    assert unpack(shards, again) == 5
    names = [*(f.name for f in files), "index.jsonl"]
    assert sorted(p.name for p in again.iterdir()) == names
    assert (again / "index.jsonl").read_text() == '{"id": "x"}'
    assert load_features(again / "clip3.npz").lead == 11
    kept = (again / "clip3.npz").stat().st_mtime_ns
    assert unpack(shards, again) == 5
    assert (again / "clip3.npz").stat().st_mtime_ns == kept


def test_fewer_shards_leave_no_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "one.npz"
    save_features(clip(), file)
    (tmp_path / "shard-007.zip").write_bytes(b"old")
    assert [s.name for s in pack([file], tmp_path)] == ["shard-000.zip"]
    assert not (tmp_path / "shard-007.zip").exists()


def test_damaged(tmp_path: Path) -> None:
    film, data = pack_clip(clip())
    with pytest.raises(AVSyncError, match="one: damaged"):
        unpack_clip("one", film[:50], data)
    with pytest.raises(AVSyncError, match="one: damaged"):
        unpack_clip("one", film, data[:90])
    (tmp_path / "shard-000.zip").write_bytes(b"no zip")
    with pytest.raises(AVSyncError, match="not a shard"):
        unpack([tmp_path / "shard-000.zip"], tmp_path / "cache")
