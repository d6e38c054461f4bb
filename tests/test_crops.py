"""Mouth crops: the same crop wherever the head is, steady against the jaw, no tick lost.

The synthetic head is a smooth picture given by a formula in head coordinates (eye distances, x to
the face's right, y down, origin between the eyes). It is drawn at any place, size and roll by
evaluating the formula, so the crop that must come out is known by formula as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from avsync.crops import (
    BELOW_MOUTH,
    CROP_HEIGHT,
    CROP_WIDTH,
    EYE_DISTANCE_PX,
    LIPS,
    STABLE,
    TEMPLATE,
    CropChunk,
    CropMaker,
    FacePatch,
    Pose,
)
from avsync.picture import Picture

Floats = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
MOUTH = np.array([0.03, 0.85])
WIDTH, HEIGHT = 480, 360


def texture(u: Floats, v: Floats) -> Floats:
    """Grey level 0..255 at head coordinates; no two places of a face look alike."""
    wave = np.sin(3.1 * u + 1.7 * v) + np.sin(5.3 * v - 2.2 * u + 1) + np.cos(4.1 * u + 0.4)
    return 128 + 32 * wave + 20 * np.tanh(u)


@dataclass(frozen=True)
class Head:
    """Where a head is: eye distance (px), roll (rad), middle of the eyes (px), jaw, lip gap."""

    scale: float = 40.0
    roll: float = 0.0
    x: float = 240.0
    y: float = 140.0
    jaw: float = 0.0

    @property
    def turn(self) -> Floats:
        c, s = np.cos(self.roll), np.sin(self.roll)
        return np.array([[c, -s], [s, c]])

    @property
    def origin(self) -> Floats:
        return np.array([self.x, self.y])

    def draw(self, width: int = WIDTH, height: int = HEIGHT) -> Image:
        """The picture: the face's surroundings, black elsewhere."""
        return _drawn(self.scale, self.roll, self.x, self.y, width, height)

    def mesh(self) -> Floats:
        """Mesh points (468, 3) in picture pixels: eyes, nose and temples; lips with the jaw."""
        points = np.zeros((468, 3))
        points[:, :2] = MOUTH * 0.6
        points[STABLE, :2] = TEMPLATE
        angle = np.linspace(0, 2 * np.pi, len(LIPS), endpoint=False)
        points[LIPS, 0] = MOUTH[0] + 0.25 * np.cos(angle)
        points[LIPS, 1] = MOUTH[1] + (0.08 + self.jaw / 2) * np.sin(angle) + self.jaw / 2
        points[[0, 17], 0] = MOUTH[0]
        points[0, 1], points[17, 1] = MOUTH[1] - 0.08, MOUTH[1] + 0.08 + self.jaw
        points[:, :2] = points[:, :2] @ self.turn.T * self.scale + self.origin
        return points

    @property
    def pose(self) -> Pose:
        return Pose.from_mesh(self.mesh())

    @property
    def patch(self) -> FacePatch:
        return _cut(replace(self, jaw=0.0))


@lru_cache(maxsize=8)
def _drawn(scale: float, roll: float, x: float, y: float, width: int, height: int) -> Image:
    image = np.zeros((height, width, 3), np.uint8)
    reach = 2.6 * scale
    rows = slice(max(0, int(y - reach)), max(0, int(y + reach)))
    columns = slice(max(0, int(x - reach)), max(0, int(x + reach)))
    py, px = np.mgrid[rows, columns][:, : height - rows.start, : width - columns.start]
    c, s = np.cos(roll) / scale, np.sin(roll) / scale
    u, v = c * (px - x) + s * (py - y), -s * (px - x) + c * (py - y)
    image[rows, columns] = texture(u, v).clip(0, 255).round()[..., None]
    return image


@lru_cache(maxsize=512)
def _cut(head: Head, luma: bool = False) -> FacePatch:
    centre = head.origin + head.turn @ np.array([0, 0.35]) * head.scale
    return FacePatch.cut(Picture.of(head.draw()), centre, 4.0 * head.scale, luma=luma)


