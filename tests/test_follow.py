"""A head found again between two meshes: its true places, or nothing where it is not the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_crops import Head, Image, crops_of, joined, lips_centre, wanted_crop

from avsync.crops import EYE_DISTANCE_PX, FacePatch, Pose
from avsync.follow import anchors_between
from avsync.picture import Picture


def patch(head: Head, picture: Image | None = None) -> FacePatch:
    shown = head.draw() if picture is None else picture
    return FacePatch.cut(Picture.of(shown), np.array([240.0, 155.0]), 200.0, luma=True)


def nod(ticks: int, far: float = 0.1, scale: float = 40.0) -> list[Head]:
    """Nods of ``far`` eye distances at 3 Hz, beginning and ending on the way."""
    return [
        Head(scale=scale, y=140 + far * scale * np.sin(2 * np.pi * 3 * i / 25), x=240 + 0.2 * i)
        for i in range(ticks)
    ]


@pytest.mark.parametrize("scale", [25.0, 40.0, 70.0])
@pytest.mark.parametrize("roll", [0.0, 0.4])
def test_a_nod_between_two_meshes_is_followed(scale: float, roll: float) -> None:
    heads = [replace(h, roll=roll) for h in nod(9, scale=scale)]
    found = anchors_between(heads[0].pose, heads[-1].pose, [patch(h) for h in heads])
    assert found is not None
    true = np.array([h.pose.anchor for h in heads])
    line = np.linspace(true[0], true[-1], 9)[1:-1]
    assert np.abs(line - true[1:-1]).max() > 0.1 * scale  # what interpolation would miss
    # Half a pixel of the crop.
    assert np.abs(found - true[1:-1]).max() < 0.5 * scale / EYE_DISTANCE_PX


def test_light_that_changes_moves_nothing() -> None:
    heads = nod(7)
    lights = [(h.draw() * 0.8 + 3.0 * i).astype(np.uint8) for i, h in enumerate(heads)]
    patches = [patch(h, light) for h, light in zip(heads, lights, strict=True)]
    found = anchors_between(heads[0].pose, heads[-1].pose, patches)
    assert found is not None
    true = np.array([h.pose.anchor for h in heads])[1:-1]
    assert np.abs(found - true).max() < 0.5 * 40 / EYE_DISTANCE_PX


def test_what_misses_the_next_mesh_is_not_believed() -> None:
    heads = nod(9)
    patches = [patch(h) for h in heads]
    far = heads[-1].pose
    moved = Pose(far.scale, far.roll, far.anchor + [6.0, 0.0], far.mouth, far.opening)
    assert anchors_between(heads[0].pose, moved, patches) is None


def test_a_picture_without_detail_is_not_believed() -> None:
    heads = nod(7)
    flat = [patch(h, np.full((360, 480, 3), 90, np.uint8)) for h in heads]
    last = Pose(40.0, 0.0, heads[0].pose.anchor + [4.0, 0.0], np.zeros(2), 0.0)
    assert anchors_between(heads[0].pose, last, flat) is None


def test_crops_between_meshes_stay_on_the_mouth() -> None:
    """Meshed at every eighth tick only, a nodding head's crops hold still."""
    heads = nod(60, far=0.05)
    measured = [i % 8 == 0 for i in range(60)]
    want = wanted_crop(lips_centre())
    followed = joined(crops_of(heads, measured=measured, luma=True)).astype(float)[12:44]
    straight = joined(crops_of(heads, measured=measured)).astype(float)[12:44]
    off = [float(np.abs(c - want).mean()) for c in followed]
    assert max(off) < 0.5 * max(float(np.abs(c - want).mean()) for c in straight)
