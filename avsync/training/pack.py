"""Feature caches packed small, to carry them to another machine: H.264 crops and 8-bit mels.

A shard is a plain zip; each clip in it is ``ID.mkv`` (crops as grey H.264, losing little) and
``ID.npz`` (mel in 256 steps, LZMA; the rest as it is). :func:`unpack` turns shards into a cache
like the one they came from, so that all training reads the same thing.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from avsync.errors import AVSyncError
from avsync.training.data import ClipFeatures, load_features, save_features

__all__ = ["pack", "pack_clip", "unpack", "unpack_clip"]

#: Natural-log mel: silence, and how much 255 steps span above it.
MEL_LOW, MEL_SPAN = float(np.log(1e-5)), 17.0
MIB = 1 << 20
INDEX = "index.jsonl"
#: Constant rate factor of x264: 18 is held to be visually lossless.
QUALITY = 18
META = ("first", "lead", "eye_px")
_BAD = (av.FFmpegError, OSError, ValueError, KeyError, lzma.LZMAError, zipfile.BadZipFile)


def pack_clip(clip: ClipFeatures, *, quality: int = QUALITY) -> tuple[bytes, bytes]:
    """The two files of one clip: Matroska, and compressed numbers."""
    film = io.BytesIO()
    with av.open(film, "w", format="matroska") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width = clip.crops.shape[1:]
        stream.pix_fmt = "gray"
        stream.options = {"crf": str(quality), "preset": "medium", "threads": "1"}
        for i, crop in enumerate(clip.crops):
            frame = av.VideoFrame.from_ndarray(crop, format="gray")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    steps = (clip.mel.astype(np.float32) - MEL_LOW) * (255 / MEL_SPAN)
    mel = steps.round().clip(0, 255).astype(np.uint8)
    # Neighbouring columns are alike: differences pack better.
    moved = np.diff(mel, axis=0, prepend=np.zeros((1, mel.shape[1]), np.uint8))
    meta = {name: getattr(clip, name) for name in META} | {"shape": mel.shape}
    data = io.BytesIO()
    np.savez(
        data,
        mel=np.frombuffer(lzma.compress(moved.tobytes()), np.uint8),
        valid=np.packbits(clip.valid),
        opening=clip.opening.astype(np.float16),
        meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
    )
    return film.getvalue(), data.getvalue()


def unpack_clip(name: str, film: bytes, data: bytes) -> ClipFeatures:
    """The features of one packed clip.

    Raises:
        AVSyncError: damaged.
    """
    try:
        container: Any = av.open(io.BytesIO(film))
        with container:
            frames = list(container.decode(video=0))
            # grey comes back as the luma of yuv420p, on top of its chroma
            crops = np.stack([f.to_ndarray()[: f.height] for f in frames])
        with np.load(io.BytesIO(data)) as z:
            meta = json.loads(z["meta"].tobytes())
            moved = np.frombuffer(lzma.decompress(z["mel"].tobytes()), np.uint8)
            valid, opening = z["valid"], z["opening"]
    except _BAD as err:
        raise AVSyncError(f"{name}: damaged in its shard ({err}); pack it again") from err
    mel: npt.NDArray[np.uint8] = np.cumsum(moved.reshape(meta["shape"]), axis=0, dtype=np.uint8)
    log_mel = mel.astype(np.float32) * (MEL_SPAN / 255) + MEL_LOW
    log_mel[mel == 0] = MEL_LOW
    return ClipFeatures(
        clip=name,
        first=int(meta["first"]),
        crops=crops,
        valid=np.unpackbits(valid, count=len(crops)).astype(bool),
        opening=opening.astype(np.float32),
        mel=log_mel.astype(np.float16),
        lead=int(meta["lead"]),
        eye_px=float(meta["eye_px"]),
    )


def pack(
    files: Sequence[Path],
    out: str | Path,
    *,
    index: str = "",
    shard_mib: float = 60.0,
    progress: Callable[[float], None] | None = None,
) -> list[Path]:
    """Pack files of a feature cache into ``out/shard-000.zip`` …; nothing old is kept there.

    Args:
        index: text of the corpus's ``index.jsonl``; goes along in every shard.
        shard_mib: no shard is larger (MiB), unless a single clip is.

    Returns:
        The shards.
    """
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("shard-*.zip"):
        old.unlink()
    shards: list[Path] = []
    archive: zipfile.ZipFile | None = None
    filled = 0
    try:
        for n, file in enumerate(files):
            parts = pack_clip(load_features(file))
            size = sum(map(len, parts)) + 512  # and the zip's own entries
            if archive is None or filled + size > shard_mib * MIB:
                if archive is not None:
                    archive.close()
                shards.append(target / f"shard-{len(shards):03d}.zip")
                archive = zipfile.ZipFile(shards[-1], "w")
                if index:
                    archive.writestr(INDEX, index, zipfile.ZIP_DEFLATED, 9)
                filled = archive.fp.tell() + 512 if archive.fp else 0
            for suffix, content in zip((".mkv", ".npz"), parts, strict=True):
                archive.writestr(f"{file.stem}{suffix}", content)
            filled += size
            if progress is not None:
                progress((n + 1) / len(files))
    finally:
        if archive is not None:
            archive.close()
    return shards


def unpack(
    shards: Sequence[Path],
    cache: str | Path,
    *,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Write the clips of shards into a feature cache; those there already are skipped.

    The corpus's index, where it went along, is written there too: the cache then serves as the
    corpus for training.

    Returns:
        How many clips the shards hold.

    Raises:
        AVSyncError: a shard is damaged.
    """
    target = Path(cache)
    target.mkdir(parents=True, exist_ok=True)
    count = 0
    for n, shard in enumerate(shards):
        try:
            with zipfile.ZipFile(shard) as archive:
                if INDEX in archive.namelist():
                    (target / INDEX).write_bytes(archive.read(INDEX))
                names = [Path(m).stem for m in archive.namelist() if m.endswith(".npz")]
                for i, name in enumerate(names):
                    count += 1
                    if not (target / f"{name}.npz").exists():
                        film, data = archive.read(f"{name}.mkv"), archive.read(f"{name}.npz")
                        save_features(unpack_clip(name, film, data), target / f"{name}.npz")
                    if progress is not None:
                        progress((n + (i + 1) / len(names)) / len(shards))
        except (OSError, KeyError, zipfile.BadZipFile) as err:
            raise AVSyncError(f"{shard}: not a shard that can be read ({err})") from err
    return count
