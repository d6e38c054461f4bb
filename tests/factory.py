"""Test media made by code: nothing is downloaded and nothing is copied from elsewhere.

The *event video* is the ruler of the test suite: a dim, slowly moving picture in which a single
frame turns white, and in the sound a 6-ms tone burst whose peak lies exactly on that frame's time
stamp. The events come at irregular distances, so that a slip by a whole period cannot look right.

All times are seconds. "Content time" starts at 0 with the first frame; the container's clock is
content time plus ``start_s`` (plus what the muxer itself adds, e.g. to keep time stamps
non-negative: it adds the same to every stream).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EVENTS_S",
    "RATES",
    "AudioSpec",
    "EventMedia",
    "Timed",
    "VideoSpec",
    "click_track",
    "exact",
    "frame_times",
    "shifted",
    "write_media",
]

#: Wanted instants of flash and click (content time); each moves to the nearest frame's time stamp.
EVENTS_S: tuple[float, ...] = (0.42, 1.07, 1.79, 2.63)
DURATION_S = 3.2
WIDTH, HEIGHT = 96, 64
CLOCK = Fraction(1, 90_000)
CLICK_S = 0.006

#: The frame rates of the issue's table, by the name used in test ids.
RATES: dict[str, Fraction | Literal["vfr"]] = {
    "23.976": Fraction(24_000, 1001),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30_000, 1001),
    "30": Fraction(30),
    "50": Fraction(50),
    "60": Fraction(60),
    "vfr": "vfr",
}

Float32 = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class VideoSpec:
    """How the video stream is written.

    ``delay_s`` moves the first frame to a later instant of content time (the stream then starts
    later than the sound). ``picture`` maps (content time, is_flash) to an RGB image. ``aspect``: of
    a pixel.
    """

    codec: str = "libx264"
    rate: Fraction | Literal["vfr"] = Fraction(25)
    b_frames: int = 0
    rotation: int = 0
    delay_s: float = 0.0
    width: int = WIDTH
    height: int = HEIGHT
    keyframe_every: int = 50
    aspect: Fraction | None = None
    picture: Callable[[float, bool], Image] | None = None


@dataclass(frozen=True)
class AudioSpec:
    """How one audio stream is written.

    ``signal`` maps sample instants (content time, float64 (N,)) to mono samples (N,); None is the
    click track. ``delay_s`` is when the stream's first sample sounds. ``gap_s`` leaves out all
    packets that lie wholly in that stretch. ``change_s`` and ``change_rate`` switch the sample
    rate (AAC in MPEG-TS only). ``shift_s`` makes the clicks late (+) or early (-): a known offset.
    ``trim`` leaves out the packets that hold nothing but the encoder's own delay, as a careful
    writer does where the container cannot signal that delay (AVI). ``jitter_s`` makes every
    second packet's stamp late by that much, as sloppy recorders do.
    """

    codec: str = "aac"
    sample_rate: int = 48_000
    layout: str = "stereo"
    language: str | None = None
    signal: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    delay_s: float = 0.0
    shift_s: float = 0.0
    gap_s: tuple[float, float] | None = None
    change_s: float | None = None
    change_rate: int = 44_100
    trim: bool = False
    jitter_s: float = 0.0


@dataclass(frozen=True)
class EventMedia:
    """What was written: the path, and the event instants in content time (seconds)."""

    path: Path
    events_s: tuple[float, ...]
    frame_times_s: tuple[float, ...]
    start_s: float = 0.0


def frame_times(rate: Fraction | Literal["vfr"], duration_s: float) -> list[Fraction]:
    """Return the frames' time stamps in content time.

    "vfr" walks with steps between 17 and 75 ms from a fixed seed, on a 1-ms raster.
    """
    if rate == "vfr":
        rng = np.random.default_rng(7)
        times, now = [], 0
        while now < duration_s * 1000:
            times.append(Fraction(now, 1000))
            now += int(rng.integers(17, 76))
        return times
    return [Fraction(i) / rate for i in range(math.floor(duration_s * rate))]


def nearest(times: Sequence[Fraction], wanted: Iterable[float]) -> list[Fraction]:
    """Return for each wanted instant the time stamp that lies nearest."""
    return [min(times, key=lambda t: abs(t - w)) for w in wanted]


def click_track(t: NDArray[np.float64], events: Iterable[float]) -> NDArray[np.float64]:
    """Return tone bursts (2.5 kHz, Hann, 6 ms) with their peaks at the given instants."""
    out = np.zeros_like(t)
    for event in events:
        d = t - event
        near = np.abs(d) < CLICK_S / 2
        shape = 0.5 + 0.5 * np.cos(2 * np.pi * d[near] / CLICK_S)
        out[near] += 0.8 * shape * np.cos(2 * np.pi * 2500 * d[near])
    return out


def event_picture(t: float, flash: bool, width: int = WIDTH, height: int = HEIGHT) -> Image:
    """Return the picture at content time ``t``: white for a flash, else dim with a moving bar."""
    if flash:
        return np.full((height, width, 3), 250, np.uint8)
    x, columns = t * 24 % (width - 8), np.arange(width)
    share = (np.minimum(columns + 1, x + 8) - np.maximum(columns, x)).clip(0, 1)[:, None]
    row = 40 + share * (30, 20, 50)  # each picture differs from the one before, at any rate
    return np.broadcast_to(row.astype(np.uint8), (height, width, 3)).copy()


@dataclass
class Timed:
    """A packet with its stream and the instant (seconds, exact) that decides the writing order."""

    packet: av.Packet[Any]
    stream: Any
    dts: Fraction


VIDEO_OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "crf": "20"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "10"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
}


def shifted(packet: av.Packet[Any], stream: Any, by: Fraction) -> Timed:
    """Move a packet's stamps by ``by`` seconds, exactly, refining its time base if need be."""
    base = Fraction(packet.time_base)
    scale = (by / base).denominator
    fine = base / scale
    move = int(by / fine)
    pts, dts, duration = packet.pts, packet.dts, packet.duration
    packet.time_base = fine
    packet.pts = None if pts is None else pts * scale + move
    packet.dts = None if dts is None else dts * scale + move
    packet.duration = (duration or 0) * scale
    packet.stream = stream
    return Timed(packet, stream, (packet.dts or 0) * fine)


