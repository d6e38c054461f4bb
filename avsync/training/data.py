"""From a folder of clips to a compact cache of mouth crops and mels.

One code path with inference: ``media``, ``faces``, ``crops`` and ``mel`` of the product make the
features; this module only stores them, one ``.npz`` a clip, and skips clips already done.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.crops import CropChunk
from avsync.errors import AVSyncError, MediaNotFoundError
from avsync.faces import mouth_chunks
from avsync.media import GridFrame, iter_audio, iter_grid_frames
from avsync.mel import MEL_HZ, MelStream

__all__ = [
    "ClipFeatures",
    "build_cache",
    "extract",
    "in_processes",
    "list_clips",
    "load_features",
    "save_features",
]

VIDEO_SUFFIXES = {".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".mpg"}
#: Mel columns a 25-Hz tick.
COLUMNS_A_TICK = MEL_HZ // 25


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """The longest face track of one clip and its sound.

    ``crops`` (T, 80, 112) uint8, tick ``first`` onward; ``valid`` (T,) bool;
    ``opening`` (T,) float32; ``mel`` (M, 80) float16, column 0 at time ``first / 25`` s minus
    ``lead`` columns (mel column ``lead + 4 t`` is centred on tick ``first + t``).
    """

    clip: str
    first: int
    crops: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    opening: npt.NDArray[np.float32]
    mel: npt.NDArray[np.float16]
    lead: int
    eye_px: float


def list_clips(folder: str | Path) -> list[dict[str, Any]]:
    """Clips of a folder: its ``index.jsonl`` when there is one, else every video file below it."""
    root = Path(folder)
    if not root.is_dir():
        raise MediaNotFoundError(f"{root}: no such folder; give a folder of talking-face clips")
    index = root / "index.jsonl"
    if index.exists():
        return [json.loads(line) for line in index.read_text().splitlines() if line.strip()]
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
    return [
        {
            "id": "_".join(p.relative_to(root).with_suffix("").parts),
            "file": str(p.relative_to(root)),
        }
        for p in files
    ]


def extract(
    path: str | Path,
    clip: str,
    *,
    cropped: Callable[[Iterator[GridFrame]], Iterator[CropChunk]] = mouth_chunks,
) -> ClipFeatures | None:
    """Features of one clip, or None when no face was found; ``cropped`` makes crops of its frames.

    Raises:
        AVSyncError: the file cannot be read.
    """
    tracks: dict[int, list[CropChunk]] = {}
    for chunk in cropped(iter_grid_frames(path, max_side=1280)):
        tracks.setdefault(chunk.track, []).append(chunk)
    if not tracks:
        return None
    chunks = max(tracks.values(), key=lambda cs: sum(len(c) for c in cs))
    first = chunks[0].first
    age = float(np.mean(np.concatenate([c.ages for c in chunks])))
    stream: MelStream | None = None
    mels = []
    for piece in iter_audio(path):
        if stream is None:
            stream = MelStream(piece.start_s + age)  # the pictures are taken for their ticks
        mels.append(stream.push(piece.samples))
    if stream is None:
        return None
    mels.append(stream.close())
    return ClipFeatures(
        clip=clip,
        first=first,
        crops=np.concatenate([c.crops for c in chunks]),
        valid=np.concatenate([c.valid for c in chunks]),
        opening=np.concatenate([c.opening for c in chunks]),
        mel=np.concatenate(mels).astype(np.float16),
        lead=first * COLUMNS_A_TICK - stream.first,
        eye_px=float(np.median(np.concatenate([c.eye_px for c in chunks]))),
    )


def _store(path: str, clip: str, out: str) -> str:
    try:
        found = extract(path, clip)
    except AVSyncError as err:
        Path(out).with_suffix(".skip").write_text(f"{err}\n")
        return "unreadable"
    if found is None:
        Path(out).with_suffix(".skip").write_text("no face found\n")
        return "no face"
    save_features(found, out)
    return "done"


def save_features(
    features: ClipFeatures, file: str | Path, **more: npt.NDArray[np.float16]
) -> None:
    """Write one clip's ``.npz``, and what belongs to it, beside and then in place."""
    temporary = f"{file}.part.npz"
    known = {name: getattr(features, name) for name in ClipFeatures.__slots__}
    np.savez(temporary, **known, **more)
    Path(temporary).replace(file)


def load_features(file: str | Path) -> ClipFeatures:
    """Read one cached clip."""
    with np.load(file) as z:
        return ClipFeatures(
            clip=str(z["clip"]),
            first=int(z["first"]),
            crops=z["crops"],
            valid=z["valid"],
            opening=z["opening"],
            mel=z["mel"],
            lead=int(z["lead"]),
            eye_px=float(z["eye_px"]),
        )


def build_cache(
    folder: str | Path,
    cache: str | Path,
    *,
    clips: Iterable[dict[str, Any]] | None = None,
    jobs: int,
) -> dict[str, int]:
    """Cache all clips of a folder; clips already there are skipped. Returns counts by outcome."""
    root, target = Path(folder), Path(cache)
    target.mkdir(parents=True, exist_ok=True)
    todo = []
    counts = {"done": 0, "cached": 0, "no face": 0, "unreadable": 0}
    for clip in clips if clips is not None else list_clips(root):
        out = target / f"{clip['id']}.npz"
        if out.exists() or out.with_suffix(".skip").exists():
            counts["cached"] += 1
        else:
            todo.append((str(root / clip["file"]), clip["id"], str(out)))
    for outcome in in_processes(_store, todo, jobs=jobs):
        counts[outcome] += 1
    return counts


def in_processes(
    work: Callable[..., Any], todo: Sequence[tuple[Any, ...]], *, jobs: int
) -> Iterator[Any]:
    """What ``work`` returns of each of ``todo``, as it is done, with a progress bar."""
    from tqdm import tqdm

    spawn = multiprocessing.get_context("spawn")  # fork does not go with native threads
    with ProcessPoolExecutor(max_workers=jobs, mp_context=spawn) as pool:
        futures = [pool.submit(work, *job) for job in todo]
        for future in tqdm(as_completed(futures), total=len(futures), unit="clip"):
            yield future.result()
