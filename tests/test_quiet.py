"""Holding back what native libraries print. Each case runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NATIVE = """
import os
from avsync._quiet import quiet_native_stderr
def native(text):
    os.write(2, text.encode() + b"\\n")
NOISE = [
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "W0000 00:00:1795233072.791724    4754 inference_feedback_manager.cc:114] Feedback manager",
    "I1121 03:50:00.000000 1 gl_context.cc:357] GL version",
]
"""


def stderr_of(code: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", NATIVE + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    return done.stderr.splitlines()


def test_chatter_is_dropped_and_all_else_is_kept() -> None:
    lines = stderr_of(
        """
import sys
native("before")
with quiet_native_stderr():
    for line in NOISE: native(line)
    native("E0000 00:00:1.5 1 file.cc:1] a real error")
    print("from Python", file=sys.stderr)
native("after")
"""
    )
    assert lines == [
        "before",
        "E0000 00:00:1.5 1 file.cc:1] a real error",
        "from Python",
        "after",
    ]


def test_everything_is_shown_when_the_body_fails() -> None:
    lines = stderr_of(
        """
with quiet_native_stderr():
    native(NOISE[0])
    raise OSError("broken graph")
"""
    )
    assert lines[0] == "INFO: Created TensorFlow Lite XNNPACK delegate for CPU."
    assert lines[-1] == "OSError: broken graph"


def test_everything_is_shown_on_request() -> None:
    lines = stderr_of("with quiet_native_stderr(): native(NOISE[0])", AVSYNC_NATIVE_LOGS="1")
    assert lines == ["INFO: Created TensorFlow Lite XNNPACK delegate for CPU."]


def test_nests_and_serves_threads() -> None:
    lines = stderr_of(
        """
import threading
first_is_in, second_is_out = threading.Event(), threading.Event()
def first():
    with quiet_native_stderr():
        first_is_in.set()
        second_is_out.wait(10)
        native(NOISE[2])
def second():
    first_is_in.wait(10)
    with quiet_native_stderr(), quiet_native_stderr():
        native(NOISE[0])
    native(NOISE[1])  # the first thread still holds the descriptor
    second_is_out.set()
threads = [threading.Thread(target=job) for job in (first, second)]
for thread in threads: thread.start()
for thread in threads: thread.join()
native("after")
with quiet_native_stderr(): native(NOISE[0])
native("end")
"""
    )
    assert lines == ["after", "end"]


def test_does_without_a_standard_error() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; os.close(2)\n"
            "from avsync._quiet import quiet_native_stderr\n"
            "with quiet_native_stderr(): print('inside')\n"
            "print('outside')",
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["inside", "outside"]


def test_leaves_no_descriptor_open() -> None:
    lines = stderr_of(
        """
before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
for _ in range(20):
    with quiet_native_stderr(): native(NOISE[0])
after = len(os.listdir("/proc/self/fd")) if before else 0
native(f"{after - before}")
"""
    )
    assert lines == ["0"]


def test_silences_mediapipe() -> None:
    pytest.importorskip("mediapipe")
    code = """
import numpy as np
with quiet_native_stderr():
    import mediapipe as mp
    mesh = mp.solutions.face_mesh.FaceMesh()
    mesh.process(np.zeros((64, 64, 3), np.uint8))
mesh.process(np.zeros((64, 64, 3), np.uint8))
mesh.close()
"""
    assert stderr_of(code) == []
    shown = stderr_of(code, AVSYNC_NATIVE_LOGS="1")
    assert any("XNNPACK" in line for line in shown)
