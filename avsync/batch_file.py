"""The results file of a batch: a JSON line per file, valid whenever the process is killed.

Each line goes to the operating system in one write as soon as its file is done, and to the disk
(fsync) every few seconds. A kill can at worst tear the last line; :meth:`ResultsFile.resume` takes
it away again and says which files are done.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from avsync.batch_inputs import file_key
from avsync.batch_work import BatchItem, Task
from avsync.errors import AVSyncError, InvalidOptionError
from avsync.result import printable_path

try:
    import fcntl
except ImportError:  # not POSIX: two batches on one file are not noticed
    fcntl = None  # type: ignore[assignment]

__all__ = ["ResultsFile", "ResultsWriteError", "Tally", "read_results", "write_csv"]

SYNC_EVERY_S = 5.0
SYNC_EVERY_LINES = 100

CSV_COLUMNS = (
    "path",
    "status",
    "offset_ms",
    "direction",
    "probability",
    "drift_ms_per_min",
    "segments",
    "duration_s",
    "speech_s",
    "windows",
    "model",
    "reason",
    "error",
    "fix",
    "fixed_file",
    "residual_ms",
    "elapsed_s",
)


class ResultsWriteError(AVSyncError, OSError):
    """The results file cannot be written."""


@dataclass
class Tally:
    """How many files of each kind, over the whole batch."""

    status: Counter[str] = field(default_factory=Counter)
    fix: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line of the results file."""
        self.status[str(line.get("status"))] += 1
        if line.get("error_type"):
            self.errors[str(line["error_type"])] += 1
        if line.get("fix"):
            self.fix[str(line["fix"].get("status"))] += 1

    def add_item(self, item: BatchItem) -> None:
        """Count a file that was just done."""
        fix = None if item.fix is None else {"status": item.fix.status}
        self.add({"status": item.status, "error_type": item.error_type, "fix": fix})


class ResultsFile:
    """Opened for appending by :meth:`create` or :meth:`resume`; a context manager.

    run: what every line says about how it was made (model, options); lines of another run are
    done again.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._run = dict(run)
        self._descriptor = -1
        self._synced = time.monotonic()
        self._unsynced = 0

    def create(self) -> None:
        """Begin a new file.

        Raises:
            InvalidOptionError: it is there already and not empty.
            ResultsWriteError: it cannot be written.
        """
        with contextlib.suppress(OSError):
            if self.path.stat().st_size:
                raise InvalidOptionError(
                    f"{self.path} is there already; --resume goes on with it, or name another file"
                )
        self._open()

    def resume(
        self, tasks: Iterable[Task], *, retry_failed: bool = False
    ) -> tuple[list[Task], Tally]:
        """Go on with the file (or begin it): what is left to do, and the tally of what is done.

        A torn last line, lines that are no JSON objects, and lines of files that are to be done
        again are taken out; then every file has one line at most.
        """
        wanted = {task.key: task for task in tasks}
        self._open()
        done: set[str] = set()
        tally = Tally()
        drop: set[int] = set()
        for number, raw in enumerate(self._raw_lines()):
            line = _parsed(raw)
            key = None if line is None else file_key(str(line["path"]))
            if line is None or key is None or key in done:
                drop.add(number)
                continue
            task = wanted.get(key)
            if task is None:
                continue  # of files that are not asked for this time
            if self._is_current(line, task, retry_failed):
                done.add(key)
                tally.add(line)
            else:
                drop.add(number)
        if drop:
            self._rewrite_without(drop)
        return [task for key, task in wanted.items() if key not in done], tally

    def append(self, item: BatchItem) -> None:
        """Add a line.

        Raises:
            ResultsWriteError: it could not be written (disk full, for one).
        """
        data = (item.to_line(self._run) + "\n").encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            self._unsynced += 1
            late = time.monotonic() - self._synced > SYNC_EVERY_S
            if late or self._unsynced >= SYNC_EVERY_LINES:
                self._sync()
        except OSError as error:
            raise ResultsWriteError(f"{self.path}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Bring everything to the disk and let go of the file."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._sync()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced, self._unsynced = time.monotonic(), 0

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise ResultsWriteError(f"{self.path}: cannot be written ({error.strerror})") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self.close()
                raise InvalidOptionError(f"{self.path}: another batch is writing to it") from error
            except OSError:  # some network file systems have no locks
                pass

    def _raw_lines(self) -> Iterator[bytes]:
        with self.path.open("rb") as stream:
            yield from stream

    def _rewrite_without(self, drop: set[int]) -> None:
        """Replace the file by itself without some lines: at once, so that a kill loses nothing."""
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
            try:
                with os.fdopen(handle, "wb") as stream:
                    for number, raw in enumerate(self._raw_lines()):
                        if number not in drop:
                            stream.write(raw)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(name).chmod(self.path.stat().st_mode & 0o777)
                self.close()
                Path(name).replace(self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ResultsWriteError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._open()

    def _is_current(self, line: Mapping[str, Any], task: Task, retry_failed: bool) -> bool:
        """Whether a line still holds for the file as it is now and as it is to be done."""
        source = line.get("source") or {}
        found = (source.get("size"), source.get("mtime_ns"), source.get("etag"))
        if found != (task.size, task.mtime_ns, task.etag):
            return False
        if line.get("run") != self._run:
            return False
        fix = line.get("fix") or {}
        if retry_failed and (line["status"] == "error" or fix.get("status") == "failed"):
            return False
        if task.target is None or line["status"] not in ("out_of_sync", "drift"):
            return True
        if fix.get("out") != printable_path(task.target):
            return False
        if fix.get("status") == "fixed":
            return Path(task.target).is_file()
        return tuple(fix.get("flags") or ()) == task.flags  # other options, another chance


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """A line as an object; None when it is torn or is none."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    whole = isinstance(line, dict) and {"path", "status"} <= line.keys()
    return line if whole else None


def read_results(path: str | Path) -> Iterator[BatchItem]:
    """The items of a results file; a torn last line is passed over.

    Raises:
        OSError: the file cannot be opened.
        ValueError: a line is no line of a batch.
    """
    with Path(path).open("rb") as stream:
        for raw in stream:
            line = _parsed(raw)
            if line is not None:
                yield BatchItem.from_line(line)


def write_csv(results: str | Path, out: str | Path) -> None:
    """Write the results file as a table, a row per file; ``out`` appears when it is whole.

    Raises:
        ResultsWriteError: it cannot be written.
    """
    out = Path(out)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(CSV_COLUMNS)
                with Path(results).open("rb") as lines:
                    for raw in lines:
                        line = _parsed(raw)
                        if line is not None:
                            writer.writerow(_row(line))
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(out)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResultsWriteError(f"{out}: cannot be written ({error.strerror})") from error


def _row(line: Mapping[str, Any]) -> list[Any]:
    fix = line.get("fix") or {}
    special = {
        "segments": len(line.get("segments") or ()),
        "fix": fix.get("status"),
        "fixed_file": fix.get("out") if fix.get("status") == "fixed" else None,
        "residual_ms": fix.get("residual_ms"),
        "error": line.get("error") or fix.get("error"),
    }
    return [special[name] if name in special else line.get(name) for name in CSV_COLUMNS]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