def exact(seconds: float) -> Fraction:
    return Fraction(seconds).limit_denominator(90_000)


def _prepare_video(stream: Any, spec: VideoSpec) -> None:
    context = stream.codec_context
    context.width, context.height = spec.width, spec.height
    context.pix_fmt = "yuvj420p" if spec.codec == "mjpeg" else "yuv420p"
    context.time_base = Fraction(1, 1000) if spec.rate == "vfr" else 1 / spec.rate
    context.gop_size = spec.keyframe_every
    context.max_b_frames = spec.b_frames
    if not spec.codec.startswith("lib"):
        context.bit_rate = 600_000
    context.thread_count = 1
    options = dict(VIDEO_OPTIONS.get(spec.codec, {}))
    if spec.codec == "libx264":
        options["bf"] = str(spec.b_frames)
    context.options = options
    if spec.aspect is not None:
        context.sample_aspect_ratio = spec.aspect
    if spec.rotation:
        stream.set_display_rotation(spec.rotation)


def _video_packets(
    stream: Any, spec: VideoSpec, times: Sequence[Fraction], flashes: set[Fraction], start: Fraction
) -> Iterator[Timed]:
    context = stream.codec_context
    step = context.time_base
    delay = exact(spec.delay_s)
    for t in (*times, None):
        if t is None:
            packets = stream.encode(None)
        else:
            content = t + delay
            flash = content in flashes
            if spec.picture is not None:
                image = spec.picture(float(content), flash)
            else:
                image = event_picture(float(content), flash, spec.width, spec.height)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format=context.pix_fmt)
            frame.pts = round(t / step)
            frame.time_base = step
            packets = stream.encode(frame)
        for packet in packets:
            yield shifted(packet, stream, start + delay)


def _sound(spec: AudioSpec, t: NDArray[np.float64], events: Sequence[float]) -> NDArray[np.float64]:
    if spec.signal is not None:
        return spec.signal(t)
    return click_track(t, [e + spec.shift_s for e in events])


def _encode_audio(
    context: Any, rate: int, layout: str, mono: NDArray[np.float64]
) -> Iterator[av.Packet[Any]]:
    """Encode mono samples; a 5.1 layout carries them in the centre, others in every channel."""
    names = [c.name for c in av.AudioLayout(layout).channels]
    planes = np.zeros((len(names), len(mono)), np.float32)
    for i, name in enumerate(names):
        if len(names) <= 2 or name == "FC":
            planes[i] = mono
    for i in range(0, len(mono), 4096):
        block = np.ascontiguousarray(planes[:, i : i + 4096])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts = i
        frame.time_base = Fraction(1, rate)
        yield from context.encode(frame)
    yield from context.encode(None)


def _prepare_audio(context: Any, spec: AudioSpec) -> None:
    context.layout = spec.layout
    if spec.codec in ("aac", "libmp3lame", "libopus", "wmav2"):
        context.bit_rate = 96_000 if spec.layout in ("mono", "stereo") else 256_000
    context.time_base = Fraction(1, spec.sample_rate)


def _audio_packets(
    stream: Any, spec: AudioSpec, events: Sequence[float], duration_s: float, start: Fraction
) -> Iterator[Timed]:
    rate = spec.sample_rate
    delay = exact(spec.delay_s)
    if spec.change_s is not None:
        yield from _changing_audio(stream, spec, events, duration_s, start)
        return
    n = int((duration_s - spec.delay_s) * rate)
    mono = _sound(spec, float(delay) + np.arange(n) / rate, events)
    for n, packet in enumerate(_encode_audio(stream, rate, spec.layout, mono)):
        first = float(packet.pts * packet.time_base + delay)
        last = first + float((packet.duration or 0) * packet.time_base)
        if spec.trim and (first + last) / 2 < spec.delay_s:
            continue
        if spec.gap_s is not None and first >= spec.gap_s[0] and last <= spec.gap_s[1]:
            continue
        yield shifted(packet, stream, start + delay + exact(spec.jitter_s) * (n % 2))


