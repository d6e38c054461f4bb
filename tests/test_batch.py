"""Batches: what is found, done, written, resumed, and survived."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_fake import FAKE, lines, task_of, touch
from factory import write_media

import avsync
from avsync import batch_work
from avsync._paths import bundled_models_dir
from avsync.batch_file import ResultsFile, read_results
from avsync.batch_local import crash_words
from avsync.batch_work import BatchItem, DetectorOptions, FixNote, Task, Worker
from avsync.cli import app
from avsync.errors import InvalidOptionError, ModelCorruptError
from avsync.media import probe

needs_model = pytest.mark.skipif(
    not (bundled_models_dir() / "model.json").is_file(), reason="no model is bundled"
)
TESTS = Path(__file__).parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every worker takes the fake detector; the current folder is the test's own."""
    monkeypatch.setattr(batch_work, "DETECTOR", FAKE)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``avsync batch ...`` in this process: (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            app(["batch", *arguments], prog_name="avsync")
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


# -- a worker ----------------------------------------------------------------------------------


def worker() -> Worker:
    return Worker(DetectorOptions(detector=FAKE))


def test_worker_keeps_faults_to_the_file() -> None:
    task = Task("dir/bug.mp4", "/dir/bug.mp4", 1, 2, 1.0)
    item = worker().run(task)
    assert (item.error_type, item.size, item.mtime_ns) == ("KeyError", 1, 2)
    assert item.error == "dir/bug.mp4: unexpected KeyError: 'a bug'"
    with pytest.raises(ModelCorruptError):
        worker().run(Task("setup.mp4", "/setup.mp4", 1, 2, 1.0))


def test_worker_repairs() -> None:
    touch("in/x")
    media = write_media(Path("in/late.mp4")).path
    (Path("in") / "unsure.mp4").write_bytes(media.read_bytes())
    before = media.read_bytes()
    item = worker().run(task_of("in/late.mp4", "D/s/late.mp4"))
    assert item.fix == FixNote(status="fixed", out="D/s/late.mp4", residual_ms=10)
    assert probe("D/s/late.mp4").audio[0].codec == "aac"
    assert media.read_bytes() == before
    refused = worker().run(task_of("in/unsure.mp4", "D/unsure.mp4"))
    assert refused.result is not None
    assert refused.fix is not None
    assert (refused.fix.status, refused.error) == ("refused", None)
    assert "30 % sure" in str(refused.fix.error)
    Path("in/late2.mp4").write_bytes(b"no media at all")
    failed = worker().run(task_of("in/late2.mp4", "D/late2.mp4"))
    assert failed.fix is not None
    assert failed.fix.status == "failed"
    assert "unfinished" not in str(failed.fix.error)
    assert [str(p) for p in Path("D").rglob("*.*")] == ["D/s/late.mp4"]
    assert list(Path("stage").iterdir()) == []


def test_fix_takes_the_options_of_the_batch(run: Run) -> None:
    media = write_media(Path("unsure.mp4")).path.read_bytes()
    touch("in/x")
    Path("in/unsure.mp4").write_bytes(media)
    arguments = ("in", "-o", "r.jsonl", "--fix-dir", "D", "--jobs", "1", "--resume")
    for flags, code, status in (
        ([], 3, "refused"),
        (["--piecewise", "--drift"], 3, "refused"),
        (["--force"], 0, "fixed"),
    ):
        found, _, _ = run(*arguments, *flags)
        (line,) = lines()
        assert (found, line["fix"]["status"]) == (code, status)
        assert line["fix"]["flags"] == sorted(flag[2:] for flag in flags)
        assert "1 files (1 done before)" in run(*arguments, *flags)[1]
    assert run("in", "-o", "r2.jsonl", "--piecewise")[0] == 2


def test_crash_words() -> None:
    assert crash_words(-11) == "the worker process died at it (SIGSEGV)"
    assert crash_words(3) == "the worker process died at it (exit code 3)"


# -- whole batches -----------------------------------------------------------------------------


def test_score_many_outlives_crashes_hangs_and_bugs() -> None:
    touch("good.mp4", "crash.mp4", "hang.mp4", "bug.mp4", "once.mp4", "text.mp4", "mute.mp4")
    touch(*(f"good{i}.mp4" for i in range(6)))
    found = {i.path: i for i in avsync.score_many(["."], jobs=2, timeout_s=1.5)}
    assert len(found) == 13
    names = {Path(path).name: item for path, item in found.items()}
    kinds = {name: item.error_type for name, item in names.items() if item.error_type}
    assert kinds == {
        "crash.mp4": "WorkerCrashed",
        "hang.mp4": "TimeLimit",
        "bug.mp4": "KeyError",
        "text.mp4": "MediaReadError",
    }
    assert "SIGSEGV" in str(names["crash.mp4"].error)
    assert "1.5 s" in str(names["hang.mp4"].error)
    assert (names["once.mp4"].status, names["mute.mp4"].status) == ("in_sync", "no_audio")


def test_score_many_stops_when_closed_and_when_set_up_wrong() -> None:
    touch(*(f"good{i:02d}.mp4" for i in range(40)))
    many = avsync.score_many(["."], jobs=1)
    assert next(many).status == "in_sync"
    many.close()  # type: ignore[attr-defined]
    touch("bad/setup.mp4")
    with pytest.raises(ModelCorruptError, match="broken"):
        list(avsync.score_many(["bad"], jobs=1))
    with pytest.raises(InvalidOptionError):
        avsync.score_many(["nothing-here/*.mp4"][:0])


def test_command_from_start_to_summary(run: Run) -> None:
    touch("in/good.mp4", "in/mute.mp4", "in/text.mp4", "in/s/good.mkv")
    code, out, err = run("in", "-o", "r.jsonl", "--jobs", "1", "--csv", "r.csv")
    assert code == 4
    assert err == "avsync: in/text.mp4: not media\n"
    assert out.splitlines()[:2] == [
        "4 files: 2 in_sync, 1 no_audio, 1 error",
        "  errors: 1 MediaReadError",
    ]
    assert "4 files in" in out
    assert "× real time" in out
    with Path("r.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert rows["in/good.mp4"]["offset_ms"] == "10.0"
    assert rows["in/text.mp4"]["error"] == "in/text.mp4: not media"
    assert {line["path"] for line in lines()} == set(rows)
    # begun anew it refuses, resumed it does what is missing
    assert run("in", "-o", "r.jsonl")[0] == 2
    touch("in/new.mp4")
    code, out, err = run("in", "-o", "r.jsonl", "--resume", "--jobs", "1")
    assert (code, err) == (4, "")
    assert out.startswith("5 files (4 done before): 3 in_sync, 1 no_audio, 1 error\n")
    Path("in/text.mp4").rename("in/was.mp4")
    touch("in/text.mp4")
    code, out, _ = run("in/good.mp4", "in/s", "-o", "r.jsonl", "--resume")
    assert (code, out.splitlines()[0]) == (0, "2 files (2 done before): 2 in_sync")
    assert len(lines()) == 5


def test_usage(run: Run) -> None:
    touch("a.mp4")
    for arguments, hint in (
        (["none", "-o", "r.jsonl", "--model", "nowhere"], "nowhere"),
        (["-o", "r.jsonl"], "no video files"),
        (["a.mp4", "--timeout", "0", "-o", "r.jsonl"], "time limit"),
        (["a.mp4", "-o", "none/r.jsonl"], "none/r.jsonl"),
        (["a.mp4", "--jobs", "0"], "--jobs"),
        (["a.mp4", "--fix-dir", ".", "-o", "r.jsonl"], "would replace"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert hint in err


def test_report_at_the_end(run: Run) -> None:
    touch("in/good.mp4", "in/text.mp4", "in/mute.mp4")
    code, _, _ = run("in", "-o", "r.jsonl", "--jobs", "1", "--report", "html")
    assert code == 4
    index = Path("html/index.html").read_text("utf-8")
    assert all(name in index for name in ("good.mp4", "text.mp4", "mute.mp4"))


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["good"], 0),
        (["good", "mute"], 3),
        (["text", "mute"], 4),
        (["crash"], 4),
        (["setup", "good"], 2),
    ],
)
def test_exit_codes(run: Run, names: list[str], code: int) -> None:
    touch(*(f"in/{name}.mp4" for name in names))
    found, out, err = run("in", "-o", "r.jsonl", "--jobs", "1", "--retries", "0")
    assert found == code
    assert "Traceback" not in out + err
    if code == 2:
        assert err == "avsync: the model is broken\n"


# -- killed and stopped ------------------------------------------------------------------------

START = """
import sys
sys.path.insert(0, {tests!r})
from avsync import batch_work
from avsync.cli import main
if __name__ == "__main__":
    batch_work.DETECTOR = {fake!r}
    sys.argv = ["avsync", "batch", *{arguments!r}]
    main()
"""


def start(
    *arguments: str, each_s: float = 0.1, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    """``avsync batch ...`` with the fake detector in a process (and group) of its own."""
    Path("start.py").write_text(
        START.format(tests=str(TESTS), fake=FAKE, arguments=arguments), "utf-8"
    )
    return subprocess.Popen(
        [sys.executable, "start.py"],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
        # A runner that started us in the background has SIGINT ignored, and so would the batch.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        env={**os.environ, "BATCH_FAKE_S": str(each_s), "TERM": "xterm", "COLUMNS": "100"},
    )


def wait_for_lines(count: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if Path("r.jsonl").is_file() and Path("r.jsonl").read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} lines in 60 s")


def workers_of(group: int) -> Iterator[int]:
    """The processes of a process group that still live (Linux)."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
            except OSError:
                continue
            if int(stat[2]) == group and stat[0] != "Z":
                yield int(folder.name)


def wait_for_end(group: int) -> None:
    """Until no process of the group is left: workers, multiprocessing's resource tracker."""
    limit = time.monotonic() + 20
    while left := list(workers_of(group)):
        assert time.monotonic() < limit, left
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_leaves_a_valid_file() -> None:
    touch(*(f"in/good{i:02d}.mp4" for i in range(60)))
    process = start("in", "-o", "r.jsonl", "--jobs", "2", "--csv", "r.csv", "--report", "html")
    wait_for_lines(5)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "--resume goes on" in err
    count = len(lines())
    assert 5 <= count < 60
    assert out.startswith(f"{count} files: {count} in_sync")
    assert Path("r.csv").read_text("utf-8").count("\n") == count + 1
    pages = sorted(p.name[:6] for p in Path("html/files").iterdir())
    assert pages == sorted(Path(line["path"]).stem for line in lines())
    wait_for_end(process.pid)


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_ctrl_c_waits_until_what_is_written_is_counted(
    before: Any, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    touch(*(f"in/good{i}.mp4" for i in range(3)))
    append = ResultsFile.append

    def interrupted(self: ResultsFile, item: BatchItem) -> None:
        append(self, item)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ResultsFile, "append", interrupted)
    old = signal.signal(signal.SIGINT, before)
    try:
        code, out, _ = run("in", "-o", "r.jsonl", "--jobs", "1")
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, old)
    files = 3 if before is signal.SIG_IGN else 1
    assert (code, len(lines())) == (0 if files == 3 else 130, files)
    assert out.startswith(f"{files} files: {files} in_sync")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_kill_and_resume_do_every_file_once() -> None:
    media = write_media(Path("late.mp4")).path.read_bytes()
    names = [f"in/{'late' if i % 3 else 'good'}{i:02d}.mp4" for i in range(24)]
    for name in names:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(media + name.encode())
    before = {n: hashlib.sha256(Path(n).read_bytes()).hexdigest() for n in names}
    chance = random.Random(5)
    arguments = ("in", "-o", "r.jsonl", "--fix-dir", "D", "--jobs", "2", "--resume")
    for kill in range(3):
        process = start(*arguments)
        wait_for_lines(3 + 4 * kill)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.communicate(timeout=60)
        wait_for_end(process.pid)  # they notice by themselves
    process = start(*arguments, each_s=0)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "16 fixed" in out
    assert sorted(line["path"] for line in lines()) == sorted(names)
    copies = sorted(str(p.relative_to("D")) for p in Path("D").rglob("*") if p.is_file())
    assert copies == sorted(Path(n).name for n in names if "late" in n)
    for copy in copies:
        assert probe(Path("D") / copy).duration_s == pytest.approx(3.2, abs=0.3)
    assert {n: hashlib.sha256(Path(n).read_bytes()).hexdigest() for n in names} == before
    assert [p.name for p in Path("D").iterdir() if p.name.startswith(".")] == []


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal (POSIX)")
def test_progress_is_on_the_terminal_only() -> None:
    touch(*(f"in/good{i}.mp4" for i in range(6)))
    ours, theirs = os.openpty()
    process = start("in", "-o", "r.jsonl", "--jobs", "1", each_s=0.3, stderr=theirs)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while part := os.read(ours, 100_000):
            seen += part
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    shown = seen.decode()
    assert process.returncode == 0
    for text in ("0/6 files", "files/s", "× real time", " s left"):
        assert text in shown
    assert out.startswith("6 files: 6 in_sync\n")
    assert "/6 files" not in out


@needs_model
def test_real_clip_through_the_batch(root: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(batch_work, "DETECTOR", "avsync.detector:SyncDetector")
    Path("in").mkdir()
    Path("in/talk.mp4").write_bytes((root / "examples" / "talk.mp4").read_bytes())
    code, _, err = run("in", "-o", "r.jsonl", "--jobs", "1", "--fix-dir", "D")
    assert (code, err) == (0, "")
    (line,) = lines()
    assert (line["status"], line["fix"]["status"]) == ("out_of_sync", "fixed")
    assert line["offset_ms"] == pytest.approx(120, abs=20)
    assert abs(line["fix"]["residual_ms"]) <= 40
    item = next(read_results("r.jsonl"))
    assert item.result == avsync.SyncDetector(threads=1).score("in/talk.mp4")
