"""Broken files: small valid films of every container, mutated, probed, scored and repaired.

    python benchmarks/fuzz.py [--count 1000] [--seed 1] [--keep failures/]
    python benchmarks/fuzz.py --seed 1 --one 417 [--keep failures/]     # one file again

Bytes flipped, files cut off, sections removed, doubled, moved or overwritten, and numbers in the
headers forged: box sizes, dimensions, sample rates, time scales, durations and counts are looked
for by their known values and replaced by extreme ones. File number N of a seed is always the same.

The work is done in a process of its own (pebble) with a time limit for each file (--limit, 120 s)
and a limit of address space (--memory, 4 GiB). Only an AVSyncError may come out. Exit code 1 on any
crash, hang, or other exception; such files are kept under --keep, named by seed and number.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pebble import ProcessExpired, ProcessPool

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from factory import AudioSpec, VideoSpec, write_media  # noqa: E402
from spoil import remux  # noqa: E402

Rng = np.random.Generator
#: What forged numbers become.
EXTREMES = (0, 1, 2, 3, 7, 255, 16_384, 65_535, 768_000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
#: Numbers that the headers of the seeds hold: dimensions, rates, time scales.
KNOWN = (96, 64, 48_000, 44_100, 90_000, 1000, 12_800, 25, 384, 1_000_000, 16_000, 1152, 1024)
BOXES = (
    *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"stsd"),
    *(b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"stss", b"elst", b"edts", b"avc1", b"mp4a"),
    *(b"avcC", b"esds", b"mdat", b"ftyp", b"moof", b"trun", b"tfhd", b"tfdt", b"free", b"udta"),
    *(b"RIFF", b"LIST", b"avih", b"strh", b"strf", b"movi", b"idx1", b"hdrl", b"fmt ", b"data"),
)
#: Matroska elements with numbers: duration, time scale, width, height, rate, channels, delays,
#: cluster time, and the ids of clusters and blocks.
ELEMENTS = (
    *(b"\x44\x89", b"\x2a\xd7\xb1", b"\xb0\x81", b"\xb0\x82", b"\xba\x81", b"\xb5\x88"),
    *(b"\x9f\x81", b"\x56\xaa", b"\x56\xbb", b"\x23\xe3\x83", b"\xe7\x82", b"\xe7\x81"),
    *(b"\x1f\x43\xb6\x75", b"\xa3", b"\x16\x54\xae\x6b", b"\x18\x53\x80\x67", b"\x1c\x53\xbb\x6b"),
)


def make_seeds(folder: Path) -> dict[str, bytes]:
    """Small valid films, by file name."""
    video, sound = VideoSpec(keyframe_every=10), AudioSpec(layout="mono")
    mpeg = VideoSpec(codec="mpeg2video", keyframe_every=10)
    short: dict[str, Any] = {"duration_s": 0.6, "events_s": (0.2, 0.4)}

    def write(name: str, **more: Any) -> None:
        write_media(folder / name, **({"video": video, "audio": sound} | short | more))

    write("plain.mp4")
    write("fast.mp4", options={"movflags": "faststart"}, video=VideoSpec(b_frames=2))
    write("parts.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    write("edit.mov", audio=AudioSpec("pcm_s16le", layout="mono"), video=VideoSpec(delay_s=0.2))
    write("plain.mkv", audio=AudioSpec("libopus", layout="mono"))
    write("vorbis.webm", video=VideoSpec("libvpx"), audio=AudioSpec("libopus"))
    write("hevc.mkv", video=VideoSpec("libx265"), audio=AudioSpec("flac", layout="mono"))
    write("plain.ts", start_s=1.4)
    write("two.ts", audio=[AudioSpec("mp2"), AudioSpec("aac", layout="5.1")])
    write("plain.avi", video=VideoSpec("mpeg4"), audio=AudioSpec("libmp3lame", layout="mono"))
    write("motion.avi", video=VideoSpec("mjpeg"), audio=AudioSpec("pcm_s16le", layout="mono"))
    write("plain.mpg", video=mpeg, audio=AudioSpec("mp2"), format="mpeg")
    write("sound.wav", video=None, audio=AudioSpec("pcm_s16le", layout="mono"))
    write("sound.m4a", video=None)
    write("sound.mp3", video=None, audio=AudioSpec("libmp3lame"), cover=True)
    write("flash.flv", video=video, audio=sound)
    # Two with a face, so that the whole way is gone: a second of the drawn talker.
    talk = ROOT / "examples" / "talk.mp4"
    _first_seconds(talk, folder / "face.mp4", 1.0)
    remux(folder / "face.mp4", folder / "face.mkv")
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def _first_seconds(source: Path, path: Path, end_s: float) -> None:
    import av

    with av.open(str(source)) as film, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in film.streams}
        for packet in film.demux():
            if packet.dts is not None and packet.dts * packet.time_base < end_s:
                packet.stream = streams[packet.stream_index]
                out.mux_one(packet)


# Mutations: bytes and a random generator in, bytes out


def flip(data: bytes, rng: Rng) -> bytes:
    """Some bytes anywhere become others."""
    out = bytearray(data)
    for at in rng.integers(0, len(out), int(rng.choice([1, 4, 16, 64, 256]))):
        out[at] = int(rng.integers(256))
    return bytes(out)


def flip_head(data: bytes, rng: Rng) -> bytes:
    """Some bits of the first or the last 600 bytes, where most headers are."""
    out = bytearray(data)
    base = 0 if rng.random() < 0.7 else max(0, len(out) - 600)
    for at in rng.integers(base, min(len(out), base + 600), int(rng.integers(1, 13))):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut_off(data: bytes, rng: Rng) -> bytes:
    """The end is missing, or the beginning."""
    at = int(rng.integers(0, len(data)))
    return data[:at] if rng.random() < 0.8 else data[at:]


def _section(data: bytes, rng: Rng) -> tuple[int, int]:
    size = int(min(len(data), rng.choice([8, 100, 1000, 8000])))
    start = int(rng.integers(0, max(1, len(data) - size)))
    return start, start + size


def remove(data: bytes, rng: Rng) -> bytes:
    """A section is missing."""
    low, high = _section(data, rng)
    return data[:low] + data[high:]


def double(data: bytes, rng: Rng) -> bytes:
    """A section is there twice, or once more elsewhere."""
    low, high = _section(data, rng)
    at = high if rng.random() < 0.5 else int(rng.integers(0, len(data)))
    return data[:at] + data[low:high] + data[at:]


def overwrite(data: bytes, rng: Rng) -> bytes:
    """A section becomes zeros, ones, or noise."""
    low, high = _section(data, rng)
    filled = [bytes(high - low), b"\xff" * (high - low), rng.bytes(high - low)]
    return data[:low] + filled[int(rng.integers(3))] + data[high:]


def forge_size(data: bytes, rng: Rng) -> bytes:
    """Box and chunk sizes, and the numbers behind their names."""
    out = bytearray(data)
    places = [i for name in BOXES for i in _all(data, name)]
    for i in _some(places, rng, 3):
        at = i - 4 if rng.random() < 0.5 else i + 4 + 4 * int(rng.integers(0, 8))
        if 0 <= at <= len(out) - 4:
            order = ">I" if rng.random() < 0.7 else "<I"
            struct.pack_into(order, out, at, EXTREMES[int(rng.integers(len(EXTREMES)))])
    return bytes(out) if places else forge_element(data, rng)


def forge_element(data: bytes, rng: Rng) -> bytes:
    """Values of Matroska elements."""
    out = bytearray(data)
    places = [i + len(name) for name in ELEMENTS for i in _all(data, name)]
    for at in _some(places, rng, 3):
        for k in range(at, min(len(out), at + int(rng.integers(1, 9)))):
            out[k] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x47]))
    return bytes(out) if places else flip_head(data, rng)


def forge_number(data: bytes, rng: Rng) -> bytes:
    """Known dimensions, rates and time scales become extreme."""
    out = bytearray(data)
    places = []
    for value in KNOWN:
        for form in (">H", "<H", ">I", "<I"):
            if value < 1 << (8 * struct.calcsize(form)):
                places += [(i, form) for i in _all(data, struct.pack(form, value))[:40]]
    for pick in _some(list(range(len(places))), rng, 4):
        at, form = places[pick]
        extreme = EXTREMES[int(rng.integers(len(EXTREMES)))]
        struct.pack_into(form, out, at, extreme & (0xFFFF if form[1] == "H" else 0xFFFF_FFFF))
    return bytes(out)


def _all(data: bytes, name: bytes) -> list[int]:
    places, at = [], data.find(name)
    while at >= 0 and len(places) < 400:
        places.append(at)
        at = data.find(name, at + 1)
    return places


def _some(places: list[int], rng: Rng, most: int) -> list[int]:
    if not places:
        return []
    return [int(p) for p in rng.choice(places, int(rng.integers(1, most + 1)))]


MUTATIONS: tuple[Callable[[bytes, Rng], bytes], ...] = (
    *(flip, flip_head, cut_off, remove, double, overwrite),
    *(forge_size, forge_element, forge_number),
)


def mutant(seeds: dict[str, bytes], seed: int, number: int) -> tuple[str, str, bytes]:
    """(name of the film, mutations, bytes) of file ``number``."""
    rng = np.random.default_rng([seed, number])
    name = list(seeds)[number % len(seeds)]
    data, done = seeds[name], []
    for _ in range(1 if rng.random() < 0.7 else 2):
        change = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        data = change(data, rng) or b"\0"
        done.append(change.__name__)
    return name, "+".join(done), data


# In the worker


def begin(memory: int) -> None:
    """First thing in a worker: the limit of its memory, where the system has one."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _detector()


