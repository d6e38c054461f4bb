"""Pictures converted in part: the same colours as the whole, whatever the format and the place."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from avsync.picture import Picture

Image = npt.NDArray[np.uint8]


def colours(width: int = 128, height: int = 72) -> Image:
    """Smooth in every channel, so that halved chroma loses nothing that counts."""
    y, x = np.mgrid[:height, :width]
    out = np.stack([40 + x, 200 - 1.5 * y, 60 + 0.5 * x + y], -1)
    return out.clip(0, 255).astype(np.uint8)


def decoded(image: Image, form: str) -> Any:
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=form)


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "yuv422p", "yuv420p10le", "gray", "rgb24"])
def test_any_format_gives_its_colours(form: str) -> None:
    want = colours().astype(int)
    picture = Picture.from_frame(decoded(colours(), form), 1920)
    assert picture.shape == (72, 128)
    grey = want @ [0.299, 0.587, 0.114]
    if form == "gray":
        want = np.repeat(grey[..., None], 3, 2)
    assert np.abs(picture.rgb() - want)[2:-2, 2:-2].max() <= 8
    assert np.abs(picture.grey(0, 0, 128, 72) - grey).mean() <= 2.5


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "rgb24"])
@pytest.mark.parametrize(
    "box", [(0, 0, 128, 72), (10, 20, 50, 60), (11, 21, 50, 59), (127, 71, 128, 72)]
)
def test_a_region_is_that_part_of_the_whole(form: str, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    whole = Picture.from_frame(decoded(colours(), form), 1920).rgb().astype(int)
    picture = Picture.from_frame(decoded(colours(), form), 1920)
    part = picture.region(*box)
    assert part.shape == (bottom - top, right - left, 3)
    assert np.abs(part - whole[top:bottom, left:right]).max() <= 3
    grey = whole[top:bottom, left:right] @ [0.299, 0.587, 0.114]
    assert np.abs(picture.grey(*box) - grey).max() <= 3


@pytest.mark.parametrize("form", ["yuv420p", "rgb24"])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_small_copies_look_the_same(form: str, step: int) -> None:
    picture = Picture.from_frame(decoded(colours(), form), 1920)
    small = picture.small(32, 18, step=step).astype(int)
    want = colours().reshape(18, 4, 32, 4, 3).mean((1, 3))
    assert small.shape == (18, 32, 3)
    assert np.abs(small - want).max() <= 8


def test_large_pictures_are_scaled_down() -> None:
    picture = Picture.from_frame(decoded(colours(640, 360), "yuv420p"), 320)
    assert picture.shape == (180, 320)
    assert picture.region(10, 10, 20, 30).shape == (20, 10, 3)
