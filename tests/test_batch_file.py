"""The results file of a batch: lines and back, resuming, torn lines, full disks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from batch_fake import lines, task_of, touch

from avsync.batch_file import ResultsFile, ResultsWriteError, read_results
from avsync.batch_inputs import file_key
from avsync.batch_work import BatchItem, FixNote, Task, failed_item
from avsync.errors import InvalidOptionError
from avsync.result import SyncResult


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def items() -> list[BatchItem]:
    good = SyncResult(
        path="a\udce9.mp4",
        status="drift",
        offset_ms=-120,
        probability=0.9,
        model="m",
        windows=4,
        drift_ms_per_min=12,
    )
    note = FixNote(status="fixed", out="D/a.mp4", residual_ms=-0.4)
    task = Task("b.mp4", "/b.mp4", 7, 8, 1.0)
    return [
        BatchItem(path="a\udce9.mp4", result=good, fix=note, elapsed_s=1.25, size=3, mtime_ns=4),
        failed_item(task, "WorkerCrashed", "died\nof it", 0.5),
    ]


def test_lines_and_back() -> None:
    for item in items():
        line = item.to_line({"model_sha256": "x"})
        assert "\n" not in line
        assert json.loads(line)["run"] == {"model_sha256": "x"}
        assert BatchItem.from_line(line) == item
    crashed = items()[1]
    assert (crashed.status, crashed.error) == ("error", "b.mp4: died\nof it")


def done(task: Task, status: str = "in_sync", fix: FixNote | None = None) -> BatchItem:
    if status == "error":
        return failed_item(task, "MediaReadError", "no media")
    result = SyncResult(
        path=task.path,
        status=status,
        offset_ms=90 if status == "out_of_sync" else 1,
        probability=0.9,
        model="m",
        windows=3,
    )
    size, mtime_ns = task.size, task.mtime_ns
    return BatchItem(path=task.path, result=result, fix=fix, size=size, mtime_ns=mtime_ns)


def left(tasks: list[Task], run: dict[str, Any] | None = None, **options: Any) -> list[str]:
    with ResultsFile("r.jsonl", {"m": 1} if run is None else run) as results:
        todo, _ = results.resume(tasks, **options)
    return [task.path for task in todo]


def test_resume_skips_what_is_done_and_nothing_else() -> None:
    touch("a.mp4", "b.mp4", "c.mp4")
    tasks = [task_of(n) for n in ("a.mp4", "b.mp4", "c.mp4")]
    with ResultsFile("r.jsonl", {"m": 1}) as results:
        results.create()
        results.append(done(tasks[0]))
        results.append(done(tasks[1], "error"))
    assert left(tasks) == ["c.mp4"]
    assert len(lines()) == 2
    # the same file by another name for it
    again = [
        Task("./a.mp4", *[getattr(tasks[0], f) for f in ("key", "size", "mtime_ns", "limit_s")])
    ]
    assert left(again) == []
    assert left(tasks, retry_failed=True) == ["b.mp4", "c.mp4"]
    assert [line["path"] for line in lines()] == ["a.mp4"]
    # other model or options; then another size or time
    assert left(tasks[:1]) == []
    os.utime("a.mp4", ns=(1, 1))
    assert left([task_of("a.mp4")]) == ["a.mp4"]
    assert lines() == []
    with ResultsFile("r.jsonl", {"m": 1}) as results:
        results.resume([])
        results.append(done(tasks[1]))
    assert left([tasks[1]], {"m": 2}) == ["b.mp4"]


def test_resume_looks_after_the_copies() -> None:
    touch("a.mp4", "b.mp4", "c.mp4", "D/a.mp4")
    targets = ["D/a.mp4", "D/b.mp4", "D/c.mp4"]
    tasks = [task_of(n, t) for n, t in zip(("a.mp4", "b.mp4", "c.mp4"), targets, strict=True)]
    notes = [
        FixNote(status=s, out=t) for s, t in zip(("fixed", "fixed", "failed"), targets, strict=True)
    ]
    with ResultsFile("r.jsonl", {"m": 1}) as results:
        results.create()
        for task, note in zip(tasks, notes, strict=True):
            results.append(done(task, "out_of_sync", note))
    assert left([task_of("a.mp4")]) == []  # without repair nothing is missing
    assert left([task_of("a.mp4", "E/a.mp4")]) == ["a.mp4"]  # another folder
    with ResultsFile("r.jsonl", {"m": 1}) as results:
        results.resume([])
        results.append(done(tasks[0], "out_of_sync", notes[0]))
    assert left(tasks) == ["b.mp4"]  # its copy is gone
    assert left([tasks[0], tasks[2]], retry_failed=True) == ["c.mp4"]


@pytest.mark.parametrize("cut", [1, 2, 40, 400])
def test_torn_line_is_repaired(cut: int) -> None:
    touch("a.mp4", "b.mp4")
    tasks = [task_of("a.mp4"), task_of("b.mp4")]
    with ResultsFile("r.jsonl", {"m": 1}) as results:
        results.create()
        for task in tasks:
            results.append(done(task))
    whole = Path("r.jsonl").read_bytes()
    Path("r.jsonl").write_bytes(whole[:-cut])
    assert [item.path for item in read_results("r.jsonl")] == ["a.mp4"]
    with ResultsFile("r.jsonl", {"m": 1}) as results:
        todo, tally = results.resume(tasks)
        assert [task.path for task in todo] == ["b.mp4"]
        assert tally.status == {"in_sync": 1}
        results.append(done(tasks[1]))
    assert Path("r.jsonl").read_bytes() == whole
    assert sorted(p.name for p in Path().iterdir()) == ["a.mp4", "b.mp4", "r.jsonl"]


def test_strangers_lines_stay_and_junk_goes() -> None:
    touch("a.mp4")
    other = done(Task("z.mp4", file_key("z.mp4"), 1, 1, 1.0)).to_line({"m": 9})
    mine = done(task_of("a.mp4")).to_line({"m": 1})
    Path("r.jsonl").write_text(f"{other}\nnull\n[1]\n\x00\n{mine}\n{mine}\n", "utf-8")
    assert left([task_of("a.mp4")]) == []
    assert [line["path"] for line in lines()] == ["z.mp4", "a.mp4"]


def test_results_file_is_never_overwritten_nor_shared() -> None:
    touch("r.jsonl")
    with pytest.raises(InvalidOptionError, match="--resume"):
        ResultsFile("r.jsonl", {}).create()
    with pytest.raises(ResultsWriteError, match=r"none/r\.jsonl"):
        ResultsFile("none/r.jsonl", {}).create()
    with ResultsFile("s.jsonl", {}) as first:
        first.create()
        with pytest.raises(InvalidOptionError, match="another batch"):
            ResultsFile("s.jsonl", {}).resume([])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
def test_full_disk_is_one_error() -> None:
    results = ResultsFile("/dev/full", {})
    results._open()
    with pytest.raises(ResultsWriteError, match="No space left"):
        results.append(items()[1])
    results.close()
