"""The live examples on the sample: a file, a pipe and a UDP port (MPEG-TS written by PyAV)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

pytest.importorskip("onnxruntime")

SECONDS = 5.0


def send(source: Path, target: Any, pace: float = 0.0) -> None:
    """The sample's first seconds as MPEG-TS, H.264 and AAC copied; ``pace`` 1 is real time."""
    begun = time.monotonic()
    with av.open(str(source)) as src, av.open(target, "w", format="mpegts") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in src.streams}
        for packet in src.demux():
            if packet.dts is None or packet.dts * (packet.time_base or Fraction(1)) > SECONDS:
                continue
            if pace:
                due = begun + float(packet.dts * packet.time_base) / pace
                time.sleep(max(0.0, due - time.monotonic()))
            packet.stream = streams[packet.stream.index]
            out.mux(packet)


def run(root: Path, *words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, *words],
        input=data,
        capture_output=True,
        cwd=root,
        env=environment,
        timeout=300,
        check=False,
    )


def check_lines(done: subprocess.CompletedProcess[bytes]) -> None:
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stderr  # out of sync
    assert len(lines) >= 4
    assert lines[-1]["offset_ms"] == pytest.approx(120, abs=25)
    assert lines[-1]["status"] == "out_of_sync"
    found = [line for line in lines if line["offset_ms"] is not None]
    assert all(b["time_s"] >= a["time_s"] for a, b in pairwise(found))


def test_a_file_as_if_live(root: Path, tmp_path: Path) -> None:
    send(root / "examples" / "talk.mp4", str(tmp_path / "talk.ts"))
    done = run(root, "examples/live_file.py", str(tmp_path / "talk.ts"), "--speed", "0")
    assert done.returncode == 0, done.stderr
    assert b"s behind)" in done.stdout
    assert b"at the end  audio leads by 1" in done.stdout


def test_a_pipe(root: Path, tmp_path: Path) -> None:
    send(root / "examples" / "talk.mp4", str(tmp_path / "talk.ts"))
    check_lines(run(root, "examples/live_input.py", "-", data=(tmp_path / "talk.ts").read_bytes()))


def test_a_udp_port(root: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done: list[subprocess.CompletedProcess[bytes]] = []
    address = f"udp://127.0.0.1:{port}"
    words = ("examples/live_input.py", f"{address}?fifo_size=100000", "--wait", "8")
    receiver = threading.Thread(target=lambda: done.append(run(root, *words)))
    receiver.start()
    source = root / "examples" / "talk.mp4"
    for _ in range(60):  # until somebody has opened the port
        time.sleep(0.5)
        if f":{port:04X} " in Path("/proc/net/udp").read_text():
            break
    send(source, f"{address}?pkt_size=1316", pace=1.0)
    receiver.join(300)
    check_lines(done[0])


def test_what_cannot_be_opened(root: Path) -> None:
    done = run(root, "examples/live_input.py", "udp://not a host:1", "--wait", "1")
    assert done.returncode != 0
    assert b"cannot be opened" in done.stderr
    assert b"Traceback" not in done.stderr
