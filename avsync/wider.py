"""A second, wider search: where nothing stands out in the usual one, and to check what is thin.

Sound that is seconds off is common in broken archives, and of strangers' voices more shifts bring
more that look right by chance: so the wide search comes second, and asks for more
(``MIN_CLARITY`` in :mod:`avsync.verdict`). It also knows better what chance can do: of 4,320
pairs of a face and another's voice 17 were given an offset by the usual search, two of them stand
among the shifts of the wide one too; of 106 own voices 105 do. So what rests on three or four
windows, as 13 of the 17 did, must stand there too. From five on too many right ones would be lost.
"""

from __future__ import annotations

from collections.abc import Callable

from avsync.result import Status, SyncResult
from avsync.verdict import SAME_MS

__all__ = ["NEAR_MS", "SURE_WINDOWS", "WIDE_MS", "first_near"]

#: The usual search and the wide one, ms either way.
NEAR_MS = 600.0
WIDE_MS = 5000.0
#: An offset on which fewer windows agree must stand out in the wide search too, within SAME_MS and
#: as probable as this.
SURE_WINDOWS = 5
PROBABLE = 0.8


def first_near(near: SyncResult, wide: Callable[[float], SyncResult]) -> SyncResult:
    """The result of the usual search, or that within ``wide(WIDE_MS)`` where that knows better."""
    thin = near.offset_ms is not None and near.windows < SURE_WINDOWS
    # Too short: the sound may lie beside the picture.
    if not thin and near.status not in (Status.ambiguous, Status.too_short):
        return near
    found = wide(WIDE_MS)
    if near.offset_ms is not None and _stands(near.offset_ms, found):
        return near
    if found.offset_ms is None:
        return found if thin else near
    words = f"nothing stood out within ±{near.max_offset_ms:g} ms; searched to ±{WIDE_MS:g} ms"
    return found.model_copy(update={"warnings": (*found.warnings, words)})


def _stands(offset_ms: float, found: SyncResult) -> bool:
    """Whether an offset is that of the wide search, or where its curve is highest, and probable."""
    told = [s.offset_ms for s in found.segments]
    if found.offset_ms is not None:
        told.append(found.offset_ms)
    elif found.curve is not None and (found.probability or 0) >= PROBABLE:
        told.append(max(zip(found.curve.score, found.curve.shift_ms, strict=True))[1])
    return any(abs(ms - offset_ms) <= SAME_MS for ms in told)
