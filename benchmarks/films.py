"""Films for the benchmarks: dev clips of the corpus pasted into a large moving picture, looped.

Nothing is kept in the repository: films are written to a folder (default
``/tmp/avsync-films``) and taken from there the next time. Clips are pasted at their natural size,
each at a place of its own on a textured background that moves and changes with the clip, so that
every clip is a cut. The picture of one round through the clips is encoded once (x264 through
PyAV, preset medium, CRF 23) and its packets are repeated; the sound is encoded throughout, and may
be moved against the picture on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from avsync.media import iter_grid_frames, read_audio

FILMS = Path("/tmp/avsync-films")
RATE = 25
SOUND_HZ = 48_000
SAMPLES = SOUND_HZ // RATE
#: Standard deviation of a camera's noise, of 255 levels.
GRAIN = 3.0
#: By how many seconds the sound leads at each instant (s, float64 (n,)) of the film.
Lead = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def clips_of(corpus: Path, *, seconds: float) -> list[Path]:
    """Dev clips of speech known to be in sync, the longest first, ``seconds`` of them at most."""
    rows = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    rows = [r for r in rows if r["split"] == "dev" and r["trusted_sync"] and r["fps"] == RATE]
    rows.sort(key=lambda r: (-r["duration_s"], r["file"]))
    chosen, total = [], 0.0
    for row in rows:
        if total >= seconds:
            break
        chosen.append(corpus / row["file"])
        total += row["duration_s"]
    return chosen


def _texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """A colourful background with detail at every size, a quarter larger than the picture."""
    rng = np.random.default_rng(seed)
    tall, wide = height * 5 // 4, width * 5 // 4
    out = np.zeros((tall, wide, 3), np.float32)
    for cells in (6, 24, 96):
        noise = rng.uniform(-1, 1, (cells * 9 // 16, cells, 3)).astype(np.float32)
        out += cv2.resize(noise, (wide, tall), interpolation=cv2.INTER_CUBIC) / cells**0.4
    return np.asarray((128 + rng.uniform(-40, 40) + 110 * out).clip(0, 255), np.uint8)


def _round(
    clips: list[Path], height: int, rounds_s: float, mbit: float
) -> Iterator[tuple[Any, Any]]:
    """(picture, its 40 ms of sound) through the clips once, or until ``rounds_s``."""
    width = height * 16 // 9
    ticks = 0
    noise = np.random.default_rng(7).normal(0, GRAIN, (2 * height, 2 * width, 1)).astype(np.int16)
    for number, clip in enumerate(clips):
        back = _texture(height, width, number)
        sound = read_audio(clip, sample_rate=SOUND_HZ)
        frames = list(iter_grid_frames(clip))
        tall, wide = frames[0].image.shape[:2]
        rng = np.random.default_rng(1000 + number)
        top = int(rng.integers(height // 8, height - tall - height // 16))
        left = int(rng.integers(width // 8, width - wide - width // 8))
        for i, frame in enumerate(frames):
            if ticks >= rounds_s * RATE:
                return
            ticks += 1
            x = round(width / 8 * (1 + np.sin(i / 60)))
            y = round(height / 8 * (1 + np.cos(i / 90)))
            picture = back[y : y + height, x : x + width].copy()
            picture[top : top + tall, left : left + wide] = frame.image
            if mbit:
                at_y, at_x = rng.integers(height), rng.integers(width)
                grains = noise[at_y : at_y + height, at_x : at_x + width]
                picture = (picture + grains).clip(0, 255).astype(np.uint8)
            start = round((frame.time_s - sound.start_s) * SOUND_HZ)
            piece = np.zeros(SAMPLES, np.float32)
            part = sound.samples[max(0, start) : max(0, start + SAMPLES)]
            piece[max(0, -start) : max(0, -start) + len(part)] = part[: SAMPLES - max(0, -start)]
            yield picture, piece


def _picture_round(
    clips: list[Path], height: int, rounds_s: float, mbit: float, scratch: Path
) -> tuple[Path, NDArray[np.float32]]:
    """Encode one round; returns the file with the picture, and the sound."""
    sound = []
    with av.open(str(scratch), "w", format="mp4") as out:
        stream: Any = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = height * 16 // 9, height, "yuv420p"
        stream.options = {"preset": "medium", **({} if mbit else {"crf": "23"})}
        if mbit:
            stream.bit_rate = round(mbit * 1e6)
        for n, (picture, piece) in enumerate(_round(clips, height, rounds_s, mbit)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, RATE)
            out.mux(stream.encode(frame))
            sound.append(piece)
        out.mux(stream.encode(None))
    return scratch, np.concatenate(sound)


def film(
    corpus: Path,
    *,
    height: int,
    seconds: float,
    round_s: float = 120.0,
    lead: Lead | None = None,
    name: str = "plain",
    mbit: float = 0.0,
    codec: str = "aac",
    folder: Path = FILMS,
) -> Path:
    """Write a film (MP4, H.264 and AAC) of ``seconds``, unless it is there; returns its path.

    Args:
        round_s: length of the round that is repeated, at most.
        lead: by how much the sound leads (s, positive = early) at each instant; default none.
        name: tells films with different ``lead`` apart.
        mbit: bit rate (Mbit/s) of a picture with a camera's noise; 0: without noise, by quality
            (CRF 23), which gives half a megabit a second at 720p and little to decode.
        codec: of the sound: aac, or flac (in Matroska, quicker to make).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rate = f"-{mbit:g}M" if mbit else ""
    path = folder / f"{name}-{height}p{rate}-{seconds:.0f}s.{'mp4' if codec == 'aac' else 'mkv'}"
    if path.exists():
        return path
    once = folder / f"round-{height}p{rate}-{min(round_s, seconds):.0f}s.mp4"
    heard = once.with_suffix(".npy")
    if not heard.exists():
        clips = clips_of(corpus, seconds=round_s)
        part = once.with_suffix(".part")
        _, sound = _picture_round(clips, height, min(round_s, seconds), mbit, part)
        part.replace(once)
        np.save(heard, sound)
    sound = np.load(heard)
    part = path.with_suffix(".part")
    _write(part, once, sound, seconds, lead, codec)
    part.replace(path)
    return path


