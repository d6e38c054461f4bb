"""Measure a folder, and write repaired copies of what is out of sync.

    pip install "avsync[cpu]"
    python examples/fix_folder.py FOLDER FIXED

The originals are only read. `avsync batch FOLDER -o results.jsonl --fix-dir FIXED --resume` does
the same and goes on where it was stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from avsync import score_many


def main(folder: str, fixed: str) -> int:
    """A line a file; returns how many are still out of sync."""
    left = 0
    for item in score_many([folder], fix_dir=fixed):
        name = Path(item.path).name
        if item.result is None:
            print(f"{name}: {item.error}")
            continue
        print(f"{name}: {item.result.describe()}")
        if item.fix is not None and item.fix.status == "fixed":
            print(f"  repaired: {item.fix.out}, {item.fix.residual_ms:+.0f} ms are left")
        elif item.fix is not None:
            left += 1
            print(f"  not repaired: {item.fix.error}")
    return left


if __name__ == "__main__":  # the workers import this file
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    raise SystemExit(min(1, main(*sys.argv[1:])))