def wanted_crop(mouth: Floats) -> Floats:
    """The crop of a head with its mouth at ``mouth`` (head coordinates), by formula."""
    y, x = np.mgrid[:CROP_HEIGHT, :CROP_WIDTH].astype(float)
    u = mouth[0] + (x - (CROP_WIDTH - 1) / 2) / EYE_DISTANCE_PX
    v = mouth[1] + BELOW_MOUTH + (y - (CROP_HEIGHT - 1) / 2) / EYE_DISTANCE_PX
    return texture(u, v).clip(0, 255)


def lips_centre(jaw: float = 0.0) -> Floats:
    """Mean of the lip points in head coordinates."""
    head = Head(scale=1.0, x=0.0, y=0.0, jaw=jaw)
    return head.mesh()[LIPS, :2].mean(0)


def crops_of(
    heads: list[Head],
    *,
    measured: list[bool] | None = None,
    fresh: list[bool] | None = None,
    chunk: int = 250,
    first: int = 100,
    luma: bool = False,
) -> list[CropChunk]:
    maker = CropMaker(3, chunk=chunk)
    out = []
    for i, head in enumerate(heads):
        pose = head.pose if measured is None or measured[i] else None
        box = np.array([head.x - head.scale, head.y, head.x + head.scale, head.y + i])
        patch = _cut(replace(head, jaw=0.0), luma)
        ready = maker.push(first + i, patch, box, pose, 0.0 if fresh is None or fresh[i] else 0.1)
        if ready is not None:
            out.append(ready)
    ready = maker.close()
    if ready is not None:
        out.append(ready)
    return out


def joined(chunks: list[CropChunk]) -> Image:
    return np.concatenate([c.crops for c in chunks])


def away(got: npt.NDArray[np.uint8], want: Floats) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(got.astype(float) - want).mean())


#: Grey levels by which a crop changes when the head is one crop pixel aside, on average.
ONE_PIXEL = 1.5

PLACES = [
    Head(),
    Head(x=130.0, y=90.0),
    Head(x=301.37, y=171.61),
    Head(scale=30.0),
    Head(scale=110.0, y=120.0),
    Head(roll=0.5),
    Head(roll=-0.9, scale=45.0, x=200.5),
    Head(roll=3.0, y=220.0),
]


class TestAlignment:
    def test_ruler(self) -> None:
        """One crop pixel aside is seen by the measure used below."""
        aside = wanted_crop(lips_centre() + [1 / EYE_DISTANCE_PX, 0])
        assert away(wanted_crop(lips_centre()), aside) > ONE_PIXEL

    @pytest.mark.parametrize("head", PLACES)
    def test_moved_scaled_and_rotated_heads_give_the_same_crop(self, head: Head) -> None:
        crop = joined(crops_of([head] * 3))[1]
        assert crop.shape == (80, 112)
        assert crop.dtype == np.uint8
        assert away(crop, wanted_crop(lips_centre())) < 0.6 * ONE_PIXEL

    def test_large_faces_are_scaled_down_in_place(self) -> None:
        """A face of 300 px between the eyes is looked at through a patch of a fifth's size."""
        head = Head(scale=300.0, x=960.0, y=400.0)
        patch = FacePatch.cut(Picture.of(head.draw(1920, 1080)), np.array([960.0, 520.0]), 1000.0)
        assert patch.zoom == pytest.approx(0.2)
        maker = CropMaker(0)
        maker.push(0, patch, np.zeros(4), head.pose)
        chunk = maker.close()
        assert chunk is not None
        assert away(chunk.crops[0], wanted_crop(lips_centre())) < 0.6 * ONE_PIXEL

    def test_a_head_at_the_edge_is_black_beyond_it_and_right_within(self) -> None:
        crop = joined(crops_of([Head(x=20.0, y=60.0)] * 3))[1].astype(float)
        want = wanted_crop(lips_centre())
        # One pixel of the picture is 88 / 40 pixels of the crop.
        edge = round((CROP_WIDTH - 1) / 2 - (20 + MOUTH[0] * 40) * EYE_DISTANCE_PX / 40)
        assert np.all(crop[:, : edge - 2] == 0)
        assert np.abs(crop - want)[:, edge + 3 :].mean() < 0.6 * ONE_PIXEL

    def test_the_crop_follows_a_moving_rolling_nearing_head(self) -> None:
        heads = [
            Head(scale=50 + 0.3 * i, roll=0.01 * i, x=180 + 2.0 * i, y=120 + 0.5 * i)
            for i in range(50)
        ]
        want = wanted_crop(lips_centre())
        for crop in joined(crops_of(heads))[10:-10]:
            assert away(crop, want) < 0.7 * ONE_PIXEL

    def test_the_crop_follows_a_nod(self) -> None:
        """A nod of a fifth of the eye distance at 1 Hz is followed to a pixel or so."""
        heads = [Head(y=140 + 8 * np.sin(2 * np.pi * i / 25)) for i in range(60)]
        want = wanted_crop(lips_centre())
        assert max(away(c, want) for c in joined(crops_of(heads))[5:-5]) < 1.2 * ONE_PIXEL

    def test_roll_is_followed_across_half_a_turn(self) -> None:
        heads = [Head(roll=np.pi - 0.1 + 0.02 * i, y=200.0) for i in range(30)]
        want = wanted_crop(lips_centre())
        assert max(away(c, want) for c in joined(crops_of(heads))[5:-5]) < 0.7 * ONE_PIXEL


