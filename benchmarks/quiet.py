"""Films in which something is said for a fifth of the time: looked at where it is, and in full.

    python benchmarks/quiet.py ../shared/corpus --seconds 110 300 --height 360

The films are those of benchmarks/films.py with the sound silent but for one stretch in five. Exit
code 1 when both answers are more than 20 ms apart, or one of them is missing.
"""

from __future__ import annotations

import argparse
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from films import SOUND_HZ, film
from rich.console import Console
from rich.table import Table

from avsync import SyncDetector
from avsync.media import read_audio

#: Spoken stretches last so long (s), each time after so many times that without.
SPOKEN_S = 8.0
PART = 5
NEAR_MS = 20.0


def quietened(source: Path, out: Path) -> Path:
    """The film with hardly audible noise in place of four fifths of its sound."""
    sound = read_audio(source, sample_rate=SOUND_HZ)
    times = sound.start_s + np.arange(len(sound.samples)) / SOUND_HZ
    spoken = (times / SPOKEN_S).astype(int) % PART == PART // 2
    noise = np.random.default_rng(0).normal(0, 3e-4, len(times))
    whole = ((sound.samples * spoken + noise) * 32767).clip(-32768, 32767).astype(np.int16)
    with av.open(str(source)) as film_in, av.open(str(out), "w") as made:
        seen = film_in.streams.video[0]
        video: Any = made.add_stream_from_template(seen)
        audio: Any = made.add_stream("flac", rate=SOUND_HZ, layout="mono")
        done = 0
        for packet in film_in.demux(seen):
            if not packet.size:
                continue
            now = float(packet.dts * packet.time_base)
            packet.stream = video
            made.mux(packet)
            while done < len(whole) and done < (now + 1) * SOUND_HZ:
                piece = whole[None, done : done + SOUND_HZ // 10]
                frame = av.AudioFrame.from_ndarray(piece, "s16", "mono")
                frame.sample_rate, frame.pts = SOUND_HZ, done
                frame.time_base = Fraction(1, SOUND_HZ)
                made.mux(audio.encode(frame))
                done += piece.shape[1]
        made.mux(audio.encode(None))
    return out


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder with index.jsonl")
    parser.add_argument("--seconds", type=float, nargs="+", default=[110.0, 300.0])
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    table = Table(title=f"{options.height}p, something is said for a fifth of the time")
    for column in ("film", "way", "speech s", "looked at s", "processor s", "answer"):
        table.add_column(column)
    failed = False
    for seconds in options.seconds:
        plain = film(options.corpus, height=options.height, seconds=seconds)
        path = plain.with_name(f"quiet-{plain.stem}.mkv")
        if not path.exists():
            quietened(plain, path.with_suffix(".part.mkv")).replace(path)
        said = []
        for exhaustive in (False, True):
            detector = SyncDetector(threads=options.threads, exhaustive=exhaustive)
            cpu = time.process_time()
            result = detector.score(path)
            cpu = time.process_time() - cpu
            said.append(result.offset_ms)
            looked = "all" if result.looked_at_s is None else f"{result.looked_at_s:.0f}"
            way = "exhaustive" if exhaustive else "as usual"
            heard = f"{result.speech_s or 0:.0f}"
            table.add_row(f"{seconds:.0f} s", way, heard, looked, f"{cpu:.1f}", result.describe())
        failed |= None in said or abs(said[0] - said[1]) > NEAR_MS
    Console(width=130).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
