"""A small share of benchmarks/fuzz.py, always the same: only our own errors come out."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from pathlib import Path

import pytest
from pebble import ProcessPool

from avsync._paths import bundled_models_dir

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import fuzz

FILES = 40
SEED = 20


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return fuzz.make_seeds(tmp_path_factory.mktemp("films"))


def test_every_container_is_there_and_whole(films: dict[str, bytes], tmp_path: Path) -> None:
    from avsync.media import probe

    containers = set()
    for name, data in films.items():
        path = tmp_path / name
        path.write_bytes(data)
        info = probe(path)
        containers.add(info.container.split(",")[0])
        assert info.video or name.startswith("sound")
        assert info.audio
    assert containers == {"mov", "matroska", "mpegts", "avi", "mpeg", "wav", "mp3", "flv"}


def test_a_file_is_the_same_by_seed_and_number(films: dict[str, bytes]) -> None:
    made = [fuzz.mutant(films, SEED, n) for n in range(FILES)]
    assert made == [fuzz.mutant(films, SEED, n) for n in range(FILES)]
    assert all(data != films[name] for name, _, data in made)
    kinds = Counter(kind for _, done, _ in made for kind in done.split("+"))
    assert set(kinds) == {change.__name__ for change in fuzz.MUTATIONS}


@pytest.mark.skipif(
    not (bundled_models_dir() / "model.json").is_file(), reason="no model is bundled"
)
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_broken_files_end_in_an_answer_or_our_error(
    films: dict[str, bytes], tmp_path: Path
) -> None:
    with ProcessPool(
        1,
        initializer=fuzz.begin,
        initargs=(4 << 30,),
        context=multiprocessing.get_context("spawn"),
    ) as pool:
        bad = {}
        for number in range(FILES):
            name, done, data = fuzz.mutant(films, SEED, number)
            path = tmp_path / str(number) / name
            path.parent.mkdir()
            path.write_bytes(data)
            found = pool.schedule(fuzz.attempt, args=(path,), timeout=300).result()
            if found["bad"]:
                bad[f"{number} {name} {done}"] = found["bad"]
    assert bad == {}
