"""Files at URLs: read where they lie, told apart, and repaired into a file here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_fake import FAKE
from factory import write_media
from measure import errors_ms
from offset_clips import clip, hashes
from web import serving

import avsync
from avsync import batch_work, remote
from avsync.batch import BatchOptions, plan_batch
from avsync.batch_file import ResultsFile
from avsync.batch_inputs import Inputs, find_inputs, place_copies
from avsync.batch_work import Task, Worker
from avsync.errors import (
    DependencyMissingError,
    InvalidOptionError,
    MediaNotFoundError,
    MediaReadError,
)
from avsync.media import iter_frames, probe, read_audio

fsspec = pytest.importorskip("fsspec", reason="needs fsspec (avsync[remote])")


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's store in this process, emptied afterwards."""
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """A web server: (its URL, the folder it serves, sizes of the parts it gave out)."""
    pytest.importorskip("aiohttp", reason="needs aiohttp (avsync[remote])")
    folder = tmp_path / "www"
    folder.mkdir()
    with serving(folder) as (url, parts):
        yield url, folder, parts


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_a_url_reads_as_the_file_does(ending: str, tmp_path: Path, memory: Any) -> None:
    made = write_media(tmp_path / f"clip.{ending}")
    memory.pipe(f"/films/clip.{ending}", made.path.read_bytes())
    url = f"memory://films/clip.{ending}"
    here, there = probe(made.path), probe(url)
    assert there.path == url
    assert (there.duration_s, there.video, there.audio) == (here.duration_s, here.video, here.audio)
    for start in (None, 1.5):
        ours = [f.pts_seconds for f in iter_frames(made.path, start_s=start)]
        assert [f.pts_seconds for f in iter_frames(url, start_s=start)] == ours
    assert (read_audio(url).samples == read_audio(made.path).samples).all()
    assert errors_ms(url, flashes=None) == errors_ms(made.path)  # type: ignore[arg-type]


def test_what_is_not_there_is_said(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/a/text.mp4", b"a letter" * 100)
    memory.pipe("/a/empty.mp4", b"")
    with pytest.raises(MediaNotFoundError, match=r"^memory://a/none.mp4: no such file$"):
        probe("memory://a/none.mp4")
    with pytest.raises(MediaReadError, match=r"^memory://a/text.mp4: not a media file"):
        probe("memory://a/text.mp4")
    with pytest.raises(MediaReadError, match="the file is empty"):
        probe("memory://a/empty.mp4")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DependencyMissingError, match=r"s3://b/x\.mp4: .*s3fs"):
        probe("s3://b/x.mp4")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DependencyMissingError, match=r"pip install 'avsync\[remote\]'"):
        probe("memory://a/text.mp4")
    with pytest.raises(DependencyMissingError):
        plan_batch(Inputs(("s3://b/x.mp4",), None), BatchOptions())


def test_a_web_server_is_read_in_parts(web: tuple[str, Path, list[int]], tmp_path: Path) -> None:
    url, folder, parts = web
    made = clip(folder, offset_ms=80)
    assert errors_ms(f"{url}/clip.mp4") == errors_ms(made.path)  # type: ignore[arg-type]
    assert parts
    stamp = remote.stamp_of(f"{url}/clip.mp4")
    assert stamp.size == made.path.stat().st_size
    assert stamp.mtime_ns == made.path.stat().st_mtime_ns // 10**9 * 10**9
    with pytest.raises(MediaNotFoundError, match="no such file"):
        probe(f"{url}/none.mp4")
    with pytest.raises(MediaReadError, match="403"):
        remote.stamp_of(f"{url}/secret.mp4")
    with pytest.raises(MediaReadError, match=r"127\.0\.0\.1:9/x\.mp4: cannot be read"):
        probe("http://127.0.0.1:9/x.mp4")


