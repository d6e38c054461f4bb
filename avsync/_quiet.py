"""Silence for native libraries that log to the process's standard error.

mediapipe and TensorFlow Lite print lines such as ``INFO: Created TensorFlow Lite XNNPACK
delegate for CPU.`` and ``W0000 00:00:... inference_feedback_manager.cc:114] ...`` straight to
file descriptor 2 while a graph is made and first run. ``GLOG_minloglevel`` and
``TF_CPP_MIN_LOG_LEVEL`` do not stop them (mediapipe 0.10.21), so the descriptor itself is turned
aside for that moment.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

__all__ = ["quiet_native_stderr"]

# Set to 1 to see everything the native libraries print.
_SHOW_VARIABLE = "AVSYNC_NATIVE_LOGS"

# Levels I and W of glog and absl, and TensorFlow Lite's own logger; errors (E, F) pass.
_NOISE = re.compile(
    rb"^(?:[IW]\d{4} \d\d:\d\d:\d\d|[IW]0000 |INFO: |WARNING: All log messages before absl)"
)

_lock = threading.Lock()
_users = 0
_failed = False
_saved_fd = -1
_sink: IO[bytes] | None = None


@contextlib.contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Hold back what is written to file descriptor 2 and drop the native libraries' chatter.

    Put it around the creation and the first run of a mediapipe graph, nothing longer. On leaving,
    lines that are not known chatter are written out after all; when the body raises, everything
    is. Nests, and may be entered by several threads at once: the descriptor is turned aside by
    the first and given back by the last. Does nothing where there is no standard error, or where
    the environment says ``AVSYNC_NATIVE_LOGS=1``.
    """
    if os.environ.get(_SHOW_VARIABLE) == "1":
        yield
        return
    _enter()
    failed = True
    try:
        yield
        failed = False
    finally:
        _leave(failed)


def _enter() -> None:
    global _users, _saved_fd, _sink, _failed
    with _lock:
        _users += 1
        if _users > 1:
            return
        _failed = False
        _flush_python_stderr()
        try:
            saved = os.dup(2)
        except OSError:
            return
        try:
            # Unbuffered: only the descriptor is used to write, and only we read.
            sink = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            os.dup2(sink.fileno(), 2)
        except OSError:
            os.close(saved)
            return
        _saved_fd, _sink = saved, sink


def _leave(failed: bool) -> None:
    global _users, _saved_fd, _sink, _failed
    with _lock:
        _users -= 1
        _failed = _failed or failed
        if _users > 0 or _sink is None:
            return
        _flush_python_stderr()
        os.dup2(_saved_fd, 2)
        os.close(_saved_fd)
        _saved_fd = -1
        with _sink as sink:
            _sink = None
            sink.seek(0)
            held = sink.read()
        kept = [line for line in held.splitlines(keepends=True) if _failed or not _is_noise(line)]
        if kept:
            with contextlib.suppress(OSError):
                os.write(2, b"".join(kept))


def _is_noise(line: bytes) -> bool:
    return _NOISE.match(line) is not None


def _flush_python_stderr() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()
