"""Faces: found when small, followed as one track, ended by cuts, mouths aligned.

The face is the public-domain portrait that scikit-image carries in its wheel, put into pictures
at known places, so that boxes and eye distances are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avsync.crops import CropChunk
from avsync.faces import (
    DETECT_EVERY,
    LOST_AFTER,
    SEEK_EVERY,
    STEADY,
    TILE_EVERY,
    FaceTracker,
    _distinct,
    _overlap,
    mouth_chunks,
)
from avsync.media import GridFrame
from avsync.picture import Picture

Image = npt.NDArray[np.uint8]

skimage = pytest.importorskip("skimage")

#: The part of the portrait that is pasted: head and shoulders (top, bottom, left, right).
CUT = (0, 220, 110, 330)
#: Within it: the face's box (left, top, right, bottom) and the distance of the outer eye corners.
FACE = np.array([68.6, 69.4, 162.7, 176.4])
EYES = 62.8
FACE_WIDTH = float(FACE[2] - FACE[0])


@pytest.fixture(scope="module")
def portrait() -> Image:
    file = Path(skimage.__file__).parent / "data" / "astronaut.png"
    if not file.is_file():
        pytest.skip("this scikit-image carries no portrait")
    whole = cv2.cvtColor(cv2.imread(str(file), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(whole[CUT[0] : CUT[1], CUT[2] : CUT[3]])


@dataclass(frozen=True)
class Place:
    """A face in a picture: the pasted square's top left corner, and the face's width in pixels."""

    x: float
    y: float
    width: float

    @property
    def zoom(self) -> float:
        return self.width / FACE_WIDTH

    @property
    def box(self) -> npt.NDArray[np.float64]:
        return FACE * self.zoom + [self.x, self.y, self.x, self.y]


def scene(
    portrait: Image, places: Iterable[Place], width: int = 1920, height: int = 1080, light: int = 60
) -> Image:
    """A picture with a soft sidelight and the portrait at the given places (sub-pixel)."""
    out = np.full((height, width, 3), light + 30, np.uint8)
    out[..., 0] = np.linspace(light, light + 60, width)[None]
    for place in places:
        size = round(220 * place.zoom)
        head = cv2.resize(portrait, (size, size), interpolation=cv2.INTER_AREA)
        x, y = int(place.x), int(place.y)
        move = np.array([[1.0, 0, place.x - x], [0, 1.0, place.y - y]])
        head = cv2.warpAffine(head, move, (size, size), borderMode=cv2.BORDER_REPLICATE)
        part = out[max(0, y) : y + size, max(0, x) : x + size]
        part[:] = head[max(0, -y) :, max(0, -x) :][: part.shape[0], : part.shape[1]]
    return out


def grid(images: Iterable[Image], first: int = 0) -> Iterable[GridFrame]:
    for tick, image in enumerate(images, first):
        yield GridFrame(tick, tick / 25, tick / 25, Picture.of(image))


@dataclass
class Seen:
    """A track's chunks in one."""

    first: int
    valid: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.float32]
    eye_px: npt.NDArray[np.float32]
    crops: Image

    @property
    def stop(self) -> int:
        return self.first + len(self.valid)


def seen(chunks: Iterable[CropChunk]) -> list[Seen]:
    """All tracks in order of their ids, their ticks checked to be consecutive."""
    tracks: dict[int, list[CropChunk]] = {}
    for chunk in chunks:
        before = tracks.setdefault(chunk.track, [])
        assert not before or chunk.first == before[-1].first + len(before[-1])
        assert not before or not before[-1].last
        before.append(chunk)
    assert all(cs[-1].last for cs in tracks.values())
    return [
        Seen(
            first=cs[0].first,
            valid=np.concatenate([c.valid for c in cs]),
            boxes=np.concatenate([c.boxes for c in cs]),
            eye_px=np.concatenate([c.eye_px for c in cs]),
            crops=np.concatenate([c.crops for c in cs]),
        )
        for _, cs in sorted(tracks.items())
    ]


def watch(images: Sequence[Image], first: int = 0, **options: int) -> list[Seen]:
    return seen(mouth_chunks(grid(images, first), **options))


