"""The published accuracy protocol of audio-visual synchronisation, for any model.

Every 5-frame window of a clip known to be in sync is compared with the sound 15 frames earlier to
15 frames later; shifts that lie outside score −1000. It is right when its best shift is within
±1 frame. K = 7, 9, … 15 frames: the scores of 3, 5, … 11 neighbouring windows are averaged first
(fewer at the ends). Accuracy is per clip, then the mean over clips. Source: Chung and Zisserman
(2016), Kadandale et al. (VocaLiST, 2022) and their evaluation on the LRS2 test set.

avsync's own tokens see 5 frames only in their first ``local_dim`` numbers; those alone are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.detector import SyncDetector
from avsync.engines import TokenEngine
from avsync.errors import InvalidOptionError, MediaNotFoundError, MediaReadError
from avsync.media import DecodeStats, probe
from avsync.offsets import AudioTokens, TrackTokens
from avsync.published_engine import PublishedEngine

__all__ = [
    "FRAME_COUNTS",
    "HALF",
    "PUBLISHED",
    "ProtocolReport",
    "clip_accuracy",
    "evaluate",
    "find_clips",
    "token_rows",
]

FloatArray = npt.NDArray[np.float32]

#: K, and the shifts to either side (frames).
FRAME_COUNTS = (5, 7, 9, 11, 13, 15)
HALF = 15
OUTSIDE = -1000.0
#: Accuracy in % on the LRS2 test set as published, by K; where less is known, K = 5 only.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "SyncNet": (75.8, 82.3, 87.6, 91.8, 94.5, 96.1),
    "Perfect Match": (88.1, 93.8, 96.4, 97.9, 98.7, 99.1),
    "AVST": (92.0, 95.5, 97.7, 98.8, 99.3, 99.6),
    "VocaLiST": (92.8, 96.7, 98.4, 99.3, 99.6, 99.8),
    "MTDVocaLiST": (91.46, 95.74, 97.99, 98.95, 99.46, 99.68),
    "ModEFormer": (94.5,),
    "IC-SyncNet": (96.5,),
}
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".mpg")


@dataclass(frozen=True, slots=True)
class ProtocolReport:
    """``accuracy`` by K in 0..1, the mean over ``clips``; ``windows`` in all of them together.

    ``left_out``: (file, why) of clips without a score. ``note``: what the scores rest on.
    """

    model: str
    data: str
    clips: int
    windows: int
    accuracy: dict[int, float]
    left_out: tuple[tuple[str, str], ...]
    note: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the published rows (%) stand under "published"."""
        published = {
            name: dict(zip(map(str, FRAME_COUNTS), row, strict=False))
            for name, row in PUBLISHED.items()
        }
        mine = {str(k): value for k, value in self.accuracy.items()}
        return {**asdict(self), "accuracy": mine, "published": published}


def clip_accuracy(rows: FloatArray) -> dict[int, float]:
    """Share of right windows of one clip, by K.

    rows: (N, 31) scores of N ≥ 1 consecutive windows, larger = better in step; column k is the
    sound k − 15 frames later, NaN where there is none.

    Raises:
        ValueError: another shape, or no windows.
    """
    if rows.ndim != 2 or rows.shape[1] != 2 * HALF + 1 or not len(rows):
        raise ValueError(f"scores must be (N, {2 * HALF + 1}) of some windows, not {rows.shape}")
    filled = np.where(np.isfinite(rows), rows, OUTSIDE).astype(np.float64)
    out = {}
    for frames in FRAME_COUNTS:
        side = (frames - 5) // 2
        means = [filled[max(0, i - side) : i + side + 1].mean(0) for i in range(len(filled))]
        out[frames] = float((np.abs(np.argmax(means, axis=1) - HALF) <= 1).mean())
    return out


