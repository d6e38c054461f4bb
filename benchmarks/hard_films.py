"""Hard films made of recordings by code: faces placed in scenes, things drawn over them, sounds.

Nothing made here is kept: the recordings are other people's. Times are seconds, pictures (H, W, 3)
uint8 RGB, sounds float32 (channels, n) at 48 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from avsync._quiet import quiet_native_stderr
from avsync.media import iter_frames, read_audio

RATE = 48_000
Image = NDArray[np.uint8]
Sound = NDArray[np.float32]
Picture = Callable[[float], Image]

#: Face-mesh indices: the lips' outer contour, the eyes' surroundings, the jaw from ear to ear.
LIPS = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181]
EYES = ([33, 133, 159, 145], [263, 362, 386, 374])
JAW = [132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361]


@dataclass(frozen=True)
class Take:
    """One recording: frames and their times, sound from time 0 on."""

    name: str
    speaker: str
    times: NDArray[np.float64]
    images: list[Image]
    sound: Sound

    @classmethod
    def read(cls, path: Path, name: str, speaker: str) -> Take:
        """Decode a file; its sound is placed on the clock of its frames."""
        frames = list(iter_frames(path))
        voice = read_audio(path, sample_rate=RATE)
        lead = round(voice.start_s * RATE)
        samples = np.concatenate(
            [np.zeros(max(0, lead), np.float32), voice.samples[max(0, -lead) :]]
        )
        return cls(
            name,
            speaker,
            np.array([f.pts_seconds for f in frames]),
            [f.image for f in frames],
            samples[None],
        )

    @property
    def end_s(self) -> float:
        """When the last frame is over."""
        return float(self.times[-1] + np.median(np.diff(self.times)))

    def index(self, t: float) -> int:
        """The frame that is shown at ``t``."""
        return int(np.clip(np.searchsorted(self.times, t + 1e-6) - 1, 0, len(self.times) - 1))

    def at(self, t: float) -> Image:
        """The picture that is shown at ``t``."""
        return self.images[self.index(t)]

    def still(self, t: float) -> Image:
        """Always the same picture: a photograph."""
        return self.images[len(self.images) // 2]

    def listening(self, t: float) -> Image:
        """A face that sways and nods while its mouth stays as it is."""
        image = self.images[len(self.images) // 2]
        side = image.shape[0]
        angle = 2.0 * np.sin(2.1 * t)
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1 + 0.02 * np.sin(1.3 * t))
        matrix[:, 2] += (0.03 * side * np.sin(1.7 * t), 0.02 * side * np.sin(3.1 * t))
        return _image(cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT))

    @cached_property
    def meshes(self) -> list[NDArray[np.float64]]:
        """Face-mesh points (468, 2) in pixels of every frame; the last ones where none is found."""
        with quiet_native_stderr():
            import mediapipe as mp

            mesh = mp.solutions.face_mesh.FaceMesh(max_num_faces=1)
            mesh.process(self.images[0])
        found: list[NDArray[np.float64] | None] = []
        for image in self.images:
            faces = mesh.process(image).multi_face_landmarks
            size = (image.shape[1], image.shape[0])
            points = [(p.x, p.y) for p in faces[0].landmark[:468]] if faces else None
            found.append(None if points is None else np.array(points) * size)
        mesh.close()
        first = next(p for p in found if p is not None)
        out = []
        for points in found:
            first = first if points is None else points
            out.append(first)
        return out


@dataclass
class Film:
    """What is written: a picture at each time, and the sound."""

    picture: Picture
    times: Sequence[float]
    sound: Sound
    video: dict[str, str] = field(default_factory=lambda: {"preset": "ultrafast", "crf": "20"})
    audio: str = "pcm_s16le"
    audio_rate: int = RATE
    layout: str = "mono"
    bit_rate: int | None = None
    sound_from_s: float = 0.0
    kind: str = "mkv"
    #: Films with the same key show the same picture.
    key: str | None = None

    def write(self, path: Path) -> None:
        """Write the film (H.264, time stamps in ms)."""
        with av.open(str(path), "w") as out:
            stream: Any = out.add_stream("libx264", rate=25, options={"bf": "0", **self.video})
            voice: Any = out.add_stream(self.audio, rate=self.audio_rate, layout=self.layout)
            if self.bit_rate:
                voice.codec_context.bit_rate = self.bit_rate
            stream.height, stream.width = self.picture(self.times[0]).shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, 1000)
            sound = self.sound[:, round(self.sound_from_s * RATE) :]
            for block in _blocks(sound, self.audio_rate, self.layout, voice.format.name):
                block.pts += round(self.sound_from_s * self.audio_rate)
                out.mux(voice.encode(block))
            out.mux(voice.encode(None))
            for t in self.times:
                image = np.ascontiguousarray(self.picture(t))
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = round(t * 1000), Fraction(1, 1000)
                out.mux(stream.encode(frame.reformat(format="yuv420p")))
            out.mux(stream.encode(None))


def _blocks(sound: Sound, rate: int, layout: str, form: str) -> Any:
    data = np.clip(sound, -1, 1) if rate == RATE else np.clip(resampled(sound, rate), -1, 1)
    resampler = av.AudioResampler(format=form, layout=layout, rate=rate)
    for start in range(0, data.shape[1], 960):
        part = np.ascontiguousarray(data[:, start : start + 960])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield from resampler.resample(frame)


def _image(array: Any) -> Image:
    return np.clip(array, 0, 255).astype(np.uint8)


# Scenes


def room(width: int, height: int, seed: int) -> Image:
    """A blurred background with furniture of no particular kind."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 190, (5, 8, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float64)
    return _image(image + rng.normal(0, 3, image.shape))


