"""A gate at the end of a generation pipeline: only clips in sync go on.

    pip install "avsync[cpu]"
    python examples/gate_generation.py CLIP && upload CLIP

Exit code: 0 in sync, 1 not, or not to be told. A clip that cannot be judged does not pass: a
generator that does not move the lips must not slip through.
"""

from __future__ import annotations

import sys

from avsync import Status, SyncDetector

#: ITU-R BT.1359: what viewers do not notice. Two numbers, (45, 125), would do as well.
TOLERANCE = "itu"
MIN_PROBABILITY = 0.9


def passes(detector: SyncDetector, clip: str) -> bool:
    """Whether a clip is good enough to go on; says why not."""
    result = detector.score(clip)
    sure = result.probability is not None and result.probability >= MIN_PROBABILITY
    good = result.status is Status.in_sync and sure
    print(f"{'pass' if good else 'stop'}: {result}")
    return good


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    gate = SyncDetector(tolerance=TOLERANCE)
    verdicts = [passes(gate, clip) for clip in sys.argv[1:]]
    raise SystemExit(0 if all(verdicts) else 1)
