"""What a stream says at one moment."""

from __future__ import annotations

from pydantic import Field

from avsync.fields import Frozen, Milliseconds, Probability, Seconds
from avsync.result import Direction, Status, SyncResult, offset_words, percent_sure

__all__ = ["StreamEstimate"]


class StreamEstimate(Frozen):
    """What is known of a live input at one moment.

    ``offset_ms``, ``direction`` and ``probability`` are there exactly when ``status`` is
    ``in_sync`` or ``out_of_sync``; otherwise ``reason`` says why not, and ``last_offset_ms`` what
    was found last. All times are on the input's own clock.
    """

    time_s: Seconds
    """The estimate rests on what was seen and heard up to here."""
    latency_s: Seconds
    """How far ``time_s`` is behind the newest frame or sample that was pushed."""
    status: Status
    offset_ms: Milliseconds | None = None
    """Positive = audio leads: the delay to give to the audio. The newest, where it changed."""
    direction: Direction | None = None
    probability: Probability | None = None
    """Calibrated probability that the offset is right within 40 ms."""
    since_s: Seconds | None = None
    """From when on this offset holds; not before the horizon."""
    drift_ms_per_min: Milliseconds | None = None
    reason: str | None = None
    last_offset_ms: Milliseconds | None = None
    last_time_s: Seconds | None = None
    """The newest estimate with an offset, and the ``time_s`` of it."""
    dropped: int = 0
    """Frames left out so far because their stamps ran backwards."""
    result: SyncResult = Field(exclude=True, repr=False)
    """The whole verdict on the horizon, with segments, faces and curve; not in the JSON."""

    def describe(self) -> str:
        """The estimate in one sentence, such as "audio leads by 120 ms (97 % sure)"."""
        if self.offset_ms is None or self.probability is None:
            last = ""
            if self.last_offset_ms is not None and self.last_time_s is not None:
                ago = self.time_s - self.last_time_s
                last = f"; {ago:.0f} s ago: {offset_words(self.last_offset_ms)}"
            return f"not judged: {self.reason}{last}"
        sure = f"({percent_sure(self.probability)} % sure)"
        words = offset_words(self.offset_ms)
        if self.status is Status.out_of_sync:
            return f"{words} {sure}, out of sync"
        return f"{words} {sure}" + ("" if self.direction == "aligned" else ", in sync")