def place(scene: Image, image: Image, x: int, y: int, side: int) -> None:
    """Put a square picture of ``side`` pixels with its corner at (x, y)."""
    how = cv2.INTER_AREA if side < image.shape[0] else cv2.INTER_CUBIC
    scene[y : y + side, x : x + side] = cv2.resize(image, (side, side), interpolation=how)


def scene_of(
    *faces: tuple[Picture, int, int, int], width: int = 640, height: int = 360, seed: int = 0
) -> Picture:
    """A room with moving pictures at (x, y) of some side each."""
    behind = room(width, height, seed)

    def picture(t: float) -> Image:
        scene = behind.copy()
        for face, x, y, side in faces:
            place(scene, face(t), x, y, side)
        return scene

    return picture


# Things over a face; each takes a picture and its mesh points


def glasses(image: Image, points: NDArray[np.float64], t: float) -> Image:
    """Dark sunglasses."""
    out = image.copy()
    apart = float(np.linalg.norm(points[33] - points[263]))
    middles = [points[e].mean(0) for e in EYES]
    for x, y in middles:
        cv2.ellipse(
            out,
            (int(x), int(y)),
            (int(0.28 * apart), int(0.2 * apart)),
            0,
            0,
            360,
            (15, 15, 20),
            -1,
        )
    a, b = (tuple(int(v) for v in m) for m in middles)
    cv2.line(out, a, b, (20, 20, 25), max(2, int(0.05 * apart)))
    return out


def beard(image: Image, points: NDArray[np.float64], t: float) -> Image:
    """A full beard that leaves the red of the lips free."""
    area = np.zeros(image.shape[:2], np.uint8)
    apart = float(np.linalg.norm(points[33] - points[263]))
    outline = np.concatenate([points[JAW], points[[454, 2, 234]]]).astype(np.int32)
    cv2.fillPoly(area, [outline[:-3]], 255)
    upper = points[[205, 2, 425, 291, 0, 61]].astype(np.int32)
    cv2.fillPoly(area, [upper], 255)
    cv2.fillPoly(area, [points[LIPS].astype(np.int32)], 0)
    soft = cv2.GaussianBlur(area, (0, 0), 0.03 * apart)[..., None] / 255.0
    hair = np.random.default_rng(3).normal(0, 14, image.shape[:2])[..., None] + (48, 36, 28)
    return _image(image * (1 - 0.9 * soft) + 0.9 * soft * hair)


