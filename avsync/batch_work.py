"""What a worker of a batch does with one file, and what comes of it.

A worker (a process of :mod:`avsync.batch_local`, an actor of :mod:`avsync.batch_ray`) holds one
:class:`Worker`, which makes its detector when the first file comes. Faults of a file become a
:class:`BatchItem`; only faults that every other file would meet as well are raised.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from avsync.errors import (
    SETUP_ERRORS,
    AVSyncError,
    InvalidOptionError,
)
from avsync.fields import Milliseconds, PathText, Seconds
from avsync.result import (
    Status,
    SyncResult,
    printable_path,
    unread_line,
)

__all__ = [
    "DETECTOR",
    "BatchItem",
    "DetectorOptions",
    "FixNote",
    "Task",
    "Worker",
    "failed_item",
]

#: Where workers find the detector's class, as ``module:name``.
DETECTOR = "avsync.detector:SyncDetector"

_OWN = ("error", "error_type", "fix", "elapsed_s", "source", "run")


@dataclass(frozen=True)
class DetectorOptions:
    """How each worker makes and asks its detector; see :class:`avsync.SyncDetector`."""

    model: str | None = None
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    tolerance: str | tuple[float, float] = "ebu"
    max_offset_ms: float | None = None
    audio_stream: int | None = None
    detector: str = DETECTOR


@dataclass(frozen=True)
class Task:
    """One file to be done.

    key: the absolute path as printable text, by which files are told apart. size, mtime_ns: of
    the file when the batch was planned; None when it was not there. target: where a repaired copy
    goes; None repairs nothing. staging: a folder on the same file system for unfinished copies.
    limit_s: how long a worker may take. etag: what a URL's store calls this state of the file.
    flags: options of :func:`avsync.fix` that are set, such as ``piecewise``.
    """

    path: str
    key: str
    size: int | None
    mtime_ns: int | None
    limit_s: float
    target: str | None = None
    staging: str | None = None
    etag: str | None = None
    flags: tuple[str, ...] = ()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FixNote(_Frozen):
    """What became of the repair of a file that is out of sync."""

    status: Literal["fixed", "refused", "failed"]
    out: PathText
    """Where the repaired copy is, or would have been."""
    residual_ms: Milliseconds | None = None
    """The offset that is left, measured on the copy."""
    error: PathText | None = None
    """Why there is no copy."""
    flags: tuple[str, ...] = ()
    """With which of ``drift``, ``piecewise`` and ``force`` it was tried."""


class BatchItem(_Frozen):
    """One file of a batch: its result, or why there is none."""

    path: PathText
    result: SyncResult | None = None
    """None when the file could not be read, or crashed or outlasted its worker."""
    error: PathText | None = None
    error_type: str | None = None
    """``MediaReadError`` and the like, ``WorkerCrashed`` or ``TimeLimit``."""
    fix: FixNote | None = None
    """None when no repair was asked for, or the file needs none."""
    elapsed_s: Seconds = Field(default=0.0, ge=0.0)
    size: int | None = None
    mtime_ns: int | None = None
    etag: str | None = None
    worker: str | None = None
    """Who did it: ``pid 123`` or ``node 1a2b3c...``; not in the results file."""

    @property
    def status(self) -> str:
        """The result's status, or ``error``."""
        return "error" if self.result is None else str(self.result.status)

    def to_line(self, run: Mapping[str, Any] | None = None) -> str:
        """The item as one JSON line, without line end: the result's keys, and the batch's own."""
        if self.result is None:
            line = unread_line(self.path)
        else:
            line = self.result.model_dump(mode="json")
        line["error"] = self.error
        line["error_type"] = self.error_type
        line["fix"] = None if self.fix is None else self.fix.model_dump(mode="json")
        line["elapsed_s"] = self.elapsed_s
        line["source"] = {"size": self.size, "mtime_ns": self.mtime_ns, "etag": self.etag}
        line["run"] = None if run is None else dict(run)
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str | bytes | Mapping[str, Any]) -> BatchItem:
        """An item from its JSON line.

        Raises:
            ValueError: not a line of a batch.
        """
        data = dict(line if isinstance(line, Mapping) else json.loads(line))
        own = {key: data.pop(key, None) for key in _OWN}
        source = own["source"] or {}
        read = data.get("status") != "error"
        return cls(
            path=data.get("path", ""),
            result=SyncResult.model_validate(data) if read else None,
            error=own["error"],
            error_type=own["error_type"],
            fix=own["fix"],
            elapsed_s=own["elapsed_s"] or 0.0,
            size=source.get("size"),
            mtime_ns=source.get("mtime_ns"),
            etag=source.get("etag"),
        )


