"""Look at a repaired file before it gets its name: the same bytes, times moved as asked."""

from __future__ import annotations

from pathlib import Path

from avsync.digests import Digest, read_digests
from avsync.errors import AVSyncError, MediaReadError
from avsync.remux import Copied
from avsync.result import Status, SyncResult

__all__ = ["MAX_RESIDUAL_MS", "FixFailedError", "check_copy", "check_residual"]

#: What may be left after the repair.
MAX_RESIDUAL_MS = 40.0
#: Time stamps must have moved as asked within this (s): Matroska rounds to 1 ms.
_STAMP_S = 0.0025
#: An encoder's delay at most (s), by which packets precede the sound.
_PRIMING_S = 0.15


class FixFailedError(AVSyncError, RuntimeError):
    """The file was written but did not pass the check afterwards; it was taken away again."""


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
            if copied.muxer != "mpegts":
                raise FixFailedError(
                    f"{target}: stream {index} changed in writing; it was not kept"
                )
            # The writer adds delimiters that a careless one left out.
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
    if len(order) != len(copied.order) or len(covers) < len(copied.covers):
        raise FixFailedError(f"{target}: a stream was lost in writing; it was not kept")
    return {
        **dict(zip(copied.order, order, strict=True)),
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