def microphone(image: Image, points: NDArray[np.float64], t: float) -> Image:
    """A hand-held microphone that hides the lower lip, moving a little."""
    out = image.copy()
    apart = float(np.linalg.norm(points[33] - points[263]))
    x, y = points[17] + apart * np.array([0.06 * np.sin(3.0 * t), 0.16 + 0.05 * np.sin(4.1 * t)])
    cv2.circle(out, (int(x), int(y)), int(0.2 * apart), (30, 30, 34), -1)
    cv2.line(
        out, (int(x), int(y)), (int(x + 0.2 * apart), out.shape[0]), (25, 25, 28), int(0.2 * apart)
    )
    return out


def hand(image: Image, points: NDArray[np.float64], t: float) -> Image:
    """Fingers that pass over a half of the mouth, to and fro."""
    out = image.copy()
    apart = float(np.linalg.norm(points[33] - points[263]))
    x, y = points[LIPS].mean(0) + apart * np.array([0.35 + 0.25 * np.sin(1.8 * t), 0.1])
    for k in range(4):
        at = (int(x + 0.05 * apart * np.sin(k)), int(y + 0.14 * apart * (k - 1.5)))
        cv2.ellipse(
            out, at, (int(0.35 * apart), int(0.07 * apart)), 10, 0, 360, (182 - 9 * k, 140, 120), -1
        )
    return out


def mask(image: Image, points: NDArray[np.float64], t: float) -> Image:
    """A surgical mask: nothing of the mouth is to be seen, nor of its movements."""
    out = image.copy()
    corners = points[[234, 6, 454, 365, 152, 136]]
    down = 0.35 * (points[2] - points[6])
    corners[:3] += down
    apart = float(np.linalg.norm(points[33] - points[263]))
    chin = points[6] + (0.0, 1.35 * apart)  # where it hangs, whatever the jaw does
    corners[3:] = [chin + (0.45 * apart, -0.2 * apart), chin, chin - (0.45 * apart, 0.2 * apart)]
    cv2.fillPoly(out, [corners.astype(np.int32)], (140, 175, 200))
    return out


def worn(take: Take, thing: Callable[[Image, NDArray[np.float64], float], Image]) -> Picture:
    """The recording with ``thing`` on every face."""
    return lambda t: thing(take.at(t), take.meshes[take.index(t)], t)


def turned(image: Image, degrees: float) -> Image:
    """The picture seen from the side (a flat picture, turned about its upright axis)."""
    side = image.shape[0]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    far = 2.2
    corners = []
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        depth = far / (far + x * s)
        corners.append(((x * c * depth + 1) * side / 2, (y * depth + 1) * side / 2))
    source = np.float32([[0, 0], [side, 0], [side, side], [0, side]])
    matrix = cv2.getPerspectiveTransform(source, np.float32(corners))
    return _image(cv2.warpPerspective(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE))


def rolled(image: Image, degrees: float) -> Image:
    """The picture with the head to one side."""
    side = image.shape[0]
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 0.85)
    return _image(cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE))


def dim(image: Image, t: float, *, light: float = 0.18, noise: float = 7.0) -> Image:
    """A picture taken in the dark: little light, much noise."""
    rng = np.random.default_rng(int(t * 1000))
    return _image(image * light + rng.normal(0, noise, image.shape))


def drawn(image: Image) -> Image:
    """A cartoon of the picture: few colours and black lines."""
    smooth = image
    for _ in range(3):
        smooth = _image(cv2.bilateralFilter(smooth, 7, 40, 7))
    flat = smooth // 42 * 42 + 21
    grey = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 5)
    lines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 4)
    return _image(flat * (lines[..., None] > 0))


# Sounds