@lru_cache(maxsize=1)
def _detector() -> Any:
    from avsync import SyncDetector

    return SyncDetector(provider="cpu", threads=1)


def attempt(path: Path) -> dict[str, Any]:
    """Probe, score and repair one file; what came of each, and how long it took."""
    from avsync import fix
    from avsync.errors import AVSyncError
    from avsync.media import probe

    out = path.with_name("fixed" + path.suffix)
    steps: dict[str, Callable[[], str]] = {
        "probe": lambda: str(bool(probe(path).container)),
        "score": lambda: _detector().score(path).status.value,
        "fix": lambda: fix(path, out, offset_ms=80.0, force=True).status,
    }
    found: dict[str, Any] = {"bad": []}
    begin_s = time.process_time()
    for step, call in steps.items():
        try:
            found[step] = call()
        except AVSyncError as err:
            found[step] = type(err).__name__
        except BaseException as err:  # noqa: BLE001 - this is what we are after
            found[step] = type(err).__name__
            found["bad"].append(f"{step}: {type(err).__name__}: {err}")
    left = [p for p in path.parent.iterdir() if p not in (path, out)]
    found["bad"] += [f"left behind: {p.name}" for p in left]
    for p in (*left, out):
        p.unlink(missing_ok=True)
    found["seconds"] = time.process_time() - begin_s
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


