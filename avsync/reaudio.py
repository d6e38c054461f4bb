"""Encode one audio stream anew, every sample put where it belongs, gaps filled with silence.

This is for containers that cannot say when sound begins. The samples are laid on one line that
starts at a given instant: what lies before it is left out, what is missing is silence, and the
encoder's own delay is made up for, so that the result is exact to the sample. Pieces with a shift
each are put together on the way (:mod:`avsync.splice`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from avsync import demux
from avsync.errors import MediaReadError
from avsync.splice import Piece, Splicer

__all__ = ["AudioEncoder", "Stretch", "encoder_for"]

#: Time stamps may wander this far (s) from the count of samples before they count as a gap.
JITTER_S = 0.012
#: Encoders by codec, where ffmpeg's own is an experiment or has another name.
_ENCODERS = {"opus": "libopus", "vorbis": "libvorbis", "mp3": "libmp3lame"}
#: What takes the place of a codec that cannot be encoded, by muxer.
_SUBSTITUTES = {
    "mp4": "aac",
    "mov": "aac",
    "matroska": "flac",
    "webm": "libopus",
    "mpegts": "aac",
    "avi": "pcm_s16le",
    "asf": "wmav2",
    "vob": "mp2",
    "mxf": "pcm_s24le",
}
#: All that MXF holds as ffmpeg writes it.
_IN_MXF = ("pcm_s16le", "pcm_s24le")
#: Bit rates (kbit/s) of codecs that know only some.
_LADDERS = {
    "mp2": (64, 96, 128, 160, 192, 224, 256, 320, 384),
    "mp3": (64, 96, 128, 160, 192, 224, 256, 320),
    "ac3": (96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640),
}
_PER_CHANNEL = 96_000
#: The resampler that undoes a drift works with fractions up to this denominator, which is right
#: within 1e-8 (less than a millisecond a day).
_FINE = 10_000
_BLOCK = 4096

Samples = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A drift to undo: sound at time t moves by ``slope * (t - anchor_s)`` more, in seconds."""

    slope: float
    anchor_s: float

    def at(self, time_s: float) -> float:
        """The extra delay (s) of sound at ``time_s``."""
        return self.slope * (time_s - self.anchor_s)


def encoder_for(codec: str, muxer: str) -> str:
    """The encoder for a codec's name, or what takes its place in that container."""
    name = _ENCODERS.get(codec, codec)
    if muxer == "mxf" and name not in _IN_MXF:
        return _SUBSTITUTES[muxer]
    try:
        found = av.Codec(name, "w")
    except (av.FFmpegError, ValueError):
        return _SUBSTITUTES[muxer]
    return _SUBSTITUTES[muxer] if found.experimental else name


def _bit_rate(codec: str, source: Any) -> int | None:
    """At least the source's bit rate, in one of the steps that the encoder knows."""
    context = source.codec_context
    wanted: int = context.bit_rate or _PER_CHANNEL * max(1, context.channels)
    ladder = _LADDERS.get(codec)
    if ladder is None:
        return max(wanted, 64_000)
    return next((1000 * step for step in ladder if 1000 * step >= wanted), 1000 * ladder[-1])


