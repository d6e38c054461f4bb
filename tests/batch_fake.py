"""For tests of batches: a detector that answers, or misbehaves, by the file's name; helpers."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from avsync.batch_inputs import file_key
from avsync.batch_work import Task
from avsync.errors import MediaReadError, ModelCorruptError
from avsync.result import SyncResult

#: Where workers find the detector.
FAKE = "batch_fake:Detector"


class Detector:
    """NAME.mp4: ``late*``, ``drift*`` and ``mute*`` are statuses, ``text*`` is no media,
    ``crash*`` kills the process, ``once*`` does so the first time, ``hang*`` never ends,
    ``bug*`` raises, ``probe*`` is looked into, ``setup*`` is a broken model; all others are in
    sync."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def score(
        self, path: str | Path, *, audio_stream: int | None = None, progress: Any = None
    ) -> SyncResult:
        name = Path(path).stem
        time.sleep(float(os.environ.get("BATCH_FAKE_S", "0.05")))
        answer: dict[str, Any] = {"status": "in_sync", "offset_ms": 10, "probability": 0.9}
        if name.startswith("text"):
            raise MediaReadError(f"{path}: not media")
        if name.startswith("bug"):
            raise KeyError("a bug")
        if name.startswith("setup"):
            raise ModelCorruptError("the model is broken")
        if name.startswith("once"):
            mark = Path(path).with_suffix(".mark")
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("hang"):
            time.sleep(600)
        # A copy that was repaired lies in a folder of a random name, and is in sync.
        if name.startswith("late") and "avsync-unfinished" not in str(path):
            answer = {"status": "out_of_sync", "offset_ms": -120, "probability": 0.95}
        if name.startswith("unsure"):
            answer = {"status": "out_of_sync", "offset_ms": -120, "probability": 0.3}
        if name.startswith("mute"):
            answer = {"status": "no_audio"}
        seconds: float | None = 8.0
        if name.startswith("probe"):
            from avsync.media import probe  # its imports count towards short time limits

            seconds = probe(path).duration_s
        return SyncResult(path=str(path), model="fake", duration_s=seconds, windows=4, **answer)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())


def lines(path: str = "r.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def task_of(name: str, target: str | None = None) -> Task:
    found = Path(name).stat()
    return Task(name, file_key(name), found.st_size, found.st_mtime_ns, 9.0, target, "stage")