def token_rows(track: TrackTokens, audio: AudioTokens, width: int) -> FloatArray:
    """Scores (N, 31) of one face's tokens by their first ``width`` numbers, for clip_accuracy.

    A sound is the mean of its tokens from half a tick before to half a tick after: the bundled
    model's see 17 mel columns (10 ms) each and three of them 21: 0.2 s of sound, as others take.
    Tokens whose 5-frame stack reaches beyond the track are left out.
    """
    video = track.tokens[2:-2, :width]
    first, lead = -(-audio.first // audio.phases), -audio.first % audio.phases
    sound = _over_a_tick(audio.tokens[:, :width], audio.phases)[lead :: audio.phases]
    index = np.arange(len(video))[:, None] + np.arange(-HALF, HALF + 1)[None, :]
    index = index + track.first + 2 - first
    inside = (index >= 0) & (index < len(sound))
    scores = np.take_along_axis(video @ sound.T, index.clip(0, len(sound) - 1), 1)
    return np.where(inside, scores, np.nan).astype(np.float32)


def _over_a_tick(tokens: FloatArray, phases: int) -> FloatArray:
    """Each token's mean with those up to half a tick away; the outermost of them count half."""
    half = phases // 2
    weights = np.ones(2 * half + 1, np.float32)
    if half:
        weights[[0, -1]] = 0.5 if phases % 2 == 0 else 1.0
    at = np.arange(len(tokens))
    out = np.zeros_like(tokens)
    for weight, step in zip(weights / weights.sum(), range(-half, half + 1), strict=True):
        out += weight * tokens[(at + step).clip(0, len(tokens) - 1)]
    return out


def find_clips(data: str | Path, listing: str | Path | None = None) -> list[Path]:
    """The clips of a folder.

    Either a corpus with ``index.jsonl`` (then those of its dev split whose sync is trusted), or
    any folder with videos in it or in folders under it, such as LRS2's ``main``. ``listing``: a
    text file whose lines begin with a clip's path without suffix, as LRS2's ``test.txt``.

    Raises:
        MediaNotFoundError: no such folder or file, or no clips.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise MediaNotFoundError(f"{folder}: no such folder")
    index = folder / "index.jsonl"
    if listing is not None:
        found = list(_listed(folder, Path(listing)))
    elif index.is_file():
        rows = [json.loads(line) for line in index.read_text("utf-8").splitlines() if line]
        chosen = [r for r in rows if r.get("split") == "dev" and r.get("trusted_sync")]
        found = [folder / r["file"] for r in chosen]
    else:
        found = [p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise MediaNotFoundError(f"{folder}: no clips there")
    return sorted(found)


def _listed(folder: Path, listing: Path) -> Iterator[Path]:
    if not listing.is_file():
        raise MediaNotFoundError(f"{listing}: no such list of clips")
    for line in listing.read_text("utf-8").splitlines():
        if line.strip():
            name = line.split()[0]
            path = folder / name
            yield path if path.suffix.lower() in VIDEO_SUFFIXES else folder / f"{name}.mp4"


def evaluate(
    detector: SyncDetector,
    clips: Sequence[Path],
    *,
    data: str = "",
    progress: Callable[[float], None] | None = None,
) -> ProtocolReport:
    """Run the protocol over clips known to be in sync; each one's longest face counts.

    Raises:
        InvalidOptionError: not one clip could be scored.
    """
    found: list[dict[int, float]] = []
    left_out: list[tuple[str, str]] = []
    windows = 0
    for i, clip in enumerate(clips):
        try:
            rows = clip_rows(detector, clip)
        except (MediaNotFoundError, MediaReadError) as error:
            left_out.append((str(clip), str(error)))
        else:
            if rows is None:
                left_out.append((str(clip), "no face or no sound for 5 frames"))
            else:
                found.append(clip_accuracy(rows))
                windows += len(rows)
        if progress is not None:
            progress((i + 1) / len(clips))
    if not found:
        why = f" ({left_out[0][0]}: {left_out[0][1]})" if left_out else ""
        raise InvalidOptionError(f"none of {len(clips)} clips could be scored{why}")
    note = "5-frame windows, each scored alone"
    if isinstance(detector.engine, TokenEngine):
        local = detector.engine.model.card.local_dim
        note = f"the first {local} numbers of each token, which see 5 frames only"
    return ProtocolReport(
        model=detector.engine.name,
        data=data,
        clips=len(found),
        windows=windows,
        accuracy={k: float(np.mean([f[k] for f in found])) for k in FRAME_COUNTS},
        left_out=tuple(left_out),
        note=note,
    )


def clip_rows(detector: SyncDetector, path: Path) -> FloatArray | None:
    """Scores (N, 31) of a clip's longest face; None without a face or sound.

    Raises:
        MediaNotFoundError, MediaReadError: no such file, or not media with picture and sound.
    """
    info, stats = probe(path), DecodeStats()
    sound, _ = detector._hear(path, None, stats)
    if sound is None:
        return None
    tracks, _ = detector._see(path, info, stats, None)
    engine = detector.engine
    if isinstance(engine, PublishedEngine):
        tracks = [t for t in tracks if len(t.starts)]
        if not tracks:
            return None
        return engine.rows([max(tracks, key=lambda t: len(t.starts))], sound, reach=HALF)[0]
    if not isinstance(engine, TokenEngine):
        raise InvalidOptionError(f"{engine.name}: no scores of single windows")
    tracks = [t for t in tracks if len(t.tokens) > 4]
    if not tracks:
        return None
    longest = max(tracks, key=lambda t: len(t.tokens))
    return token_rows(longest, sound, engine.model.card.local_dim)
