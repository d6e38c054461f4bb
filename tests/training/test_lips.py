"""Shapes of lips: the same for a mirrored face, of the very ticks, and learned by tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_encoder import TINY, random_batch  # noqa: E402

from avsync.training.data import ClipFeatures  # noqa: E402
from avsync.training.fit import Sampler, TrainConfig, Trainer, together  # noqa: E402
from avsync.training.lips import (  # noqa: E402
    PAIRS,
    SHAPES,
    LipShapeLoss,
    lip_shapes,
    load_shapes,
    moving,
)
from avsync.training.rerender import INSIDE, LIPS, POINTS, MeshedClip  # noqa: E402

TICKS = 60


def points(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(20, 90, (TICKS, len(POINTS), 2)).astype(np.float32)


def clip(name: str, ticks: int = TICKS, first: int = 3) -> ClipFeatures:
    """Frame t shows t."""
    crops = np.zeros((ticks, 80, 112), np.uint8) + np.arange(ticks, dtype=np.uint8)[:, None, None]
    one = np.ones(ticks, np.float32)
    mel = np.zeros((4 * ticks, 80), np.float16)
    return ClipFeatures(name, first, crops, one > 0, one, mel, 0, 50.0)


def test_shapes_know_no_side_no_place_and_no_size() -> None:
    face = points()
    shapes = lip_shapes(face)
    assert shapes is not None
    assert shapes.shape == (TICKS, len(PAIRS))
    partner = (10 - np.arange(20)) % 20  # of the points around the mouth, from a corner on
    mirrored = face.copy()
    for ring in (INSIDE, LIPS):
        mirrored[:, ring] = face[:, ring][:, partner] * [-1, 1]
    np.testing.assert_allclose(lip_shapes(mirrored * 1.7 + 5), shapes, rtol=1e-4)
    wide = PAIRS.index(((61, 291),))
    assert np.median(shapes[:, wide]) == pytest.approx(1)


def test_where_the_mesh_is_lost_nothing_is_said() -> None:
    face = points()
    face[7] = np.nan
    shapes = lip_shapes(face)
    assert shapes is not None
    assert np.isnan(moving(shapes)).any(1).sum() == 3  # the middle, or an end of the change
    face[:10] = np.nan
    assert lip_shapes(face) is None


def test_only_meshes_of_the_same_ticks_count(tmp_path: Path) -> None:
    for name, first, ticks in (("same", 3, 60), ("other", 4, 60), ("short", 3, 40)):
        MeshedClip(clip(name, ticks, first), points()[:ticks]).save(tmp_path / f"{name}.npz")
    clips = [clip(name) for name in ("same", "other", "short", "none")]
    assert list(load_shapes(tmp_path, clips)) == ["same"]


def test_windows_bring_the_shapes_of_their_frames() -> None:
    frame = np.repeat(np.arange(TICKS, dtype=np.float32)[:, None], len(PAIRS), 1)
    known = Sampler([clip("a")], tokens=20, seed=0, lips={"a": frame}, paces=True)
    strange = Sampler([clip("b")], tokens=20, seed=0, lips={"a": frame})
    for _ in range(5):
        crops, *_, shapes = together(lambda: known.draw(1), lambda: strange.draw(1))
        assert shapes.shape == (2, 20, SHAPES)
        assert torch.isnan(shapes[1]).all()
        seen = crops[0, :, 0, 0].float()
        torch.testing.assert_close(shapes[0, :, 0], seen[2:-2])
        torch.testing.assert_close(shapes[0, :, -1], seen[4:] - seen[:-4])


def test_tokens_learn_shapes() -> None:
    torch.manual_seed(0)
    loss, tokens = LipShapeLoss(8), torch.randn(4, 30, 8)
    wanted = tokens @ torch.randn(8, SHAPES) * 0.1 + 0.3
    wanted[0, 5:9] = float("nan")
    optimiser = torch.optim.Adam(loss.parameters(), lr=0.03)
    values = []
    for _ in range(150):
        optimiser.zero_grad()
        value = loss(tokens, wanted)
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.1 * values[0]
    assert float(loss(tokens, torch.full_like(wanted, float("nan")))) == 0


def test_a_step_learns_from_shapes() -> None:
    config = TrainConfig(encoder=TINY, steps=1, lips=0.5, tokens=20, threads=1)
    trainer = Trainer(config)
    batch = random_batch(20, [15.0, 16.0])
    head = trainer.losses.lips.head.weight
    before = head.detach().clone()
    parts = trainer.step((*batch, torch.rand(2, 20, SHAPES)))
    assert parts["lips"] > 0
    assert (head - before).abs().max() > 0
    assert "lips" not in trainer.step(batch)
