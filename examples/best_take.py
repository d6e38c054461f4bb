"""Of several takes of one line (other seeds, other generators), name the one most in sync.

    pip install "avsync[cpu]"
    python examples/best_take.py TAKE TAKE ...

What counts is the margin at no shift: how much better the lips go with the sound as it is than with
the same sound shifted by 80 ms or more. A take that is fine but late has a negative one.
"""

from __future__ import annotations

import sys

from avsync.metrics import sync_report


def main(takes: list[str]) -> None:
    """Print the takes, the best first."""
    report = sync_report(takes, name="takes")
    rated = [clip for clip in report.clips if clip.margin_at_zero is not None]
    for clip in sorted(rated, key=lambda clip: -(clip.margin_at_zero or 0.0)):
        print(f"{clip.margin_at_zero:+.3f} {clip.status:<12} {clip.path}")
    for clip in report.clips:
        if clip.margin_at_zero is None:
            print(f"     – {clip.status:<12} {clip.path}: {clip.reason}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1:])