def alike(a: Image, b: Image) -> float:
    """Correlation of two crops: 1 is the same picture whatever its light."""
    return float(np.corrcoef(a.astype(float).ravel(), b.astype(float).ravel())[0, 1])


@pytest.mark.parametrize("corner", [(300, 200), (1810, 10), (900, 970)])
def test_a_face_40_px_wide_in_1080p_is_found_anywhere(
    portrait: Image, corner: tuple[int, int]
) -> None:
    place = Place(*corner, width=40)
    (track,) = watch([scene(portrait, [place])] * 5)
    assert (track.first, track.stop) == (0, 5)
    assert track.valid.all()
    np.testing.assert_allclose(track.boxes, np.tile(place.box, (5, 1)), atol=4)
    np.testing.assert_allclose(track.eye_px, EYES * place.zoom, rtol=0.08)


def test_a_small_walking_face_is_one_track(portrait: Image) -> None:
    """40 px wide, 160 px to the right and 28 px up in 1.6 s, without losing a tick."""
    places = [Place(700 + 4.0 * i, 400 - 0.7 * i, 40) for i in range(40)]
    (track,) = watch([scene(portrait, [p]) for p in places], first=50)
    assert (track.first, track.stop) == (50, 90)
    assert track.valid.all()
    middle = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
    true = np.array([(p.box[:2] + p.box[2:]) / 2 for p in places])
    # Boxes are measured at every second tick: at most one tick old.
    assert np.abs(middle - true).max() < 4 + 4
    likeness = [alike(track.crops[5], c) for c in track.crops[5:-5]]
    assert min(likeness) > 0.93


def test_two_faces_are_two_tracks(portrait: Image) -> None:
    places = [Place(200, 250, 150), Place(1300, 400, 60)]
    tracks = watch([scene(portrait, places)] * 15)
    assert len(tracks) == 2
    tracks.sort(key=lambda t: t.boxes[0, 0])
    for track, place in zip(tracks, places, strict=True):
        assert (track.first, track.stop) == (0, 15)
        assert track.valid.all()
        np.testing.assert_allclose(track.boxes[-1], place.box, atol=0.06 * place.width + 1)
        np.testing.assert_allclose(track.eye_px, EYES * place.zoom, rtol=0.06)
    # One person at two sizes: one crop.
    assert alike(tracks[0].crops[7], tracks[1].crops[7]) > 0.93


def test_at_most_max_faces_the_largest_first(portrait: Image) -> None:
    places = [Place(40, 40, 60), Place(420, 60, 130), Place(860, 160, 90)]
    picture = scene(portrait, places, 1280, 720)
    tracks = watch([picture] * 4, max_faces=2)
    widths = sorted(round(float(t.boxes[-1, 2] - t.boxes[-1, 0])) for t in tracks)
    assert widths == pytest.approx([90, 130], abs=8)


def test_a_cut_ends_a_track(portrait: Image) -> None:
    """The same face at the same place, in another room: the second picture starts a new track."""
    place = Place(300, 120, 120)
    before = scene(portrait, [place], 960, 540)
    after = scene(portrait, [place], 960, 540, light=150)
    first, second = watch([before] * 17 + [after] * 13)
    assert (first.first, first.stop) == (0, 17)
    assert (second.first, second.stop) == (17, 30)
    assert first.valid.all()
    assert second.valid.all()


def test_a_face_that_leaves_ends_its_track(portrait: Image) -> None:
    place = Place(300, 120, 120)
    there, gone = scene(portrait, [place], 960, 540), scene(portrait, [], 960, 540)
    (track,) = watch([there] * 30 + [gone] * 40)
    assert track.first == 0
    assert track.valid[:30].all()
    assert not track.valid[34:].any()
    assert 30 <= track.stop <= 30 + LOST_AFTER + STEADY[0][0]  # a mesh is when that is noticed


def test_a_face_that_comes_is_found_and_one_that_returns_is_new(portrait: Image) -> None:
    there = scene(portrait, [Place(300, 120, 120)], 960, 540)
    gone = scene(portrait, [], 960, 540)
    first, second = watch([gone] * 5 + [there] * 12 + [gone] * 20 + [there] * 8)
    assert 5 <= first.first < 5 + SEEK_EVERY
    assert first.valid[: 17 - first.first].all()
    assert not first.valid[21 - first.first :].any()
    assert 37 <= second.first < 37 + SEEK_EVERY
    assert (second.stop, second.valid.all()) == (45, True)


