"""A portrait that talks: its face mesh is warped after a track of mouth shapes.

The 468 points of mediapipe's face mesh, rings of points around the head and the border of the
picture make a net of triangles. For each frame the lips are laid on a shape computed from the
mouth parameters, chin and jaw drop, the skin between follows by radial basis functions, the
head turns a little in three dimensions, eyes blink; then each triangle is mapped by its own
affine map. The hole between the lips is filled with a dark mouth, teeth and tongue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from avsync.errors import AVSyncError, InvalidOptionError

from .lips import LipTrack, lip_track
from .mouth import Teeth, fill_mouth
from .net import CHIN, EYES, INNER, LIDS, LOWER, OVAL, POINTS, UPPER, build_net
from .voice import Phoneme

__all__ = ["Talker", "find_landmarks", "render"]

Image = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]

_LEFT_EYE, _RIGHT_EYE, _NOSE_BASE = 33, 263, 2
# Sizes of a neutral mouth in eye distances, measured on real talkers (see lips).
_UPPER_LIP, _LOWER_LIP, _CORNER = 0.075, 0.100, 0.034


def find_landmarks(image: Image) -> Doubles:
    """mediapipe's face mesh of the one face in ``image`` (uint8 (H, W, 3) RGB).

    Returns float64 (468, 3): x, y and depth in pixels of ``image``.
    Raises AVSyncError when no face is found.
    """
    import mediapipe as mp

    from avsync._quiet import quiet_native_stderr

    with (
        quiet_native_stderr(),
        mp.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=1, refine_landmarks=True
        ) as mesh,
    ):
        result = mesh.process(image)
    if not result.multi_face_landmarks:
        raise AVSyncError("no face was found in the portrait")
    height, width = image.shape[:2]
    points = [
        (p.x * width, p.y * height, p.z * width)
        for p in result.multi_face_landmarks[0].landmark[:POINTS]
    ]
    return np.array(points, dtype=np.float64)


class Talker:
    """A portrait made ready: :meth:`frame` draws it with any mouth, pose and eyelids.

    ``image``: uint8 (H, W, 3) RGB; ``landmarks``: (≥ 468, 3) pixels, :func:`find_landmarks`.
    """

    def __init__(self, image: Image, landmarks: npt.ArrayLike, oversample: int = 2) -> None:
        points = np.asarray(landmarks, dtype=np.float64)[:POINTS]
        if image.ndim != 3 or points.shape != (POINTS, 3):
            raise InvalidOptionError("image must be (H, W, 3) and landmarks at least (468, 3)")
        self.image = image
        self.oversample = oversample
        self.height, self.width = image.shape[:2]
        across = points[_RIGHT_EYE, :2] - points[_LEFT_EYE, :2]
        self.unit = float(np.hypot(*across))
        self.origin = (points[_RIGHT_EYE] + points[_LEFT_EYE]) / 2
        cos, sin = across / self.unit
        self._turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])  # face to picture
        self.rest = self.to_face(points)
        self._measure_mouth()
        net = build_net(self.rest, self.to_pixels, self.to_face, self.width, self.height)
        self.vertices, self.triangles, self._share = net
        self._build_controls()
        self.teeth = Teeth.of(self)

    def to_face(self, pixels: Doubles) -> Doubles:
        """Pixels (n, 3) to the face's own axes: origin between the eyes, unit their distance."""
        face: Doubles = (pixels - self.origin) @ self._turn / self.unit
        return face

    def to_pixels(self, face: Doubles) -> Doubles:
        """The inverse of :meth:`to_face`."""
        pixels: Doubles = face @ self._turn.T * self.unit + self.origin
        return pixels

    def _measure_mouth(self) -> None:
        rest = self.rest
        top, bottom = rest[13], rest[14]
        self.middle_x = float(np.mean(rest[[0, 13, 14, 17], 0]))
        self.source_gap = float(bottom[1] - top[1])
        # An open source mouth closes half by its upper, half by its lower lip.
        self.seam_y = float(top[1] + 0.5 * self.source_gap)
        self.jaw_rest = 0.35 * self.source_gap  # how far the source's jaw is dropped already

    def _build_controls(self) -> None:
        """The linear map from moved points (lips, jaw, fixed upper face) to all points."""
        rest = self.rest
        lips = np.unique(np.concatenate([UPPER.ravel(), LOWER.ravel()]))
        # Everything at and above the base of the nose stays; the oval follows the jaw.
        fixed = np.flatnonzero(rest[:, 1] < rest[_NOSE_BASE, 1] + 0.005)
        self._jaw = np.setdiff1d(np.concatenate([OVAL, CHIN]), fixed)
        fixed = np.setdiff1d(fixed, np.concatenate([lips, self._jaw]))
        height = rest[self._jaw, 1]
        nose, chin = rest[_NOSE_BASE, 1], rest[152, 1]
        level = np.clip((height - nose) / (chin - nose), 0, 1)
        aside = np.abs(rest[self._jaw, 0] - self.middle_x)
        self._jaw_weight = level**1.3 * np.clip(1.15 - aside / 0.95, 0, 1)
        self._lips, self._fixed = lips, fixed
        known = np.concatenate([lips, self._jaw, fixed])
        self._free = np.setdiff1d(np.arange(POINTS), known)

        def distance(a: Doubles, b: Doubles) -> Doubles:
            out: Doubles = np.linalg.norm(a[:, None, :2] - b[None, :, :2], axis=2)
            return out

        near = distance(rest[known], rest[known])
        near += 1e-3 * np.eye(len(known))
        self._spread = distance(rest[self._free], rest[known]) @ np.linalg.inv(near)
        self._known = known

    def lip_points(self, mouth: dict[str, float]) -> tuple[Ints, Doubles]:
        """Indices of the lip points and where this mouth puts them (n, 2), face axes."""
        rest = self.rest
        gap, spread_half, rounding = mouth["gap"], mouth["half_width"], mouth["round"]
        tuck, press = mouth["tuck"], mouth["press"]
        raise_upper = 0.22 * gap + 0.010 * tuck
        top = self.seam_y - raise_upper
        bottom = self.seam_y + (gap - raise_upper)
        corner_y = self.seam_y + 0.30 * (bottom - self.seam_y) - 0.012 * (1 - rounding)
        thick = (1 + 0.22 * rounding) * (1 - 0.28 * press)
        sizes = (
            _UPPER_LIP * thick * (1 - 0.35 * gap),
            _LOWER_LIP * thick * (1 - 0.45 * tuck) * (1 - 0.35 * gap),
        )
        power = 2.4 - 0.5 * rounding
        indices: list[Ints] = []
        places: list[Doubles] = []
        for rings, sign, middle, size in (
            (UPPER, -1.0, top, sizes[0]),
            (LOWER, 1.0, bottom, sizes[1]),
        ):
            inner, outer = rest[rings[3]], rest[rings[0]]
            centre = abs(outer[5, 1] - inner[5, 1])
            profile = np.abs(outer[:, 1] - inner[:, 1]) / max(centre, 1e-3)
            profile[[0, -1]] = 0
            for ring in range(4):
                row = rest[rings[ring]]
                half = (row[-1, 0] - row[0, 0]) / 2
                u = np.clip((row[:, 0] - (row[-1, 0] + row[0, 0]) / 2) / half, -1, 1)
                part = ring / 3  # 0 outer, 1 inner
                between = np.abs(row[:, 1] - outer[:, 1]) / np.maximum(
                    np.abs(inner[:, 1] - outer[:, 1]), 1e-3
                )
                between = np.clip(between, 0, 1)
                between[[0, -1]] = part
                width = spread_half + _CORNER * (1 - part)
                x = self.middle_x + width * u
                arch = 1 - np.abs(u) ** power
                y = corner_y + (middle - corner_y) * arch
                y = y + sign * size * profile * (1 - between)
                indices.append(rings[ring].astype(np.int32))
                places.append(np.stack([x, y], axis=1))
        index = np.concatenate(indices)
        place = np.concatenate(places)
        unique, first = np.unique(index, return_index=True)
        return unique.astype(np.int32), place[first]

    def deform(self, mouth: dict[str, float], blink: float = 0.0) -> Doubles:
        """All vertices, face axes (n, 3), with this mouth and eyelids (0 open, 1 shut)."""
        out = self.vertices.copy()
        index, place = self.lip_points(mouth)
        moved = np.zeros((POINTS, 2))
        moved[index] = place - self.rest[index, :2]
        moved[self._jaw, 1] = self._jaw_weight * (mouth["jaw"] - self.jaw_rest)
        moved[self._free] = self._spread @ moved[self._known]
        out[:POINTS, :2] += moved
        out[index, 2] -= 0.05 * mouth["round"]
        if blink > 0:
            for (_, upper, _, lower), lid in zip(EYES, LIDS, strict=True):
                path = self.rest[lower, :2] - self.rest[upper, :2]
                out[upper, :2] += 0.96 * blink * path
                out[lid, :2] += 0.45 * blink * path
        return out

    def frame(
        self,
        mouth: dict[str, float],
        pose: npt.ArrayLike = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        blink: float = 0.0,
    ) -> Image:
        """Draw the portrait: uint8 (H, W, 3).

        ``pose``: turn, nod and roll in radians, shift right and down in eye distances, scale.
        """
        pose = np.asarray(pose, dtype=np.float64)
        posed = self.pose_points(self.deform(mouth, blink), self._share, pose)
        target = self.to_pixels(posed)[:, :2] * self.oversample
        source = self.to_pixels(self.vertices)[:, :2].copy()
        if self.source_gap > 0.02:  # a rim of the lips' inner side, so that no teeth stick to it
            for rings in (UPPER, LOWER):
                source[rings[3]] += 0.10 * (source[rings[0]] - source[rings[3]])
        canvas = self._map(source, target)
        canvas = fill_mouth(self, canvas, target[INNER], mouth, pose)
        size = (self.width, self.height)
        small = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA)
        return np.clip(small + 0.5, 0, 255).astype(np.uint8)

    def pose_points(self, face: Doubles, share: Doubles, pose: Doubles) -> Doubles:
        """Turn, nod, roll, shift and scale points (n, 3) about the middle of the head."""
        turn, nod, roll, right, down, scale = pose
        ct, st, cn, sn, cr, sr = (f(v) for v in (turn, nod, roll) for f in (np.cos, np.sin))
        about_y = np.array([[ct, 0, st], [0, 1, 0], [-st, 0, ct]])
        about_x = np.array([[1, 0, 0], [0, cn, -sn], [0, sn, cn]])
        about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        pivot = np.array([0.0, 0.75, 0.55])
        rigid = (face - pivot) @ (about_z @ about_x @ about_y).T * scale + pivot
        rigid = rigid + np.array([right, down, 0.0])
        out: Doubles = face + share[:, None] * (rigid - face)
        return out

    def _map(self, source: Doubles, target: Doubles) -> npt.NDArray[np.float32]:
        """Piecewise affine map of the picture from source to target vertices (pixels)."""
        height, width = self.height * self.oversample, self.width * self.oversample
        ids = np.zeros((height, width), dtype=np.int32)
        corners = target[self.triangles]  # (t, 3, 2)
        fixed = np.round(corners * 16).astype(np.int32)
        for number, triangle in enumerate(fixed):
            cv2.fillConvexPoly(ids, triangle, (number,), lineType=cv2.LINE_8, shift=4)
        square = np.concatenate([corners, np.ones((len(corners), 3, 1))], axis=2)
        flat = np.abs(np.linalg.det(square)) < 1e-3
        square[flat] += np.eye(3) * 1e-2
        affine = np.linalg.solve(square, source[self.triangles])  # (t, 3, 2)
        x = np.arange(width, dtype=np.float64)[None, :, None]
        y = np.arange(height, dtype=np.float64)[:, None, None]
        chosen = affine[ids]
        at = x * chosen[:, :, 0] + y * chosen[:, :, 1] + chosen[:, :, 2]
        # A triangle seen edge-on has a wild map: no pixel may come from outside its own triangle.
        own = source[self.triangles]
        at = np.clip(at, own.min(axis=1)[ids] - 0.5, own.max(axis=1)[ids] + 0.5).astype(np.float32)
        mapped = cv2.remap(
            self.image,
            at[:, :, 0],
            at[:, :, 1],
            interpolation=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return mapped.astype(np.float32)


def _wander(rng: np.random.Generator, times: Doubles, size: float, fastest: float) -> Doubles:
    """A slow irregular motion with standard deviation ``size``, up to ``fastest`` Hz."""
    hertz = rng.uniform(0.12, fastest, 5)
    weight = rng.uniform(0.4, 1.0, 5) / (1 + 2 * hertz)
    phase = rng.uniform(0, 2 * np.pi, 5)
    waves = weight[:, None] * np.sin(2 * np.pi * hertz[:, None] * times + phase[:, None])
    total: Doubles = waves.sum(axis=0) * size / np.sqrt((weight**2).sum() / 2)
    return total


def _blinks(rng: np.random.Generator, times: Doubles) -> Doubles:
    out = np.zeros_like(times)
    at = rng.uniform(0.8, 2.5)
    while len(times) and at < times[-1]:
        down = np.clip((times - at) / 0.07, 0, 1)
        up = np.clip((at + 0.24 - times) / 0.13, 0, 1)
        out = np.maximum(out, np.minimum(down, up))
        at += rng.uniform(2.0, 4.5)
    return out


def render(
    image: Image,
    landmarks: npt.ArrayLike,
    phoneme_track: Sequence[Phoneme] | LipTrack,
    fps: float,
    rng: np.random.Generator,
    *,
    duration_s: float | None = None,
    speech_start_s: float = 0.0,
    motion: float = 1.0,
    noise: float = 1.2,
    effort: float = 0.95,
) -> Iterator[Image]:
    """Frames (uint8 (H, W, 3) RGB) of the portrait speaking, frame k at k / fps seconds.

    Args:
        image: uint8 (H, W, 3) RGB.
        landmarks: (≥ 468, 3) pixels, :func:`find_landmarks`.
        phoneme_track: phonemes of :func:`talker.voice.speak`, or mouth shapes, one a frame.
        fps: frames a second.
        rng: decides head motion, blinks and noise.
        duration_s: length; by default until 0.4 s after the last phoneme.
        speech_start_s: when the phonemes' clock starts, in seconds of the video.
        motion: scales the head's motion; 0 holds it still.
        noise: standard deviation of the camera's noise in grey levels of 255.
        effort: scales the opening of the mouth.
    """
    if isinstance(phoneme_track, LipTrack):
        lips, count = phoneme_track, len(phoneme_track.gap)
        times = np.arange(count) / fps
    else:
        if duration_s is None:
            last = max((p.end_s for p in phoneme_track), default=0.0)
            duration_s = speech_start_s + last + 0.4
        count = round(duration_s * fps)
        times = np.arange(count) / fps
        lips = lip_track(phoneme_track, times - speech_start_s, effort)
    sizes = ((0.030, 0.5), (0.022, 0.7), (0.016, 0.5), (0.014, 0.4), (0.010, 0.5), (0.006, 0.3))
    pose = np.stack([motion * _wander(rng, times, size, top) for size, top in sizes], axis=1)
    pose[:, 5] += 1.0
    blink = _blinks(rng, times)
    talker = Talker(image, landmarks)
    for index in range(count):
        frame = talker.frame(lips.at(index), pose[index], float(blink[index]))
        if noise > 0:
            grain = rng.normal(0.0, noise, frame.shape[:2])[:, :, None]
            grain = grain + rng.normal(0.0, 0.4 * noise, frame.shape)
            frame = np.clip(frame + grain + 0.5, 0, 255).astype(np.uint8)
        yield frame
