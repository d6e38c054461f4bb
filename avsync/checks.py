"""What must hold before a file is repaired, and of the new file before it gets its name."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from pathlib import Path

from avsync.digests import Digest, read_digests
from avsync.errors import AVSyncError, MediaReadError
from avsync.remux import Copied
from avsync.result import Status, SyncResult, offset_words, percent_sure
from avsync.splice import Piece

__all__ = [
    "MAX_RESIDUAL_MS",
    "FixFailedError",
    "FixRefusedError",
    "accepted",
    "check_copy",
    "check_pieces",
    "check_residual",
    "has_jumps",
]

#: What may be left after the repair.
MAX_RESIDUAL_MS = 40.0
#: Parts of a film whose offsets are further apart than this (ms) cannot be repaired by one move.
MAX_SPREAD_MS = 40.0
#: Time stamps must have moved as asked within this (s): Matroska rounds to 1 ms.
_STAMP_S = 0.0025
#: An encoder's delay at most (s), by which packets precede the sound.
_PRIMING_S = 0.15


class FixRefusedError(AVSyncError, ValueError):
    """The measurement does not carry a repair; nothing was written. ``measured`` is the result."""

    def __init__(self, message: str, measured: SyncResult) -> None:
        super().__init__(message)
        self.measured = measured


class FixFailedError(AVSyncError, RuntimeError):
    """The file was written but did not pass the check afterwards; it was taken away again."""


def has_jumps(measured: SyncResult) -> bool:
    """Whether the segments' offsets are too far apart for one move."""
    offsets = [s.offset_ms for s in measured.segments]
    drifts = measured.status is Status.drift
    return bool(offsets) and not drifts and max(offsets) - min(offsets) > MAX_SPREAD_MS


def accepted(
    measured: SyncResult, min_probability: float, *, drift: bool, piecewise: bool, force: bool
) -> float:
    """The offset to repair, ms.

    Raises:
        FixRefusedError: the measurement does not carry a repair.
    """
    name = measured.path
    if measured.offset_ms is None or measured.probability is None:
        raise FixRefusedError(
            f"{name}: not judged ({measured.status}): {measured.reason}; nothing was written "
            "(--offset-ms repairs by a number that you know)",
            measured,
        )
    sure = measured.probability
    if has_jumps(measured):
        offsets = [s.offset_ms for s in measured.segments]
        if not piecewise:
            parts = ", ".join(offset_words(o) for o in dict.fromkeys(round(o) for o in offsets))
            raise FixRefusedError(
                f"{name}: {len(offsets)} parts have offsets of their own ({parts}), which one "
                "move cannot repair; --piecewise moves each by its own; nothing was written",
                measured,
            )
        sure = min(s.probability for s in measured.segments)
    if measured.status is Status.drift and not drift:
        raise FixRefusedError(
            f"{name}: the offset drifts by {measured.drift_ms_per_min:+.1f} ms per minute, which "
            "one move cannot repair; --drift resamples the sound; nothing was written",
            measured,
        )
    if sure < min_probability and not force:
        raise FixRefusedError(
            f"{name}: {offset_words(measured.offset_ms)}, but only "
            f"{percent_sure(sure)} % sure, and {100 * min_probability:.0f} % are "
            "asked for; nothing was written (--force overrides)",
            measured,
        )
    return measured.offset_ms


def check_copy(copied: Copied, temporary: Path, target: Path) -> None:
    """Read the new file packet by packet: the same bytes, and times moved as asked.

    Raises:
        FixFailedError: it is not as it was meant.
    """
    found = _found(copied, temporary, target)
    stored = found
    if copied.muxer in ("mp4", "mov") and not _all_same(copied, found):
        stored = _found(copied, temporary, target, whole=True)  # an edit list hides packets
    for index, sent in copied.sent.items():
        intact = sent.same(found[index]) or sent.same(stored[index])
        if copied.same_family and not intact:
            if copied.muxer not in ("mpegts", "vob"):
                raise FixFailedError(
                    f"{target}: stream {index} changed in writing; it was not kept"
                )
            # MPEG-TS: the writer adds delimiters that a careless one left out; MPEG-PS does not
            # say where packets begin.
            copied.warnings.append(f"the packets of stream {index} were cut anew")
    moves = {m.index: m for m in copied.moved}
    still = [i for i, d in copied.sent.items() if d.kind == "video" and not d.cover]
    base = (copied.sent[still[0]].later_s(found[still[0]]) if still else None) or 0.0
    for index, move in moves.items():
        first = found[index].first_s
        if index in copied.sent:
            by = copied.sent[index].later_s(found[index])
            right = by is not None and abs(by - base - move.shift_s) <= _STAMP_S
        else:
            begin = (move.start_s or 0.0) + base
            right = first is not None and -_PRIMING_S <= first - begin <= 0.03
        if not right:
            raise FixFailedError(
                f"{target}: the sound did not move as asked; it was not kept "
                "(--reencode-audio may help)"
            )


def _found(
    copied: Copied, temporary: Path, target: Path, *, whole: bool = False
) -> dict[int, Digest]:
    """What the new file holds, by the numbers of the source's streams."""
    try:
        digests = read_digests(temporary, whole=whole)
    except MediaReadError as err:
        raise FixFailedError(f"{target}: cannot be read back; it was not kept") from err
    order = [d for d in digests if not d.cover]
    covers = [d for d in digests if d.cover]
    kinds = [copied.sent[i].kind if i in copied.sent else "audio" for i in copied.order]
    if sorted(kinds) != sorted(d.kind for d in order) or len(covers) < len(copied.covers):
        raise FixFailedError(f"{target}: a stream was lost in writing; it was not kept")
    # Only among streams of a kind is the order kept everywhere: MPEG-PS has no list of streams.
    left = {kind: iter([d for d in order if d.kind == kind]) for kind in kinds}
    return {
        **{i: next(left[kind]) for i, kind in zip(copied.order, kinds, strict=True)},
        **dict(zip(copied.covers, covers, strict=False)),
    }


def _all_same(copied: Copied, found: dict[int, Digest]) -> bool:
    return all(sent.same(found[index]) for index, sent in copied.sent.items())


def check_residual(after: SyncResult, target: Path) -> None:
    """Fail unless the new file was judged and is within 40 ms."""
    if after.offset_ms is None:
        raise FixFailedError(
            f"{target}: could not be judged after the repair ({after.status}); it was not kept"
        )
    if after.status is Status.drift or abs(after.offset_ms) > MAX_RESIDUAL_MS:
        raise FixFailedError(
            f"{target}: measured again after the repair, {after.describe()}; it was not kept"
        )


def check_pieces(after: SyncResult, target: Path, pieces: Sequence[Piece]) -> list[float]:
    """What is left of each piece's offset, ms; ``after`` was judged between the joins.

    Raises:
        FixFailedError: a piece could not be judged, or is not within 40 ms.
    """
    starts = [p.start_s for p in pieces[1:]]
    left: dict[int, float] = {}
    for segment in after.segments:
        left[bisect(starts, (segment.start_s + segment.end_s) / 2)] = segment.offset_ms
    for number in range(len(pieces)):
        where = f"{target}: piece {number + 1} of {len(pieces)}"
        if number not in left:
            raise FixFailedError(f"{where} could not be judged after the repair; it was not kept")
        if abs(left[number]) > MAX_RESIDUAL_MS:
            raise FixFailedError(
                f"{where}, measured again after the repair: {offset_words(left[number])}; "
                "it was not kept"
            )
    return [left[number] for number in range(len(pieces))]