def resampled(sound: Sound, rate: int) -> Sound:
    """Band-limited, nothing moved in time; (channels, n · rate / 48000)."""
    n = sound.shape[1]
    block = RATE // np.gcd(RATE, rate)
    size = -(-(n + RATE // 5) // block) * block
    spectrum = np.fft.rfft(sound.astype(np.float64), size)
    new = size * rate // RATE
    out = np.fft.irfft(spectrum[:, : new // 2 + 1], new) * (new / size)
    return out[:, : n * rate // RATE].astype(np.float32)


def moved(sound: Sound, early_ms: float, length_s: float) -> Sound:
    """The sound earlier by ``early_ms`` (48 samples a millisecond), ``length_s`` long."""
    n = round(early_ms * RATE / 1000)
    out = np.zeros((sound.shape[0], round(length_s * RATE)), np.float32)
    part = sound[:, max(0, n) :][:, : out.shape[1] - max(0, -n)]
    out[:, max(0, -n) : max(0, -n) + part.shape[1]] = part
    return out


def level(sound: Sound) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(sound.astype(np.float64) ** 2))) + 1e-9


def mixed(sound: Sound, other: Sound, db: float) -> Sound:
    """``other`` added, ``db`` louder than ``sound`` (negative: softer)."""
    gain = level(sound) / level(other) * 10 ** (db / 20)
    return (sound + gain * other[:, : sound.shape[1]]).astype(np.float32)


def banded(sound: Sound, low_hz: float, high_hz: float) -> Sound:
    """Only what lies between two frequencies."""
    spectrum = np.fft.rfft(sound.astype(np.float64))
    hz = np.fft.rfftfreq(sound.shape[1], 1 / RATE)
    spectrum *= np.clip((hz - 0.8 * low_hz) / (0.2 * low_hz), 0, 1)
    spectrum *= np.clip((1.1 * high_hz - hz) / (0.1 * high_hz), 0, 1)
    return np.fft.irfft(spectrum, sound.shape[1]).astype(np.float32)


def music(length_s: float, seed: int) -> Sound:
    """Chords and a drum at 110 beats a minute."""
    rng = np.random.default_rng(seed)
    n = round(length_s * RATE)
    t = np.arange(n) / RATE
    beat = 60 / 110
    out = np.zeros(n)
    for k in range(int(length_s / beat) + 1):
        since = t - k * beat
        on = since >= 0
        root = 110 * 2 ** (rng.choice([0, 3, 5, 7, 10]) / 12)
        fade = np.where(on, np.exp(-2.5 * since.clip(0)), 0)
        for ratio in (1, 1.26, 1.498, 2, 3):
            out += fade * np.sin(2 * np.pi * root * ratio * since) / ratio / 4
        out += np.where(on, np.exp(-40 * since.clip(0)), 0) * rng.normal(0, 0.6, n)
    return (0.2 * out / np.abs(out).max())[None].astype(np.float32)


def applause(length_s: float, seed: int) -> Sound:
    """Some 120 claps a second."""
    rng = np.random.default_rng(seed)
    n = round(length_s * RATE)
    hits = np.zeros(n)
    hits[rng.integers(0, n, round(120 * length_s))] = rng.uniform(0.3, 1, round(120 * length_s))
    clap = rng.normal(0, 1, 1200) * np.exp(-np.arange(1200) / 180)
    out = np.fft.irfft(np.fft.rfft(hits, 2 * n) * np.fft.rfft(clap, 2 * n))[:n]
    return (0.15 * out / np.abs(out).max())[None].astype(np.float32)


def hall(sound: Sound, seconds: float, seed: int) -> Sound:
    """The sound in a hall whose echo dies by 60 dB in ``seconds``."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    tail = rng.normal(0, 0.02, n) * np.exp(-6.9 * np.arange(n) / n)
    tail[0] = 1.0
    size = sound.shape[1] + n
    out = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)
    return out[:, : sound.shape[1]].astype(np.float32)


def pumped(sound: Sound) -> Sound:
    """Gain control that is far too fast and drives the sound into clipping."""
    power = np.convolve(np.abs(sound[0]), np.ones(2400) / 2400, "same") + 1e-4
    return np.clip(sound * (0.6 / power) * 1.5, -0.9, 0.9).astype(np.float32)
