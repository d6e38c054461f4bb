"""Whole-face crops: which part of the picture they show, where it ends, and how the box is held."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from avsync.crops import RENDER_TICKS, CropChunk, Pose
from avsync.face_crops import FaceCropMaker, FaceStyle
from avsync.picture import Picture
from avsync.published import CONVENTIONS, syncnet_crop

SYNCNET = FaceStyle.of(CONVENTIONS["syncnet"])
HALF = FaceStyle.of(CONVENTIONS["mtdvocalist"])
POSE = Pose(40.0, 0.0, np.zeros(2), np.zeros(2), 0.1)


def ramp(width: int = 500, height: int = 400) -> npt.NDArray[np.uint8]:
    """A picture whose red is half of x and whose green is half of y; blue is 200."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x / 2, y / 2, np.full_like(x, 200)], -1).round().astype(np.uint8)


def crops(
    boxes: list[Any],
    style: FaceStyle,
    *,
    measured: list[bool] | None = None,
    fresh: list[bool] | None = None,
    image: npt.NDArray[np.uint8] | None = None,
) -> list[CropChunk]:
    maker = FaceCropMaker(7, style=style)
    picture = ramp() if image is None else image
    out = []
    for i, box in enumerate(boxes):
        at = np.array(box, float)
        kept = maker.keep(Picture.of(picture), at)
        pose = POSE if measured is None or measured[i] else None
        ready = maker.push(30 + i, kept, at, pose, 0.0 if fresh is None or fresh[i] else 0.1)
        out += [ready] if ready is not None else []
    last = maker.close()
    return [*out, last] if last is not None else out


def places(crop: npt.NDArray[np.uint8]) -> tuple[Any, Any]:
    """The picture's x of each column and y of each row of a crop of the ramp."""
    return 2.0 * crop[..., 0].mean(0), 2.0 * crop[..., 1].mean(1)


def wanted(low: float, high: float, side: int) -> Any:
    return low + (np.arange(side) + 0.5) * (high - low) / side - 0.5


def assert_places(got: Any, low: float, high: float) -> None:
    """Evenly from one edge to the other: without bias, single ones within the ramp's rounding."""
    apart = got - wanted(low, high, len(got))
    assert np.abs(apart).max() < 2.5
    assert abs(apart.mean()) < 0.3
    assert abs(np.polyfit(np.linspace(-0.5, 0.5, len(got)), apart, 1)[0]) < 0.6


def test_styles_are_those_of_the_conventions() -> None:
    assert (SYNCNET.side, SYNCNET.padded, SYNCNET.grey) == (224, True, 110)
    assert (HALF.side, HALF.padded) == (96, False)


def test_syncnet_sees_its_square_around_the_box() -> None:
    box = (200, 150, 280, 250)
    (chunk,) = crops([box] * 20, SYNCNET)
    left, top, right, bottom = syncnet_crop(box)
    assert (left, top, right, bottom) == (170, 150, 310, 290)
    x, y = places(chunk.crops[10])
    assert_places(x, left, right)
    assert_places(y, top, bottom)
    assert chunk.crops.shape == (20, 224, 224, 3)
    assert chunk.crops.dtype == np.uint8
    assert (chunk.track, chunk.first, chunk.last) == (7, 30, True)
    assert chunk.valid.all()
    assert chunk.boxes[3].tolist() == list(box)
    assert chunk.opening == pytest.approx(0.1)


def test_vocalist_sees_the_box_stretched_to_a_square() -> None:
    (chunk,) = crops([(200, 150, 280, 250)] * 20, HALF)
    x, y = places(chunk.crops[10])
    assert chunk.crops.shape == (20, 96, 96, 3)
    assert_places(x, 200, 280)
    assert_places(y, 150, 250)


def test_beyond_the_picture_syncnet_sees_grey_110() -> None:
    (chunk,) = crops([(5, 10, 105, 110)] * 20, SYNCNET)  # the square begins at x = -15
    crop = chunk.crops[10]
    edge = round(15 / 140 * 224)
    assert (crop[:, : edge - 2] == 110).all()
    assert (crop[40:-40, edge + 2 :, 2] == 200).all()
    bottom = crops([(200, 320, 280, 400)] * 20, SYNCNET)[0].crops[10]
    assert (bottom[-30:] == 110).all()


def test_beyond_the_picture_vocalists_box_is_cut_off() -> None:
    (chunk,) = crops([(-30, 50, 90, 150)] * 20, HALF)
    x, y = places(chunk.crops[10])
    assert_places(x, 0, 90)
    assert_places(y, 50, 150)


def test_one_wrong_box_moves_nothing() -> None:
    boxes = [(200, 150, 280, 250)] * 30
    plain = crops(boxes, HALF)[0].crops
    boxes[15] = (230, 160, 300, 240)
    jumped = crops(boxes, HALF)[0].crops
    assert np.abs(plain.astype(int) - jumped).max() <= 2  # its own patch has another place
    assert np.array_equal(plain[:15], jumped[:15])


def test_a_moving_face_is_followed_without_delay() -> None:
    boxes = [(100 + 3 * i, 150, 180 + 3 * i, 250) for i in range(60)]
    crop = np.concatenate([c.crops for c in crops(boxes, HALF)])
    for i in (10, 30, 50):
        x, _ = places(crop[i])
        assert x.mean() == pytest.approx(139.5 + 3 * i, abs=1)


def test_boxes_between_meshes_are_interpolated() -> None:
    true = [(100 + 3 * i, 150, 180 + 3 * i, 250) for i in range(60)]
    measured = [i % 2 == 0 for i in range(60)]
    stale = [true[i - i % 2] for i in range(60)]  # the box is that of the last mesh
    crop = np.concatenate([c.crops for c in crops(stale, HALF, measured=measured)])
    x, _ = places(crop[31])
    assert x.mean() == pytest.approx(139.5 + 93, abs=1)


def test_unseen_and_stale_ticks_are_not_valid() -> None:
    n = 40
    measured = [not 10 <= i < 25 for i in range(n)]
    fresh = [i != 33 for i in range(n)]
    chunks = crops([(200, 150, 280, 250)] * n, HALF, measured=measured, fresh=fresh)
    valid = np.concatenate([c.valid for c in chunks])
    assert valid.tolist() == [not (14 <= i < 21 or i == 33) for i in range(n)]


def test_a_face_without_mesh_is_never_valid() -> None:
    (chunk,) = crops([(200, 150, 280, 250)] * 5, HALF, measured=[False] * 5)
    assert not chunk.valid.any()
    assert chunk.opening.tolist() == [0] * 5


def test_long_tracks_come_in_chunks_that_join() -> None:
    found = crops([(200, 150, 280, 250)] * 170, HALF)
    assert [c.first for c in found] == [30, *np.cumsum([len(c) for c in found[:-1]]) + 30]
    assert all(50 <= len(c) < 50 + RENDER_TICKS for c in found[:-1])
    assert sum(len(c) for c in found) == 170
    assert [c.last for c in found] == [False] * (len(found) - 1) + [True]