def test_find_and_place(memory: Any, tmp_path: Path) -> None:
    for name in ("a/1.mp4", "a/b/2.MKV", "a/notes.txt", "a/.hidden.mp4"):
        memory.pipe(f"/shop/{name}", b"x")
    films = ["memory:///shop/a/1.mp4", "memory:///shop/a/b/2.MKV"]
    (tmp_path / "here.mp4").touch()
    named = "https://host:80/x/y.mp4?sig=a*b"
    found = find_inputs(["memory://shop/a", "memory://shop/a/*.mp4", tmp_path / "here.mp4", named])
    assert found.paths == (*films, str(tmp_path / "here.mp4"), named)
    assert found.base == str(tmp_path)
    assert place_copies(found, "D", [".mp4", ".mkv"]) == [
        "D/shop/a/1.mp4",
        "D/shop/a/b/2.MKV",
        "D/here.mp4",
        "D/host_80/x/y.mp4",
    ]
    with pytest.raises(InvalidOptionError, match="two files would be repaired"):
        place_copies(Inputs(("s3://b/x.mp4?a", "s3://b/x.mp4?b"), None), "D", [".mp4"])
    assert remote.url_place("s3://b/../../etc/x.mp4") == "b/etc/x.mp4"
    assert not remote.is_url("C://x.mp4")
    assert not remote.is_url(Path("a/b.mp4"))


def test_repaired_into_a_file_here(tmp_path: Path, memory: Any) -> None:
    made = clip(tmp_path, offset_ms=120)
    memory.pipe("/shop/clip.mp4", made.path.read_bytes())
    url, out = "memory://shop/clip.mp4", tmp_path / "out.mp4"
    done = avsync.fix(url, out, offset_ms=120)
    assert (done.path, done.audio[0].method) == (url, "edit_list")
    assert errors_ms(out) == pytest.approx([0.0] * 4, abs=2.0)
    assert hashes(out) == hashes(made.path)
    for wrong, hint in (
        ({"out": "s3://shop/out.mp4"}, "a URL cannot be written"),
        ({"in_place": True}, "a URL is only read"),
    ):
        with pytest.raises(InvalidOptionError, match=hint):
            avsync.fix(url, offset_ms=120, **wrong)  # type: ignore[arg-type]


def test_a_batch_knows_a_url_by_size_time_and_etag(
    memory: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batch_work, "DETECTOR", FAKE)
    monkeypatch.chdir(tmp_path)
    memory.pipe("/shop/late.mp4", clip(tmp_path, offset_ms=-120).path.read_bytes())
    url = "memory://shop/late.mp4"
    inputs = Inputs((url,), None)
    options = BatchOptions(fix_dir="D")

    def left() -> list[Task]:
        plan = plan_batch(inputs, options)
        with ResultsFile("r.jsonl", plan.run) as results:
            todo, _ = results.resume(plan.tasks)
            for task in todo:
                results.append(Worker(plan.options).run(task))
        return todo

    (task,) = left()
    assert (task.path, task.key, task.size) == (url, url, memory.info("/shop/late.mp4")["size"])
    assert task.mtime_ns is not None
    copy = Path("D/shop/late.mp4")
    assert errors_ms(copy) == pytest.approx([0.0] * 4, abs=2.0)
    assert left() == []
    info = type(memory).info

    def tagged(self: Any, path: str, **more: Any) -> Any:
        return {**info(self, path, **more), "ETag": "abc"}

    monkeypatch.setattr(type(memory), "info", tagged)
    assert [task.etag for task in left()] == ["abc"]
    assert left() == []


def test_workers_read_from_the_web(
    web: tuple[str, Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_work, "DETECTOR", FAKE)
    url, folder, _ = web
    size = clip(folder).path.rename(folder / "probe.mp4").stat().st_size
    urls = [f"{url}/probe.mp4", f"{url}/probe_gone.mp4"]
    found = {item.path: item for item in avsync.score_many(urls, jobs=1)}
    good, gone = (found[name] for name in urls)
    assert good.result is not None
    assert good.result.duration_s == pytest.approx(probe(folder / "probe.mp4").duration_s)
    assert (good.size, gone.size) == (size, None)
    assert (gone.error_type, gone.error) == ("MediaNotFoundError", f"{urls[1]}: no such file")