def test_a_second_face_is_noticed_within_a_second(portrait: Image) -> None:
    first, second = Place(60, 100, 120), Place(560, 140, 110)
    alone = scene(portrait, [first], 960, 540)
    both = scene(portrait, [first, second], 960, 540)
    tracks = watch([alone] * 3 + [both] * 30)
    assert len(tracks) == 2
    assert (tracks[0].first, tracks[0].stop) == (0, 33)
    assert 3 <= tracks[1].first <= 3 + 2 * DETECT_EVERY
    assert tracks[1].stop == 33


def test_a_new_scene_is_looked_at_thrice_at_once_then_by_turns(portrait: Image) -> None:
    tracker = FaceTracker()
    looks: list[tuple[int, tuple[int, ...]]] = []
    true = tracker._detector.whole

    def whole(picture: Picture, models: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
        looks.append((frame.tick, models))
        return true(picture, models)

    tracker._detector.whole = whole  # type: ignore[method-assign,assignment]
    rooms = [scene(portrait, [Place(300, 120, 120)], 960, 540, light) for light in (60, 150)]
    for frame in grid([rooms[0]] * 42 + [rooms[1]] * 7):
        list(tracker.push(frame))
    list(tracker.close())
    turns = [(0, (0, 1)), (5, (0,)), (10, (0,)), (25, (1,)), (40, (0,))]
    assert looks == [*turns, (42, (0, 1)), (47, (0,))]


def test_a_small_face_beside_a_large_one_is_found_by_the_tiles(portrait: Image) -> None:
    large, small = Place(100, 60, 150), Place(900, 400, 36)
    alone = scene(portrait, [large], 1280, 720)
    both = scene(portrait, [large, small], 1280, 720)
    tracks = watch([alone] * 2 + [both] * (TILE_EVERY + DETECT_EVERY))
    assert tracks[0].first == 0
    assert len(tracks) == 2
    assert 2 <= tracks[1].first <= TILE_EVERY + DETECT_EVERY
    np.testing.assert_allclose(tracks[1].boxes[-1], small.box, atol=4)


@pytest.mark.parametrize("kind", ["grey", "noise", "stripes", "portrait upside down"])
def test_no_face_gives_nothing(portrait: Image, kind: str) -> None:
    if kind == "grey":
        image = np.full((360, 640, 3), 127, np.uint8)
    elif kind == "noise":
        image = np.random.default_rng(0).integers(0, 256, (360, 640, 3)).astype(np.uint8)
    elif kind == "stripes":
        image = np.zeros((360, 640, 3), np.uint8)
        image[:, ::16] = 255
    else:
        image = np.full((360, 640, 3), 90, np.uint8)
        image[40:260, 200:420] = portrait[::-1]
        image[80:260, 200:420] = 90  # only what is not the face
    assert watch([image] * 4) == []


def test_no_frames_give_nothing() -> None:
    assert watch([]) == []


def test_a_tight_crop_of_192_px_is_enough(portrait: Image) -> None:
    """As many data sets have them: the face fills the picture from ear to ear, chin to brow."""
    left, top, right, bottom = FACE.round().astype(int)
    tight = cv2.resize(portrait[top:bottom, left:right], (192, 192), interpolation=cv2.INTER_CUBIC)
    (track,) = watch([tight] * 10)
    assert (track.first, track.stop) == (0, 10)
    assert track.valid.all()
    (want,) = watch([scene(portrait, [Place(300, 120, 190)], 960, 540)] * 10)
    # Its height is squeezed by 12 per cent, and below the chin there is nothing.
    assert alike(track.crops[5][:60], want.crops[5][:60]) > 0.9


@pytest.mark.parametrize(("zoom", "degrees"), [(0.7, 0), (1.6, 0), (1.0, 20), (1.3, -25)])
def test_a_real_face_scaled_and_rotated_gives_the_same_crop(
    portrait: Image, zoom: float, degrees: float
) -> None:
    upright = scene(portrait, [Place(160, 60, 110)], 640, 420)
    turn = cv2.getRotationMatrix2D((290.0, 200.0), degrees, zoom)
    turned = cv2.warpAffine(upright, turn, (640, 420), borderMode=cv2.BORDER_REFLECT)
    (plain,) = watch([upright] * 5)
    (other,) = watch([turned] * 5)
    assert other.eye_px[2] / plain.eye_px[2] == pytest.approx(zoom, rel=0.06)
    assert alike(plain.crops[2], other.crops[2]) > 0.95


def test_stale_pictures_are_no_evidence(portrait: Image) -> None:
    """A frozen stretch: the grid repeats a picture whose own stamp is long past."""
    image = scene(portrait, [Place(300, 120, 120)], 960, 540)
    stamps = [i if i < 8 else 8 if i < 16 else i for i in range(24)]
    frames = [GridFrame(i, i / 25, s / 25, Picture.of(image)) for i, s in enumerate(stamps)]
    (track,) = seen(mouth_chunks(iter(frames)))
    # 0.06 s: a picture one tick old counts, one two ticks old does not.
    assert np.flatnonzero(~track.valid).tolist() == list(range(10, 16))


def test_the_crop_shows_the_mouth(portrait: Image) -> None:
    """Teeth and lips: within two pixels of where the portrait's mouth is known to be."""
    place = Place(300, 120, 120)
    (track,) = watch([scene(portrait, [place], 960, 540)] * 5)
    crop = track.crops[2].astype(float)
    grey = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)

    def moved(x: float, y: float) -> float:
        # By hand from the portrait: the middle of the lips, and a roll of 1.5 degrees.
        turn = cv2.getRotationMatrix2D((113.8, 145 + 0.08 * EYES), 1.5, 88 / EYES)
        turn[:, 2] += [55.5 - 113.8 + x, 39.5 - 145 - 0.08 * EYES + y]
        return alike(crop, cv2.warpAffine(grey, turn, (112, 80), flags=cv2.INTER_LINEAR))

    likeness = {(x, y): moved(x, y) for x in range(-6, 7) for y in range(-6, 7)}
    best = max(likeness, key=lambda at: likeness[at])
    assert likeness[best] > 0.96
    assert max(map(abs, best)) <= 2


