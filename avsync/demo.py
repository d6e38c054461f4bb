"""The whole way on the bundled sample, without a download: shift, score, fix, score again, report.

The sample is a drawn talker (``examples/make_talk.py``): it shows that an installation works, and
is no evidence of accuracy on people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avsync._paths import sample_video
from avsync.errors import InvalidOptionError
from avsync.repair import FixResult, fix
from avsync.report import write_report
from avsync.result import SyncResult

if TYPE_CHECKING:
    from avsync.detector import SyncDetector

__all__ = ["RIGHT_WITHIN_MS", "SAMPLE_OFFSET_MS", "DemoResult", "run_demo"]

#: The sample's own offset by its making: its audio leads.
SAMPLE_OFFSET_MS = 120.0
#: What the demo calls found.
RIGHT_WITHIN_MS = 40.0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo did. ``offset_ms`` is what it put in, positive = audio leads."""

    offset_ms: float
    shifted: Path
    before: SyncResult
    repair: FixResult
    after: SyncResult
    report: Path

    @property
    def right(self) -> bool:
        """Whether the offset was found, and is gone, within 40 ms."""
        found, left = self.before.offset_ms, self.after.offset_ms
        if found is None or left is None:
            return False
        return abs(found - self.offset_ms) <= RIGHT_WITHIN_MS and abs(left) <= RIGHT_WITHIN_MS


def run_demo(
    folder: str | Path,
    *,
    offset_ms: float = 250.0,
    detector: SyncDetector | None = None,
    progress: Callable[[float], None] | None = None,
) -> DemoResult:
    """Do it in ``folder``, which is made; files of an earlier demo are replaced.

    Args:
        offset_ms: how far the audio is to lead, 80 to 500 ms either way.
        detector: measures; None makes one.
        progress: called with the share done, 0..1.

    Raises:
        InvalidOptionError: another offset, or the folder cannot be made.
        AVSyncError: as :func:`avsync.fix`.
    """
    if not 80 <= abs(offset_ms) <= 500:
        raise InvalidOptionError(f"the demo's offset must be 80 to 500 ms, not {offset_ms:g}")
    room = Path(folder)
    try:
        room.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise InvalidOptionError(f"{room}: cannot be made ({err.strerror})") from err
    shifted, fixed = room / "talk-shifted.mp4", room / "talk-fixed.mp4"
    # fix delays the audio by the offset it is told: a made-up one puts a wanted one in.
    fix(sample_video(), shifted, offset_ms=SAMPLE_OFFSET_MS - offset_ms)
    done = fix(shifted, fixed, detector=detector, progress=progress)
    if done.measured is None or done.after is None:
        raise InvalidOptionError(f"{shifted}: {done.describe()}; choose a larger offset")
    report = write_report([done.measured, done.after], room / "report.html")
    return DemoResult(offset_ms, shifted, done.measured, done, done.after, report)