# The whole


def run(
    seeds: dict[str, bytes],
    numbers: Iterator[int],
    seed: int,
    *,
    limit_s: float,
    memory: int,
) -> Iterator[tuple[int, str, str, bytes, dict[str, Any]]]:
    """Yield (number, film, mutations, bytes, what came of it) of every file."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPool(
            1,
            initializer=begin,
            initargs=(memory,),
            context=multiprocessing.get_context("spawn"),
        ) as pool,
    ):
        for number in numbers:
            name, done, data = mutant(seeds, seed, number)
            folder = Path(scratch) / str(number)
            folder.mkdir()
            path = folder / name
            path.write_bytes(data)
            try:
                found = pool.schedule(attempt, args=(path,), timeout=limit_s).result()
            except FutureTimeoutError:
                found = {"bad": [f"hang: not done in {limit_s:g} s"], "seconds": limit_s}
            except ProcessExpired as err:
                found = {"bad": [f"crash: exit code {err.exitcode}"], "seconds": 0.0}
            path.unlink()
            yield number, name, done, data, found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="begin at this number")
    parser.add_argument("--one", type=int, default=None, help="only this number")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a file")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB of address space a process")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder))
    numbers = range(options.first, options.count) if options.one is None else [options.one]
    print(f"seed {options.seed}, {len(numbers)} files of {len(seeds)} films", flush=True)
    outcomes: dict[str, Counter[str]] = {k: Counter() for k in ("probe", "score", "fix")}
    bad, slowest, peak = 0, 0.0, 0.0
    memory = int(options.memory * 2**30)
    limits = {"limit_s": options.limit, "memory": memory}
    for number, name, done, data, found in run(seeds, iter(numbers), options.seed, **limits):
        for step, count in outcomes.items():
            count[found.get(step, "-")] += 1
        slowest, peak = max(slowest, found["seconds"]), max(peak, found.get("peak_mib", 0.0))
        if found["bad"]:
            bad += 1
            options.keep.mkdir(parents=True, exist_ok=True)
            kept = options.keep / f"{options.seed}-{number}-{name}"
            kept.write_bytes(data)
            print(f"{number} {name} {done}: {'; '.join(found['bad'])}  -> {kept}", flush=True)
        elif options.one is not None or found["seconds"] > 10:
            print(f"{number} {name} {done}: {found}", flush=True)
        if number % 100 == 99:
            print(f"… {number + 1}, {bad} bad", flush=True)
    for step, count in outcomes.items():
        print(f"{step}: " + ", ".join(f"{k} {v}" for k, v in count.most_common()))
    print(
        f"seed {options.seed}: {len(numbers)} files, {bad} crashes, hangs or other exceptions; "
        f"slowest {slowest:.1f} s of CPU, largest worker {peak:.0f} MiB"
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