def failed_item(task: Task, kind: str, message: str, elapsed_s: float = 0.0) -> BatchItem:
    """The item of a file without a result; the message gets the file's name if it lacks it."""
    text = printable_path(message)
    name = printable_path(task.path)
    return BatchItem(
        path=task.path,
        error=text if name in text else f"{name}: {text}",
        error_type=kind,
        elapsed_s=elapsed_s,
        size=task.size,
        mtime_ns=task.mtime_ns,
    )


class Worker:
    """Does one file after the other with a detector of its own."""

    def __init__(self, options: DetectorOptions) -> None:
        self._options = options
        self._detector: Any = None

    def ready(self) -> str:
        """A sign of life, and who it is."""
        return f"pid {os.getpid()}"

    def run(self, task: Task) -> BatchItem:
        """Measure a file and, where a target is given and it is out of sync, repair it.

        Raises:
            AVSyncError: the set-up is wrong (model, ONNX Runtime, options), for all files alike.
        """
        started = time.monotonic()
        detector = self._ready_detector(to_fix=task.target is not None)
        try:
            result: SyncResult = detector.score(task.path, audio_stream=self._options.audio_stream)
            note = self._fix(task, result) if task.target is not None else None
        except SETUP_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this file only
            known = isinstance(error, AVSyncError)
            message = str(error) if known else f"unexpected {type(error).__name__}: {error}"
            took = time.monotonic() - started
            item = failed_item(task, type(error).__name__, message, took)
            return item.model_copy(update={"worker": self.ready()})
        return BatchItem(
            path=task.path,
            result=result,
            fix=note,
            elapsed_s=time.monotonic() - started,
            size=task.size,
            mtime_ns=task.mtime_ns,
            etag=task.etag,
            worker=self.ready(),
        )

    def _ready_detector(self, *, to_fix: bool) -> Any:
        if self._detector is None:
            options = self._options
            module, _, name = options.detector.partition(":")
            make = getattr(importlib.import_module(module), name)
            self._detector = make(
                model=options.model,
                provider=options.provider,
                threads=options.threads,
                tolerance=options.tolerance,
                max_offset_ms=options.max_offset_ms,
                # What is written anew is looked at from end to end.
                **({"exhaustive": True} if to_fix else {}),
            )
        return self._detector

    def _fix(self, task: Task, result: SyncResult) -> FixNote | None:
        """Repair into the staging folder, then move into place; the file is not measured again."""
        if result.status not in (Status.out_of_sync, Status.drift):
            return None
        if task.target is None or task.staging is None:
            return None
        from avsync import repair

        target = Path(task.target)
        room: Path | None = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(task.staging).mkdir(parents=True, exist_ok=True)
            room = Path(tempfile.mkdtemp(dir=task.staging))
            done = repair.fix(
                task.path,
                room / target.name,
                audio_stream=self._options.audio_stream,
                detector=_Remembering(self._detector, result),  # type: ignore[arg-type]
                drift="drift" in task.flags,
                piecewise="piecewise" in task.flags,
                force="force" in task.flags,
            )
            (room / target.name).replace(target)
        except SETUP_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - the measurement stands in any case
            refused = isinstance(error, (repair.FixRefusedError, InvalidOptionError))
            message = str(error)
            if room is not None:
                message = message.replace(str(room / target.name), str(target))
            return FixNote(
                status="refused" if refused else "failed",
                out=task.target,
                error=message,
                flags=task.flags,
            )
        finally:
            if room is not None:
                with contextlib.suppress(OSError):
                    shutil.rmtree(room)
        return FixNote(
            status="fixed", out=task.target, residual_ms=done.residual_ms, flags=task.flags
        )


class _Remembering:
    """A detector that gives the first answer from memory: ``fix`` asks what was just measured."""

    def __init__(self, detector: Any, known: SyncResult) -> None:
        self._detector = detector
        self._known: SyncResult | None = known

    def score(self, path: str | Path, **options: Any) -> SyncResult:
        """As :meth:`avsync.SyncDetector.score`."""
        known, self._known = self._known, None
        if known is not None:
            return known
        result: SyncResult = self._detector.score(path, **options)
        return result
