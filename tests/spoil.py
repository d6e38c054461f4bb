"""Files made from other files: cut, copied into another container, or taken apart again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from factory import Image, exact, shifted
from numpy.typing import NDArray

__all__ = ["footage", "recording", "remux", "truncate", "write_text_named_mp4"]


def write_text_named_mp4(path: Path) -> Path:
    """Write a text file with a film's name."""
    path.write_text("This is a letter, not a film.\n" * 40)
    return path


def truncate(path: Path, share: float) -> Path:
    """Cut the file down to the given share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def remux(
    source: Path,
    path: Path,
    *,
    start_s: float = 0.0,
    audio_late_s: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """Copy all packets of ``source`` into another container, nothing decoded.

    ``start_s`` moves all streams, ``audio_late_s`` the sound on top of that.
    """
    with (
        av.open(str(source)) as film,
        av.open(str(path), "w", container_options=options or {}) as out,
    ):
        streams = {s.index: out.add_stream_from_template(s) for s in film.streams}
        for packet in film.demux():
            if packet.dts is None:
                continue
            by = exact(start_s)
            if packet.stream.type == "audio":
                by += exact(audio_late_s)
            moved = shifted(packet, streams[packet.stream_index], by)
            out.mux_one(moved.packet)
    return path


def footage(source: Path) -> tuple[Callable[[float, bool], Image], int, int]:
    """Return a film's pictures as ``VideoSpec.picture``, with their width and height."""
    with av.open(str(source)) as film:
        frames = [(float(f.time), f.to_ndarray(format="rgb24")) for f in film.decode(video=0)]
    times = np.array([t for t, _ in frames])
    height, width = frames[0][1].shape[:2]

    def picture(t: float, flash: bool) -> Image:
        return frames[int(np.abs(times - t).argmin())][1]

    return picture, width, height


def recording(source: Path) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return a film's sound as ``AudioSpec.signal`` (first channel, linear interpolation)."""
    with av.open(str(source)) as film:
        blocks = [(f.time, f.sample_rate, f.to_ndarray()[0]) for f in film.decode(audio=0)]
    start, rate = float(blocks[0][0] or 0.0), blocks[0][1]
    samples = np.concatenate([b for _, _, b in blocks]).astype(np.float64)

    def signal(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp((t - start) * rate, np.arange(len(samples)), samples, 0.0, 0.0)

    return signal
