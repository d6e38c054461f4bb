"""Score one file, and read the answer.

pip install "avsync[cpu]"
python examples/score_one.py [VIDEO]
"""

from __future__ import annotations

import sys
from pathlib import Path

from avsync import SyncDetector

TALK = Path(__file__).resolve().parent / "talk.mp4"


def main(path: str) -> None:
    """Print what was found, and what to do about it."""
    result = SyncDetector().score(path)
    print(result)  # talk.mp4: audio leads by 120 ms (99 % sure), out of sync
    if result.offset_ms is None:
        print(f"no number, because: {result.reason}")
    elif result.status != "in_sync":
        print(f"delay the audio by {result.offset_ms:.0f} ms (mkvmerge --sync, mpv --audio-delay)")
    for segment in result.segments:
        print(f"  {segment.start_s:.1f} to {segment.end_s:.1f} s: {segment.offset_ms:+.0f} ms")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else str(TALK))
