"""Parts of the sample, copied packet by packet, so that tests of whole programs are quick."""

from __future__ import annotations

from pathlib import Path

import av

__all__ = ["write_part"]


def write_part(source: Path, out: Path, length_s: float) -> Path:
    """The first ``length_s`` seconds; sound and picture keep their places."""
    with av.open(str(source)) as film, av.open(str(out), "w") as part:
        streams = film.streams.video[:1] + film.streams.audio[:1]
        twins = {s.index: part.add_stream_from_template(s) for s in streams}
        for packet in film.demux(streams):
            if packet.dts is not None and packet.pts * packet.time_base < length_s:
                packet.stream = twins[packet.stream.index]
                part.mux(packet)
    return out