class TestJaw:
    def test_the_crop_follows_the_head_and_not_the_jaw(self) -> None:
        """Lips that open by 0.3 eye distances at 4 Hz move the crop by a tenth of it."""
        jaws = [0.15 * (1 - np.cos(2 * np.pi * 4 * i / 25)) for i in range(75)]
        raw = np.array([lips_centre(j)[1] for j in jaws]) * EYE_DISTANCE_PX
        assert np.ptp(raw) > 10  # what a crop on the lips themselves would do
        crops = joined(crops_of([Head(jaw=j) for j in jaws])).astype(float)[12:-12]
        steps = [wanted_crop(np.array([MOUTH[0], y])) for y in np.arange(0.88, 0.98, 0.002)]
        where = [int(np.argmin([away(c, s) for s in steps])) for c in crops]
        assert np.ptp(where) * 0.002 * EYE_DISTANCE_PX < 0.1 * np.ptp(raw)

    def test_a_lasting_change_is_followed_within_a_second(self) -> None:
        heads = [Head(jaw=0.0)] * 40 + [Head(jaw=0.3)] * 40
        crops = joined(crops_of(heads))
        assert away(crops[20], wanted_crop(lips_centre(0.0))) < 0.6 * ONE_PIXEL
        assert away(crops[60], wanted_crop(lips_centre(0.3))) < 0.6 * ONE_PIXEL

    def test_opening_is_in_eye_distances_and_not_smoothed(self) -> None:
        jaws = [0.0, 0.1, 0.3, 0.05]
        for head in (Head(), Head(scale=33.0, roll=0.7)):
            (chunk,) = crops_of([replace(head, jaw=j) for j in jaws])
            np.testing.assert_allclose(chunk.opening, 0.16 + np.array(jaws), atol=1e-5)
            np.testing.assert_allclose(chunk.eye_px, head.scale, rtol=1e-5)


class TestPose:
    @pytest.mark.parametrize("head", PLACES)
    def test_from_mesh(self, head: Head) -> None:
        pose = head.pose
        assert pose.scale == pytest.approx(head.scale)
        assert np.cos(pose.roll - head.roll) == pytest.approx(1, abs=1e-9)
        np.testing.assert_allclose(
            pose.anchor, head.origin + head.turn @ TEMPLATE.mean(0) * head.scale
        )
        np.testing.assert_allclose(pose.mouth, lips_centre() - TEMPLATE.mean(0), atol=1e-9)

    def test_a_row_holds_all_of_it(self) -> None:
        pose = Head(scale=31.0, roll=-0.4, jaw=0.2).pose
        again = Pose.of_row(pose.row)
        assert (again.scale, again.roll, again.opening) == (pose.scale, pose.roll, pose.opening)
        np.testing.assert_array_equal(again.anchor, pose.anchor)
        np.testing.assert_array_equal(again.mouth, pose.mouth)


