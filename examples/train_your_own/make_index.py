"""Write index.jsonl for a folder of clips with a sub-folder a speaker.

    python examples/train_your_own/make_index.py CLIPS [--dev 0.2] [--untrusted]

Whole speakers go to dev, so that no face is in both parts: what is fitted on dev (the probability)
must not have been seen in training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from avsync.training.data import list_clips


def main() -> None:
    """Share out the speakers, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--dev", type=float, default=0.2, help="share of the speakers for dev")
    parser.add_argument(
        "--untrusted", action="store_true", help="the clips are not known to be in exact sync"
    )
    options = parser.parse_args()
    index = options.clips / "index.jsonl"
    index.unlink(missing_ok=True)
    rows = list_clips(options.clips)
    speakers = sorted({Path(row["file"]).parts[0] for row in rows})
    held = max(1, round(options.dev * len(speakers)))
    if len(speakers) <= held:
        raise SystemExit(f"{options.clips}: {len(speakers)} sub-folders; some for each part needed")
    dev = set(speakers[:: len(speakers) // held][:held])
    for row in rows:
        row["speaker"] = Path(row["file"]).parts[0]
        row["split"] = "dev" if row["speaker"] in dev else "train"
        row["trusted_sync"] = not options.untrusted
    index.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    print(f"{index}: {len(rows)} clips, {len(speakers)} speakers, {held} of them for dev")


if __name__ == "__main__":
    main()
