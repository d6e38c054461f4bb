"""Batches with Ray: the same results, and the same losses, as on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_fake import FAKE, touch
from factory import write_media
from web import serving

import avsync
from avsync import batch_work
from avsync.errors import DependencyMissingError, ModelCorruptError
from avsync.media import probe

TESTS = str(Path(__file__).parent)


def test_without_ray_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyMissingError, match=r"avsync\[ray\]"):
        list(avsync.score_many([tmp_path / "a.mp4"], engine="ray"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine with room for two actors; its workers find the fake detector."""
    ray = pytest.importorskip("ray", reason="needs Ray (avsync[ray])")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setattr(batch_work, "DETECTOR", FAKE)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            logging_level="ERROR",
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_same_results_and_losses_as_local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    touch("good.mp4", "crash.mp4", "hang.mp4", "text.mp4", "mute.mp4", "late.mp4")
    touch(*(f"good{i}.mp4" for i in range(6)))
    paths = sorted(p.name for p in Path().iterdir())
    found = {
        engine: {
            item.path: item for item in avsync.score_many(paths, jobs=2, engine=engine, timeout_s=6)
        }
        for engine in ("local", "ray")
    }
    assert sorted(found["ray"]) == paths
    for path in paths:
        here, there = found["local"][path], found["ray"][path]
        assert there.result == here.result
        assert there.error_type == here.error_type
        assert (there.size, there.mtime_ns) == (here.size, here.mtime_ns)
    assert found["ray"]["crash.mp4"].error_type == "WorkerCrashed"
    assert found["ray"]["hang.mp4"].error_type == "TimeLimit"
    assert found["ray"]["text.mp4"].error == "text.mp4: not media"


@pytest.mark.usefixtures("cluster")
def test_retry_more_actors_than_room_and_set_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    touch("once.mp4", "good1.mp4", "good2.mp4", "good3.mp4", "good4.mp4")
    # five actors wanted, room for two: the others wait and nothing hangs
    many = avsync.score_many(["."], jobs=5, engine="ray", timeout_s=30)
    assert sorted(item.status for item in many) == ["in_sync"] * 5
    touch("bad/setup.mp4")
    with pytest.raises(ModelCorruptError, match="broken"):
        list(avsync.score_many(["bad"], jobs=1, engine="ray"))


@pytest.mark.usefixtures("cluster")
def test_actors_read_from_the_web(tmp_path: Path) -> None:
    pytest.importorskip("fsspec", reason="needs fsspec (avsync[remote])")
    pytest.importorskip("aiohttp", reason="needs aiohttp (avsync[remote])")
    write_media(tmp_path / "probe.mp4")
    with serving(tmp_path) as (url, parts):
        urls = [f"{url}/probe.mp4", f"{url}/probe_gone.mp4"]
        found = {i.path: i for i in avsync.score_many(urls, jobs=1, engine="ray")}
        assert parts
    assert found[urls[0]].result is not None
    assert found[urls[0]].result.duration_s == pytest.approx(
        probe(tmp_path / "probe.mp4").duration_s
    )
    assert found[urls[1]].error == f"{urls[1]}: no such file"
