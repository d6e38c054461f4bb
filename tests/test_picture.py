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


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "rgb24"])
def test_small_copies_look_the_same(form: str) -> None:
    picture = Picture.from_frame(decoded(colours(), form), 1920)
    small = picture.small(4).astype(int)
    want = colours().reshape(18, 4, 32, 4, 3).mean((1, 3))
    assert small.shape == (18, 32, 3)
    assert np.abs(small - want).max() <= 8
    sketch = picture.sketch(4).astype(int)
    assert sketch.shape == (18, 32)
    assert np.abs(sketch - want @ [0.299, 0.587, 0.114]).max() <= 8


@pytest.mark.parametrize("form", ["yuv420p", "rgb24"])
@pytest.mark.parametrize(("shrink", "shape"), [(3, (24, 42)), (5, (14, 24)), (8, (8, 16))])
def test_what_is_left_over_is_left_out_of_small_copies(
    form: str, shrink: int, shape: tuple[int, int]
) -> None:
    small = Picture.from_frame(decoded(colours(), form), 1920).small(shrink).astype(int)
    assert small.shape[:2] == shape
    tall, wide = shape
    part = colours()[: tall * shrink, : wide * shrink].astype(float)
    want = part.reshape(tall, shrink, wide, shrink, 3).mean((1, 3))
    assert np.abs(small - want).max() <= 8 + shrink / 2  # colours are shared by two and two


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "rgb24"])
@pytest.mark.parametrize("shrink", [2, 3, 4])
def test_regions_are_averaged_in_place(form: str, shrink: int) -> None:
    picture = Picture.from_frame(decoded(colours(), form), 1920)
    part = picture.rgb()[13 : 13 + 12 * shrink, 21 : 21 + 12 * shrink].astype(float)
    want = part.reshape(12, shrink, 12, shrink, 3).mean((1, 3))
    box = (21, 13, 21 + 12 * shrink, 13 + 12 * shrink)
    assert np.abs(picture.region(*box, shrink=shrink) - want).max() <= 3
    grey = want @ [0.299, 0.587, 0.114]
    assert np.abs(picture.grey(*box, shrink=shrink) - grey).max() <= 3


def test_large_pictures_are_scaled_down() -> None:
    picture = Picture.from_frame(decoded(colours(640, 360), "yuv420p"), 320)
    assert picture.shape == (180, 320)
    assert picture.region(10, 10, 20, 30).shape == (20, 10, 3)


@pytest.mark.parametrize("form", ["yuv420p", "yuvj420p", "rgb24"])
@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (1920, 6), (6, 1080)])
def test_pictures_of_a_few_rows_have_small_copies_too(form: str, size: tuple[int, int]) -> None:
    picture = Picture.from_frame(decoded(colours(*size), form), 4000)
    assert picture.shape == size[::-1]
    for shrink in (1, 4, 8, 16):
        small, sketch = picture.small(shrink), picture.sketch(shrink)
        assert small.shape == (*(max(2, s // shrink // 2 * 2) for s in size[::-1]), 3)
        assert sketch.shape == small.shape[:2]
        assert np.abs(small.mean((0, 1)) - picture.rgb().mean((0, 1))).max() < 6
        assert abs(sketch.mean() - picture.grey(0, 0, *size).mean()) < 6
