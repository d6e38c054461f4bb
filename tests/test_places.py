"""Places of mouths: the same crops as the product's, for callers who warp for themselves."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from test_crops import Head, away, lips_centre, wanted_crop

from avsync.crops import CROP_HEIGHT, CROP_WIDTH
from avsync.errors import InvalidArrayError
from avsync.places import find_mouths, mouth_places

HEADS = [Head(), Head(scale=70, roll=0.4, x=250, y=120), Head(scale=55, roll=-1.2, x=230)]


@pytest.mark.parametrize("head", HEADS)
def test_a_warp_by_the_place_is_the_crop(head: Head) -> None:
    (place,) = mouth_places(head.mesh()[None])
    grey = cv2.cvtColor(head.draw(), cv2.COLOR_RGB2GRAY)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(grey, place.astype(np.float64), (CROP_WIDTH, CROP_HEIGHT), flags=flags)
    assert away(crop, wanted_crop(lips_centre())) < 4


def test_places_follow_the_head_and_not_the_jaw() -> None:
    heads = [Head(x=240 + t, jaw=0.3 * (t % 2)) for t in range(40)]
    places = mouth_places(np.stack([h.mesh() for h in heads]))
    assert places.shape == (40, 2, 3)
    assert places.dtype == np.float32
    steps = np.diff(places[12:-12, :, 2], axis=0)
    assert steps[:, 0] == pytest.approx(np.ones(15), abs=0.05)
    assert np.abs(steps[:, 1]).max() < 0.35  # the jaw moves the lips' middle by 3 px a frame


def test_lost_faces_are_bridged_and_never_seen_ones_are_nan() -> None:
    meshes = np.stack([Head(x=240 + t).mesh() for t in range(11)])
    meshes[4:7] = np.nan
    places = mouth_places(meshes)
    assert np.isfinite(places).all()
    assert np.diff(places[:, 0, 2]) == pytest.approx(np.ones(10), abs=0.75)
    assert np.isnan(mouth_places(np.full((5, 468, 2), np.nan))).all()


def test_no_face_no_place() -> None:
    places, seen = find_mouths(np.zeros((6, 120, 160, 3), np.uint8))
    assert np.isnan(places).all()
    assert not seen.any()


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(InvalidArrayError, match=r"\(T, 468, 2 or 3\)"):
        mouth_places(np.zeros((3, 5, 2)))
    with pytest.raises(InvalidArrayError, match="uint8 RGB"):
        find_mouths(np.zeros((3, 10, 10, 3), np.float32))  # type: ignore[arg-type]