def _write(
    path: Path,
    once: Path,
    sound: NDArray[np.float32],
    seconds: float,
    lead: Lead | None,
    codec: str,
) -> None:
    kind = "mp4" if codec == "aac" else "matroska"
    with av.open(str(path), "w", format=kind) as out, av.open(str(once)) as source:
        seen = source.streams.video[0]
        video: Any = out.add_stream_from_template(seen)
        audio: Any = out.add_stream(codec, rate=SOUND_HZ, layout="mono")
        packets = [p for p in source.demux(seen) if p.size]
        unit = float(seen.time_base)
        length = len(sound) / SOUND_HZ
        at = 0.0
        while at < seconds:
            for packet in packets:
                now = at + packet.pts * unit
                if now >= seconds:
                    continue
                copy = av.Packet(bytes(packet))
                copy.pts = packet.pts + round(at / unit)
                copy.dts = packet.dts + round(at / unit)
                copy.time_base, copy.stream = seen.time_base, video
                copy.is_keyframe = packet.is_keyframe
                copy.duration = packet.duration
                out.mux(copy)
            _sound(out, audio, sound, at, min(length, seconds - at), lead)
            at += length
        out.mux(audio.encode(None))


def _sound(
    out: Any, stream: Any, sound: NDArray[np.float32], at: float, length: float, lead: Lead | None
) -> None:
    first, count = round(at * SOUND_HZ), round(length * SOUND_HZ)
    for start in range(0, count, SOUND_HZ):
        index = first + np.arange(start, min(start + SOUND_HZ, count), dtype=np.float64)
        if lead is not None:
            index += lead(index / SOUND_HZ) * SOUND_HZ
        low = np.floor(index).astype(np.int64)
        share = (index - low).astype(np.float32)
        n = len(sound)
        piece = sound[low % n] * (1 - share) + sound[(low + 1) % n] * share
        if stream.codec_context.name == "flac":
            whole = (piece * 32767).clip(-32768, 32767).round().astype(np.int16)
            frame = av.AudioFrame.from_ndarray(whole[None], "s16", "mono")
        else:
            frame = av.AudioFrame.from_ndarray(piece[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = SOUND_HZ, first + start
        frame.time_base = Fraction(1, SOUND_HZ)
        out.mux(stream.encode(frame))