def test_closing_gives_the_last_chunks_once(portrait: Image) -> None:
    tracker = FaceTracker()
    for frame in grid([scene(portrait, [Place(300, 120, 120)], 960, 540)] * 3):
        assert list(tracker.push(frame)) == []
    (chunk,) = tracker.close()
    assert (chunk.track, chunk.first, len(chunk), chunk.last) == (0, 0, 3, True)
    assert list(tracker.close()) == []


corners = st.tuples(st.floats(-100, 100), st.floats(-100, 100), st.floats(1, 90), st.floats(1, 90))


@given(a=corners, b=corners, dx=st.floats(-50, 50))
def test_overlap(
    a: tuple[float, float, float, float], b: tuple[float, float, float, float], dx: float
) -> None:
    one = np.array([a[0], a[1], a[0] + a[2], a[1] + a[3]])
    two = np.array([b[0], b[1], b[0] + b[2], b[1] + b[3]])
    assert _overlap(one, one) == pytest.approx(1)
    assert _overlap(one, two) == pytest.approx(_overlap(two, one))
    assert 0 <= _overlap(one, two) <= 1 + 1e-12
    moved = one + [dx, 0, dx, 0]
    shared = max(0.0, a[2] - abs(dx)) * a[3]
    assert _overlap(one, moved) == pytest.approx(shared / (2 * a[2] * a[3] - shared), abs=1e-9)


def test_distinct_keeps_the_largest_of_boxes_on_one_face() -> None:
    face = np.array([100.0, 100, 200, 200])
    boxes = [face + [5, 5, -5, -5], face, face + [25, 25, -35, -35], face + 300.0]
    kept = _distinct(boxes)
    assert [k.tolist() for k in kept] == [face.tolist(), (face + 300).tolist()]


@pytest.mark.parametrize("shape", [(2, 4000), (4000, 2), (40, 1920)])
def test_a_strip_holds_no_face_and_takes_no_time(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    frames = [GridFrame(t, t / 25, t / 25, Picture.of(noise)) for t in range(40)]
    assert list(mouth_chunks(frames)) == []
