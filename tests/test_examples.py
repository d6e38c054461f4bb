"""Every example runs, on parts of the demo clip, and says what it should.

Those that need torch or Ray are skipped where these are absent; train_your_own is run by
tests/training/test_train_your_own.py.
"""

from __future__ import annotations

import csv
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_talk import write_part

from avsync import fix

pytest.importorskip("onnxruntime")

#: Run elsewhere, and by what.
ELSEWHERE = {
    "make_talk.py": "tests/test_make_talk.py",
    "live_file.py": "tests/test_examples_live.py",
    "live_input.py": "tests/test_examples_live.py",
}

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(root: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run an example as a script; returns its exit code and what it printed."""

    def script(name: str, *arguments: object) -> tuple[int, str]:
        path = str(root / "examples" / name)
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        code: Any = 0
        capfd.readouterr()
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        return int(code), capfd.readouterr().out

    return script


@pytest.fixture(scope="module")
def clips(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """early.mp4, 120 ms early as the sample is, and good.mp4, in sync: 3.4 s each."""
    folder = tmp_path_factory.mktemp("clips")
    early = write_part(root / "examples" / "talk.mp4", folder / "early.mp4", 3.4)
    fix(early, folder / "good.mp4", offset_ms=120)
    return folder


def test_score_one(run: Run, clips: Path) -> None:
    code, out = run("score_one.py", clips / "early.mp4")
    assert code == 0
    first, remedy = out.splitlines()[:2]
    assert first.startswith("early.mp4: audio leads by 1")
    assert abs(float(remedy.split()[4]) - 120) <= 40


def test_gate_generation(run: Run, clips: Path) -> None:
    code, out = run("gate_generation.py", clips / "good.mp4", clips / "early.mp4")
    assert code == 1
    assert [line.split(":")[0] for line in out.splitlines()] == ["pass", "stop"]


def test_best_take(run: Run, clips: Path) -> None:
    code, out = run("best_take.py", clips / "early.mp4", clips / "good.mp4")
    assert code == 0
    best, worst = (line.split() for line in out.splitlines())
    assert (Path(best[2]).name, Path(worst[2]).name) == ("good.mp4", "early.mp4")
    assert float(best[0]) > 0 > float(worst[0])


def test_fix_folder(run: Run, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "early.mp4").write_bytes((clips / "early.mp4").read_bytes())
    code, out = run("fix_folder.py", tmp_path / "in", tmp_path / "fixed")
    assert code == 0
    assert "early.mp4: audio leads by 1" in out
    (line,) = [line for line in out.splitlines() if line.startswith("  repaired:")]
    assert abs(int(line.split(",")[1].split()[0])) <= 40
    assert (tmp_path / "fixed" / "early.mp4").is_file()


def test_optimise_pixels(run: Run, clips: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    options = ("--out", tmp_path / "curve", "--steps", 4, "--frames", 40)
    code, _ = run("optimise_pixels.py", clips / "early.mp4", *options)
    assert code == 0
    rows = list(csv.DictReader((tmp_path / "curve.csv").open(encoding="utf-8")))
    losses = [float(row["loss"]) for row in rows]
    assert len(rows) == 5
    assert losses[-1] < 0.85 * losses[0]
    assert 60 < float(rows[-1]["ms_ahead"]) < 200
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_ray_cluster(run: Run, clips: Path) -> None:
    pytest.importorskip("ray")
    code, out = run("ray_cluster.py", clips / "early.mp4", clips / "good.mp4")
    assert code == 0
    assert "2 nodes at" in out
    assert "early.mp4 on node" in out


def test_every_example_is_run(root: Path) -> None:
    here = Path(__file__).read_text("utf-8")
    for script in (root / "examples").glob("*.py"):
        assert f'"{script.name}"' in here, f"nothing runs {script.name}"
