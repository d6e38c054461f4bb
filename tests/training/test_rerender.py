"""New faces for old lips: what stays the driver's, and what becomes the other's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avsync.training.commands import UNFIT  # noqa: E402
from avsync.training.data import ClipFeatures, load_features  # noqa: E402
from avsync.training.rerender import (  # noqa: E402
    POINTS,
    Gallery,
    MeshedClip,
    build_rerendered,
    meshed,
    rerendered,
    turned,
)

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
TICKS = 40


def clip(name: str, skin: int, *, turn: float = 0.0, opens: bool = True) -> MeshedClip:
    """A grey face; its mouth, black between its lips, opens and shuts (or never does)."""
    gaps = 4 + 4 * np.sin(np.arange(TICKS) / 3) if opens else np.full(TICKS, 1.0)
    points = np.zeros((TICKS, len(POINTS), 2), np.float32)
    rng = np.random.default_rng(1)
    points[:, 40:] = rng.uniform((20, 15), (92, 78), (len(POINTS) - 40, 2))
    points[:, 45] = (56 + 40 * turn, 25)
    around = np.linspace(0, 2 * np.pi, 20, endpoint=False) + np.pi  # corner, above, corner, below
    crops = np.full((TICKS, 80, 112), skin, np.uint8)
    for t, gap in enumerate(gaps):
        for first, wide, tall in ((0, 18, gap), (20, 20, gap + 4)):
            points[t, first : first + 20] = np.stack(
                [56 + wide * np.cos(around), 40 + tall * np.sin(around)], 1
            )
        y, x = np.mgrid[:80, :112]
        crops[t][((x - 56) / 18) ** 2 + ((y - 40) / max(gap, 0.1)) ** 2 < 1] = 5
    features = ClipFeatures(
        name,
        0,
        crops,
        np.ones(TICKS, bool),
        gaps.astype(np.float32),
        np.zeros((4 * TICKS, 80), np.float16),
        0,
        50.0,
    )
    return MeshedClip(features, points)


@pytest.mark.parametrize("lips", [True, False])
def test_the_mouth_moves_as_the_drivers_on_the_skin_of_the_other(lips: bool) -> None:
    driver, face = clip("a", 200), clip("b", 90)
    made = rerendered(driver, face, lips=lips)
    assert made is not None
    assert made.clip == "a"
    assert made.mel is driver.features.mel
    assert np.abs(made.crops[:, 70:, :10].astype(int) - 90).max() <= 1
    dark = (made.crops[:, 25:55, 30:82] < 50).sum((1, 2))
    own = (driver.features.crops[:, 25:55, 30:82] < 50).sum((1, 2))
    assert np.corrcoef(dark, own)[0, 1] > 0.95
    assert dark.max() > 0.5 * own.max()


def test_a_face_without_enough_meshes_is_not_used() -> None:
    driver, face = clip("a", 200), clip("b", 90)
    face.points[:] = np.nan
    assert rerendered(driver, face) is None
    assert not Gallery([face], {"b": "B"}).clips
    driver.points[: TICKS // 2] = np.nan
    assert rerendered(driver, clip("b", 90)) is None


def test_a_gallery_gives_other_peoples_faces_turned_alike() -> None:
    clips = [clip("a", 200), clip("b", 90), clip("c", 90, turn=0.2), clip("d", 90, turn=0.2)]
    gallery = Gallery(clips, {"a": "A", "b": "A", "c": "C", "d": "D"})
    rng = np.random.default_rng(0)
    assert gallery.face_for(clips[0], rng) is None  # its own other clip, or turned otherwise
    other = gallery.face_for(clips[2], rng)
    assert other is not None
    assert other.features.clip == "d"
    assert turned(clips[2].points[0]) == pytest.approx(0.2, abs=0.01)
    shaking = clip("e", 90)
    shaking.points[:20, 45, 0] += 15
    assert (
        Gallery(clips, {"e": "E", "a": "A", "b": "A", "c": "C", "d": "D"}).face_for(shaking, rng)
        is None
    )


def test_made_clips_are_named_as_their_drivers_and_made_once(tmp_path: Path) -> None:
    meshes, out = tmp_path / "meshes", tmp_path / "out"
    meshes.mkdir()
    for made in (clip("a", 200), clip("b", 90), clip("s", 90, opens=False)):
        made.save(meshes / f"{made.features.clip}.npz")
    who = {"a": "A", "b": "B", "s": "S"}
    assert build_rerendered(meshes, out, ["a", "b"], who, seed=1, jobs=1) == 2
    stamps = {f.name: f.stat().st_mtime_ns for f in out.iterdir()}
    assert set(stamps) == {"a.npz", "b.npz"}
    assert load_features(out / "a.npz").clip == "a"
    assert build_rerendered(meshes, out, ["a", "b"], who, seed=1, jobs=1) == 2
    assert {f.name: f.stat().st_mtime_ns for f in out.iterdir()} == stamps


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the training corpus is not here")
def test_a_real_clip_is_meshed_in_the_pixels_of_its_crops() -> None:
    from avsync.training.data import list_clips

    row = next(r for r in list_clips(CORPUS) if r["trusted_sync"] and r["source"] not in UNFIT)
    found = meshed(CORPUS / row["file"], row["id"], ticks=30)
    assert found is not None
    assert found.points.shape == (len(found.features.crops), len(POINTS), 2)
    seen = np.isfinite(found.points[:, 0, 0])
    assert seen.mean() > 0.8
    middle = np.median(found.points[seen][:, 20:40].mean(1), 0)
    assert np.abs(middle - [55.5, 32.5]).max() < 6  # lips lie above the crop's centre
