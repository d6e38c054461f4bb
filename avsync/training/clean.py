"""Clean a corpus with the model itself: each clip's own offset, by a model that never saw it.

Clips from the wild carry offsets of a frame or two, some are dubbed, some show another person.
A clip whose halves agree on an offset is re-centred by it; a clip without a clear answer takes
its source's offset when that source is consistent, at a lower weight, and is dropped otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from avsync.runtime import SyncModel
from avsync.training.data import COLUMNS_A_TICK, ClipFeatures
from avsync.training.encoder import SyncEncoder
from avsync.training.evaluate import (
    clip_late_columns,
    clip_tokens,
    score_rows,
    shipped_tokens,
)

__all__ = ["Cleaned", "by_checkpoint", "by_model", "clean", "clip_offset"]

FloatArray = npt.NDArray[np.float32]

#: Halves may differ by this many mel columns (10 ms), and the peak must stand out by this much.
HALVES_AGREE = 6.0
MIN_MARGIN = 0.10
#: Offsets beyond this many columns are not a recording's own; the clip is dropped.
MAX_LATE = 36.0
#: Sources with fewer sure clips, or a wider spread (columns), do not speak for the others.
SOURCE_CLIPS = 4
SOURCE_SPREAD = 5.0
UNSURE_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class Cleaned:
    """``late`` in mel columns (10 ms; positive = sound later than lips) and ``weight`` by clip."""

    late: dict[str, float]
    weight: dict[str, float]
    recentred: int
    from_source: int
    dropped: int


def by_checkpoint(model: SyncEncoder, clip: ClipFeatures) -> FloatArray:
    """Score rows of a clip, both cosines added up."""
    return score_rows(*clip_tokens(model, clip))


def by_model(model: SyncModel, clip: ClipFeatures) -> FloatArray:
    """The same by a model folder, which is several times as fast; its cosines are weighted."""
    (track,), audio = shipped_tokens(model, clip)
    sound = audio.tokens[:: audio.phases]
    return 2 * score_rows(track.tokens, sound, clip.first - audio.first // audio.phases)


def clip_offset(rows: FloatArray) -> tuple[float, float, float]:
    """Late columns of the whole clip, difference between its halves, margin of the peak."""
    late, margin = clip_late_columns(rows)
    half = len(rows) // 2
    first, _ = clip_late_columns(rows[:half])
    second, _ = clip_late_columns(rows[half:])
    return late, abs(first - second), margin


def clean(
    scored: Callable[[ClipFeatures], FloatArray],
    clips: Sequence[ClipFeatures],
    rows: dict[str, dict[str, Any]],
    *,
    progress: Callable[[int], None] | None = None,
) -> Cleaned:
    """Offsets and weights for ``clips``.

    Args:
        scored: score rows of a clip, by a model that has not trained on it
            (:func:`by_checkpoint`, :func:`by_model`).
        rows: the index rows by clip id; ``source`` and ``corpus`` group the clips.
    """
    found: dict[str, tuple[float, float, float]] = {}
    for n, clip in enumerate(clips):
        if len(clip.crops) >= 30:
            found[clip.clip] = clip_offset(scored(clip))
        if progress is not None:
            progress(n)
    sure = {
        name: late
        for name, (late, apart, margin) in found.items()
        if apart <= HALVES_AGREE and margin >= MIN_MARGIN and abs(late) <= MAX_LATE
    }
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, late in sure.items():
        groups[_group(rows[name])].append(late)
    late_by_clip = dict(sure)
    weight = dict.fromkeys(sure, 1.0)
    for name in found.keys() - sure.keys():
        group = groups.get(_group(rows[name]), [])
        if len(group) >= SOURCE_CLIPS:
            middle = float(np.median(group))
            if float(np.median(np.abs(np.array(group) - middle))) <= SOURCE_SPREAD:
                late_by_clip[name] = middle
                weight[name] = UNSURE_WEIGHT
    return Cleaned(
        late=late_by_clip,
        weight=weight,
        recentred=sum(abs(v) >= COLUMNS_A_TICK / 2 for v in sure.values()),
        from_source=len(late_by_clip) - len(sure),
        dropped=len(clips) - len(late_by_clip),
    )


def _group(row: dict[str, Any]) -> tuple[str, str]:
    return str(row.get("source")), str(row.get("kind"))
