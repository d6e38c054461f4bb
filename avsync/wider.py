"""A second, wider search where nothing stands out in the usual one.

Sound that is seconds off is common in broken archives, and of strangers' voices more shifts bring
more that look right by chance: so the wide search comes second, and asks for more
(``MIN_CLARITY`` in :mod:`avsync.verdict`).
"""

from __future__ import annotations

from collections.abc import Callable

from avsync.result import Status, SyncResult

__all__ = ["NEAR_MS", "WIDE_MS", "first_near"]

#: The usual search and the wide one, ms either way.
NEAR_MS = 600.0
WIDE_MS = 5000.0


def first_near(near: SyncResult, wide: Callable[[float], SyncResult]) -> SyncResult:
    """The result of the usual search, or that within ``wide(WIDE_MS)`` where that finds more."""
    if near.status not in (Status.ambiguous, Status.too_short):
        return near  # too short: the sound may lie beside the picture
    found = wide(WIDE_MS)
    if found.offset_ms is None:
        return near
    told = f"nothing stood out within ±{near.max_offset_ms:g} ms; searched to ±{WIDE_MS:g} ms"
    return found.model_copy(update={"warnings": (*found.warnings, told)})