class TestHoles:
    def test_poses_are_interpolated(self) -> None:
        """The mesh looks at every second tick; the ticks between are as well placed."""
        heads = [Head(x=150 + 3.0 * i, y=130 + 1.0 * i, scale=50 + 0.2 * i) for i in range(40)]
        (chunk,) = crops_of(heads, measured=[i % 2 == 0 for i in range(40)])
        want = wanted_crop(lips_centre())
        assert max(away(c, want) for c in chunk.crops[6:-6]) < 0.7 * ONE_PIXEL
        np.testing.assert_allclose(chunk.eye_px[6:-6], [h.scale for h in heads][6:-6], rtol=1e-3)
        assert chunk.valid.all()

    def test_interpolation_bridges_a_hole(self) -> None:
        heads = [Head(x=150 + 2.0 * i) for i in range(40)]
        (chunk,) = crops_of(heads, measured=[not 15 <= i < 22 for i in range(40)])
        want = wanted_crop(lips_centre())
        assert max(away(c, want) for c in chunk.crops[5:-5]) < 0.7 * ONE_PIXEL

    def test_valid_ends_four_ticks_from_a_measured_pose(self) -> None:
        measured = [i < 20 or i >= 40 for i in range(60)]
        (chunk,) = crops_of([Head()] * 60, measured=measured)
        assert np.flatnonzero(~chunk.valid).tolist() == list(range(24, 36))

    def test_a_hole_of_eight_is_bridged_and_one_of_nine_is_not(self) -> None:
        for size, invalid in ((8, []), (9, [19])):
            measured = [not 15 <= i < 15 + size for i in range(50)]
            (chunk,) = crops_of([Head()] * 50, measured=measured)
            assert np.flatnonzero(~chunk.valid).tolist() == invalid

    def test_stale_pictures_are_not_valid_but_are_there(self) -> None:
        fresh = [i not in (3, 4, 17) for i in range(30)]
        (chunk,) = crops_of([Head()] * 30, fresh=fresh)
        assert chunk.valid.tolist() == fresh
        assert chunk.ages == pytest.approx([0.0 if f else 0.1 for f in fresh])
        assert away(chunk.crops[17], wanted_crop(lips_centre())) < 0.6 * ONE_PIXEL

    def test_no_pose_at_all_is_blank_and_not_valid(self) -> None:
        (chunk,) = crops_of([Head()] * 30, measured=[False] * 30)
        assert not chunk.valid.any()
        assert chunk.crops.max() == 0
        assert chunk.crops.shape == (30, 80, 112)

    def test_a_late_first_pose_reaches_back(self) -> None:
        (chunk,) = crops_of([Head()] * 30, measured=[i >= 6 for i in range(30)])
        assert chunk.valid.tolist() == [i >= 2 for i in range(30)]
        assert away(chunk.crops[0], wanted_crop(lips_centre())) < 0.6 * ONE_PIXEL