def _changing_audio(
    stream: Any, spec: AudioSpec, events: Sequence[float], duration_s: float, start: Fraction
) -> Iterator[Timed]:
    """AAC with ADTS headers whose sample rate changes at the packet border nearest ``change_s``."""
    assert spec.change_s is not None
    frame = Fraction(1024, spec.sample_rate)
    border = round(exact(spec.change_s) / frame) * frame
    parts = (
        (spec.sample_rate, Fraction(0), border),
        (spec.change_rate, border, exact(duration_s)),
    )
    for rate, begin, end in parts:
        context = av.CodecContext.create("aac", "w")
        context.sample_rate = rate
        context.format = "fltp"
        _prepare_audio(context, replace(spec, sample_rate=rate))
        n = int((end - begin) * rate) + 2048
        mono = _sound(spec, float(begin) + np.arange(n) / rate, events)
        for packet in _encode_audio(context, rate, spec.layout, mono):
            first = packet.pts * packet.time_base
            if first < 0 or begin + first >= end:
                continue
            adts = av.Packet(_adts(len(bytes(packet)), rate, context.channels) + bytes(packet))
            adts.pts, adts.dts, adts.duration = packet.pts, packet.pts, 1024
            adts.time_base = Fraction(1, rate)
            yield shifted(adts, stream, start + begin)


def _adts(size: int, rate: int, channels: int) -> bytes:
    """Return the 7-byte ADTS header (ISO/IEC 13818-7, 6.2) of an AAC-LC frame of ``size`` bytes."""
    rates = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
    full = size + 7
    bits = 0xFFF << 44 | 0b0001 << 40  # sync word, MPEG-4, layer 0, no CRC
    bits |= 1 << 38 | rates.index(rate) << 34 | channels << 30  # LC, rate, channel configuration
    bits |= full << 13 | 0x7FF << 2
    return bits.to_bytes(7, "big")


def _png(width: int = 64, height: int = 64) -> bytes:
    """Return a small yellow PNG (the cover)."""
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = width, height, "rgb24"
    context.time_base = Fraction(1, 25)
    image = np.full((height, width, 3), (250, 240, 10), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    return b"".join(bytes(p) for p in (*context.encode(frame), *context.encode(None)))


def write_media(
    path: Path,
    *,
    video: VideoSpec | None = VideoSpec(),
    audio: AudioSpec | Sequence[AudioSpec] | None = AudioSpec(),
    start_s: float = 0.0,
    duration_s: float = DURATION_S,
    events_s: Sequence[float] = EVENTS_S,
    cover: bool = False,
    options: dict[str, str] | None = None,
    format: str | None = None,
) -> EventMedia:
    """Write a file with the given streams and return what it holds.

    Args:
        start_s: added to every time stamp (0 leaves what the muxer does of its own accord).
        cover: add an attached picture before the other streams' packets.
        options: the muxer's options (``movflags`` and so on).
    """
    settings = {"avoid_negative_ts": "disabled"} if start_s < 0 else {}
    settings |= options or {}
    start = exact(start_s)
    rate = video.rate if video is not None else Fraction(25)
    times = frame_times(rate, duration_s - (video.delay_s if video else 0.0))
    delay = exact(video.delay_s if video else 0.0)
    flashes = nearest([t + delay for t in times], events_s)
    events = [float(t) for t in flashes]
    audios = [audio] if isinstance(audio, AudioSpec) else list(audio or ())

    with av.open(str(path), "w", format=format, container_options=settings) as out:
        feeds: list[Iterator[Timed]] = []
        if video is not None:
            stream = out.add_stream(video.codec, rate=25 if rate == "vfr" else rate)
            _prepare_video(stream, video)
            feeds.append(_video_packets(stream, video, times, set(flashes), start))
        for spec in audios:
            stream = out.add_stream(spec.codec, rate=spec.sample_rate)
            _prepare_audio(stream.codec_context, spec)
            if spec.language:
                stream.metadata["language"] = spec.language
            feeds.append(_audio_packets(stream, spec, events, duration_s, start))
        picture: Any = None
        if cover and out.format.name in ("matroska", "webm"):
            out.add_attachment("cover.png", "image/png", _png())
        elif cover:
            picture = out.add_mux_stream("png", width=64, height=64)
            picture.disposition = av.stream.Disposition.attached_pic
        timed = sorted((p for feed in feeds for p in feed), key=lambda p: p.dts)
        if picture is not None:
            packet = av.Packet(_png())
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            packet.time_base = CLOCK
            packet.is_keyframe = True
            out.mux_one(packet)
        for item in timed:
            out.mux_one(item.packet)
    return EventMedia(
        path=path,
        events_s=tuple(events),
        frame_times_s=tuple(float(t + delay) for t in times),
        start_s=start_s,
    )