class AudioEncoder:
    """Decodes one stream's packets and encodes them anew into a stream of the new file.

    Args:
        out: the container that is written; a stream is added to it.
        source: the audio stream that is read.
        encoder: ffmpeg's name of the encoder.
        start_s: the first sample that is kept sounds at this instant of the new clock.
        shift_s: sound at time t of the source goes to ``t + shift_s`` (plus the stretch).
        pieces: each has a shift of its own; the first one's is ``shift_s``.
        aligned: the container knows no encoder's delay: make the packets begin with the sound.
    """

    def __init__(
        self,
        out: Any,
        source: Any,
        encoder: str,
        *,
        start_s: float,
        shift_s: float,
        stretch: Stretch | None = None,
        pieces: Sequence[Piece] = (),
        aligned: bool = False,
    ) -> None:
        self.source = source
        self.rate: int = source.codec_context.sample_rate
        self.layout: str = source.codec_context.layout.name
        self.shift_s = shift_s
        self.stretch = stretch
        self.stream = out.add_stream(encoder, rate=self.rate)
        self.codec: str = self.stream.codec_context.codec.canonical_name
        self._prepare(self.stream.codec_context)
        self.stream.metadata.update(source.metadata)
        self.stream.disposition = source.disposition
        self.origin = round(start_s * self.rate)
        self._splicer = Splicer(pieces, self.rate, self.origin) if pieces else None
        #: The sound is to last until then at least (s, of the new clock).
        self.until_s = 0.0
        self.bad_packets = 0
        decoded = source.codec_context.format.name if source.codec_context.format else "fltp"
        self._format = decoded if decoded.endswith("p") else decoded + "p"
        self._resampler: Any = None
        self._kind: tuple[int, str, str] | None = None
        self._run_s = 0.0
        self._counted = 0
        self._cursor = 0  # samples laid down since the origin
        self._skip = 0
        self._filled = 0  # samples of silence in gaps
        self._sent = 0
        self._parts: list[Samples] = []
        self._held = 0
        self._keep_from: int | None = None
        if aligned:
            delay, frame = self._delay(encoder)
            lead = -delay % frame if frame else 0
            self._sent = -lead
            self._keep_from = self.origin
            if lead:
                self._put(self._silence(lead))

    def _prepare(self, context: Any) -> None:
        source = self.source.codec_context
        context.layout = self.layout
        context.time_base = Fraction(1, self.rate)
        offered = [f.name for f in context.codec.audio_formats or ()]
        plain = source.format.name.rstrip("p") if source.format else "flt"
        alike = [name for name in offered if name.rstrip("p") == plain]
        if offered:
            context.format = (alike or offered)[0]
        if not self.codec.startswith("pcm_") and self.codec not in ("flac", "alac"):
            context.bit_rate = _bit_rate(self.codec, self.source)

    def _delay(self, encoder: str) -> tuple[int, int]:
        """The encoder's delay and its frame, in samples, as a trial shows them."""
        trial: Any = av.CodecContext.create(encoder, "w")
        trial.sample_rate = self.rate
        self._prepare(trial)
        frame = self._frame(self._silence(_BLOCK), 0)
        packets = [*trial.encode(frame), *trial.encode(None)]
        pts = packets[0].pts if packets else 0
        return -min(0, pts or 0), trial.frame_size or 0

    def feed(self, packet: Any | None) -> Iterator[Any]:
        """Take in a packet of the source, or None at its end; yield encoded packets."""
        try:
            frames = self.source.codec_context.decode(packet)
        except av.EOFError:
            frames = []
        except av.FFmpegError:
            self.bad_packets += 1
            frames = []
        for frame in frames:
            for _ in self._lay(frame):
                yield from self._encode(False)
        if packet is None:
            self._pour(None)
            if self._splicer is not None:
                for block in self._splicer.feed(self._silence(0), last=True):
                    self._put(block)
            yield from self._fill()
            yield from self._encode(True)

    def _fill(self) -> Iterator[Any]:
        missing = round(self.until_s * self.rate) - self.origin - self._sent - self._held
        for done in range(0, missing, 1 << 16):
            self._put(self._silence(min(missing - done, 1 << 16)))
            yield from self._encode(False)

    def _lay(self, frame: Any) -> Iterator[None]:
        """Put a decoded frame where its time stamp says; yields when there is some to encode.

        Raises:
            MediaReadError: the gaps are together longer than any that is believed.
        """
        expected = self._run_s + self._counted / frame.sample_rate
        pts = demux.seconds(frame.pts, frame.time_base)
        first = self._kind is None
        if pts is None or (not first and abs(pts - expected) > demux.MAX_GAP_S):
            pts = expected
        kind = (frame.sample_rate, frame.format.name, frame.layout.name)
        if first or kind != self._kind or abs(pts - expected) > JITTER_S:
            self._pour(None)
            self._kind, self._run_s, self._counted = kind, pts, 0
            self._resampler = None
            extra = self.stretch.at(pts) if self.stretch else 0.0
            place = round((pts + self.shift_s + extra) * self.rate) - self.origin
            self._skip = max(0, self._cursor - place)
            self._filled += max(0, place - self._cursor)
            if self._filled > demux.MAX_GAP_S * self.rate:
                raise MediaReadError(
                    f"the sound's time stamps leave gaps of {self._filled / self.rate:.0f} s, more "
                    f"than the {demux.MAX_GAP_S:.0f} s that are filled with silence; the file is "
                    "damaged, make a copy of it with other tools first"
                )
            while self._cursor < place:
                self._append(self._silence(min(place - self._cursor, 1 << 16)))
                yield
        self._counted += frame.samples
        self._pour(frame)
        yield

    def _pour(self, frame: Any | None) -> None:
        if frame is None and self._resampler is None:
            return
        rate = self.rate
        if self.stretch is not None and self._kind is not None:
            # Only the ratio counts; a larger denominator costs the resampler gigabytes.
            exact = Fraction(self.rate, self._kind[0]) * Fraction(1 + self.stretch.slope)
            ratio = exact.limit_denominator(_FINE)
            unit = 1 + 8000 // ratio.denominator
            source_rate, rate = ratio.denominator * unit, ratio.numerator * unit
            if frame is not None:
                frame.sample_rate = source_rate
                frame.time_base = Fraction(1, source_rate)
        if self._resampler is None:
            self._resampler = av.AudioResampler(format=self._format, layout=self.layout, rate=rate)
        if frame is not None:
            frame.pts = None
        for out in self._resampler.resample(frame):
            samples = out.to_ndarray()
            cut = min(self._skip, samples.shape[1])
            self._skip -= cut
            self._append(samples[:, cut:])
        if frame is None:
            self._resampler = None

    def _append(self, samples: Samples) -> None:
        self._cursor += samples.shape[1]
        for block in [samples] if self._splicer is None else self._splicer.feed(samples):
            self._put(block)

    def _put(self, samples: Samples) -> None:
        if samples.shape[1]:
            self._parts.append(samples)
            self._held += samples.shape[1]

    def _silence(self, count: int) -> Samples:
        kinds = {"u8p": np.uint8, "s16p": np.int16, "s32p": np.int32, "dblp": np.float64}
        kind = kinds.get(self._format, np.float32)
        channels = len(av.AudioLayout(self.layout).channels)
        return np.full((channels, count), 128 if kind is np.uint8 else 0, kind)

    def _frame(self, samples: Samples, pts: int) -> Any:
        block = np.ascontiguousarray(samples)
        frame = av.AudioFrame.from_ndarray(block, format=self._format, layout=self.layout)
        frame.sample_rate = self.rate
        frame.time_base = Fraction(1, self.rate)
        frame.pts = pts
        return frame

    def _encode(self, last: bool) -> Iterator[Any]:
        if self._held and (last or self._held >= _BLOCK):
            joined = np.concatenate(self._parts, axis=1)
            whole = len(joined[0]) if last else len(joined[0]) // _BLOCK * _BLOCK
            for i in range(0, whole, _BLOCK):
                block = joined[:, i : min(i + _BLOCK, whole)]
                frame = self._frame(block, self.origin + self._sent)
                self._sent += block.shape[1]
                yield from self._kept(self.stream.encode(frame))
            self._parts = [joined[:, whole:]] if whole < len(joined[0]) else []
            self._held = len(joined[0]) - whole
        if last:
            yield from self._kept(self.stream.encode(None))

    def _kept(self, packets: list[Any]) -> Iterator[Any]:
        for packet in packets:
            early = self._keep_from is not None and packet.pts is not None
            if early and packet.pts * packet.time_base * self.rate < self._keep_from:
                continue  # nothing in it but the encoder's own delay
            packet.stream = self.stream
            yield packet