class TestChunks:
    HEADS = tuple(Head(scale=20 + 0.02 * i, x=200 + 0.1 * i, jaw=0.1 * (i % 5)) for i in range(130))

    @pytest.mark.parametrize("chunk", [1, 7, 40, 250])
    @pytest.mark.parametrize("count", [1, 10, 11, 12, 51, 130])
    def test_ticks_are_consecutive_and_none_is_lost(self, chunk: int, count: int) -> None:
        chunks = crops_of(list(self.HEADS[:count]), chunk=chunk, first=-40)
        assert chunks[0].first == -40
        for a, b in pairwise(chunks):
            assert b.first == a.first + len(a)
        assert sum(map(len, chunks)) == count
        assert [c.last for c in chunks] == [False] * (len(chunks) - 1) + [True]
        assert {c.track for c in chunks} == {3}
        for c in chunks:
            assert len(c.crops) == len(c.valid) == len(c.boxes) == len(c.opening) == len(c.eye_px)
            # The box of tick i is i high: every row is its own tick's.
            np.testing.assert_allclose(
                c.boxes[:, 3] - c.boxes[:, 1], c.first + 40 + np.arange(len(c)), atol=1e-3
            )

    def test_crops_do_not_depend_on_the_chunks(self) -> None:
        measured = [i % 2 == 0 and i % 31 < 25 for i in range(130)]
        fresh = [i % 17 != 3 for i in range(130)]
        whole = crops_of(list(self.HEADS), measured=measured, fresh=fresh, chunk=1000)
        parts = crops_of(list(self.HEADS), measured=measured, fresh=fresh, chunk=7)
        assert len(whole) == 1
        assert len(parts) > 10
        np.testing.assert_array_equal(joined(parts), whole[0].crops)
        for name in ("valid", "boxes", "opening", "eye_px"):
            got = np.concatenate([getattr(c, name) for c in parts])
            np.testing.assert_array_equal(got, getattr(whole[0], name))

    def test_a_chunk_comes_a_second_behind_at_most(self) -> None:
        maker = CropMaker(0, chunk=20)
        head, came = Head(scale=20.0), []
        for i in range(60):
            found = maker.push(i, head.patch, np.zeros(4), head.pose)
            if found is not None:
                came.append((i, found.first + len(found)))
        assert came
        assert all(i - done < 25 for i, done in came)
        assert len(maker._ticks) <= 25

    def test_nothing_pushed_gives_nothing(self) -> None:
        assert CropMaker(0).close() is None


class TestFacePatch:
    def test_a_point_lies_where_the_patch_says(self) -> None:
        """A small bright disc in the picture is at (p - origin) * zoom in the patch."""
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
        for side, zoom in ((60.0, 1), (100.3, 1), (256.0, 1), (450.0, 1 / 2), (700.0, 1 / 3)):
            p = np.array([203.4, 155.7])
            blob = 250 * np.exp(-((x - p[0]) ** 2 + (y - p[1]) ** 2) / (2 * (side / 40) ** 2))
            image = np.repeat(blob.round().astype(np.uint8)[..., None], 3, 2)
            patch = FacePatch.cut(Picture.of(image), p + [7.3, -11.9], side)
            assert patch.zoom == pytest.approx(zoom)
            size = patch.image.shape[0]
            assert patch.image.shape == (size, size, 3)
            assert side <= size / zoom < side + 2 / zoom
            weight = patch.image[..., 0].astype(float)
            iy, ix = np.mgrid[:size, :size]
            found = np.array([(weight * ix).sum(), (weight * iy).sum()]) / weight.sum()
            np.testing.assert_allclose(found, (p - patch.origin) * patch.zoom, atol=0.1)

    def test_the_patch_of_luma_is_that_of_colour_without_it(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
        for side in (90.0, 500.0):  # the second reaches beyond every edge
            centre = np.array([180.3, 140.8])
            colour = FacePatch.cut(Picture.of(image), centre, side)
            plain = FacePatch.cut(Picture.of(image), centre, side, luma=True)
            want = colour.image @ [0.299, 0.587, 0.114]
            assert np.abs(plain.image - want).max() <= 1.5
            assert (plain.zoom, *plain.origin) == (colour.zoom, *colour.origin)

    def test_outside_the_picture_is_black(self) -> None:
        image = np.full((50, 60, 3), 200, np.uint8)
        gone = FacePatch.cut(Picture.of(image), np.array([500.0, 500.0]), 40.0)
        assert gone.image.max() == 0
        corner = FacePatch.cut(Picture.of(image), np.array([0.0, 0.0]), 64.0)
        assert corner.image[:32].max() == 0
        assert corner.image[:, :32].max() == 0
        assert corner.image[32:64, 32:64].min() == 200
