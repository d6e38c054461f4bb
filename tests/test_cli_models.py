"""avsync export, evaluate and lse: what they print where, and their exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from factory import write_media
from tiny_model import TINY
from typer.testing import CliRunner, Result

import avsync.metrics
from avsync.cli import app
from avsync.errors import MediaReadError
from avsync.metrics import LipSyncError, TrackLipSyncError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160"})


class TestExport:
    def test_without_torch_the_extra_is_named(self, monkeypatch: Any, tmp_path: Path) -> None:
        for name in [n for n in sys.modules if n.partition(".")[0] == "torch"]:
            monkeypatch.delitem(sys.modules, name)
        for name in [n for n in sys.modules if n.startswith("avsync.training.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "torch", None)
        done = run("export", "--arch", "syncnet", "--checkpoint", "a.pt", "-o", str(tmp_path))
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == "avsync: exporting needs torch: pip install 'avsync[train]'\n"

    def test_unknown_architecture(self) -> None:
        assert run("export", "--arch", "x", "--checkpoint", "a.pt", "-o", "d").exit_code == 2

    def test_checkpoint_that_is_none(self, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        (tmp_path / "a.pt").write_text("no weights")
        for name, words in (("a.pt", "not a torch checkpoint"), ("b.pt", "no such checkpoint")):
            done = run(
                *("export", "--arch", "syncnet", "-o", str(tmp_path / "out")),
                *("--checkpoint", str(tmp_path / name)),
            )
            assert (done.exit_code, done.stdout) == (2, "")
            assert words in done.stderr
            assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


class FakeMeter:
    """Answers by the file's name."""

    name = "syncnet-fake"

    def __init__(self, model: str | None, **options: Any) -> None:
        self.options = options

    def measure(self, path: str, **_: Any) -> LipSyncError:
        if "text" in path:
            raise MediaReadError("not media, or damaged beyond reading")
        if "still" in path:
            return LipSyncError(path=path, model=self.name, status="no_face", reason="no face")
        faces = [
            TrackLipSyncError(
                id=i,
                start_s=0,
                end_s=4,
                lse_d=6.5 + i,
                lse_c=8,
                offset_frames=-2,
                offset_ms=-80,
                windows=95,
            )
            for i in range(2)
        ]
        values = {"lse_d": 7.0, "lse_c": 8.0, "offset_frames": -2, "offset_ms": -80.0}
        return LipSyncError(path=path, model=self.name, tracks=tuple(faces), **values)


class TestLse:
    def test_without_weights(self) -> None:
        done = run("lse", "a.mp4")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "need SyncNet's weights" in done.stderr
        assert done.stderr.count("\n") == 1

    def test_another_model(self) -> None:
        done = run("lse", "a.mp4", "--model", str(TINY))
        assert done.exit_code == 2
        assert "only what SyncNet's weights give" in done.stderr

    def test_words_and_codes(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(avsync.metrics, "LipSyncMeter", FakeMeter)
        done = run("lse", "good.mp4")
        assert done.exit_code == 0
        assert done.stdout.splitlines() == [
            "good.mp4: LSE-D 7.000, LSE-C 8.000, audio lags by 80 ms",
            "  face 0, 0.0 to 4.0 s: LSE-D 6.500, LSE-C 8.000, audio lags by 80 ms",
            "  face 1, 0.0 to 4.0 s: LSE-D 7.500, LSE-C 8.000, audio lags by 80 ms",
        ]
        done = run("lse", "good.mp4", "still.mp4")
        assert done.exit_code == 3
        assert "still.mp4: not measured: no face" in done.stdout
        done = run("lse", "text.mp4", "good.mp4", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.exit_code == 4
        assert [(x["path"], x["status"], x["lse_d"]) for x in lines] == [
            ("text.mp4", "error", None),
            ("good.mp4", None, 7.0),
        ]
        assert set(lines[0]) == {*lines[1], "error"}
        assert done.stderr == "avsync: text.mp4: not media, or damaged beyond reading\n"


class TestEvaluate:
    def test_no_clips(self, tmp_path: Path) -> None:
        done = run("evaluate", "--data", str(tmp_path), "--model", str(TINY))
        assert (done.exit_code, done.stdout) == (2, "")
        assert "no clips there" in done.stderr

    def test_nothing_in_the_clips(self, tmp_path: Path) -> None:
        write_media(tmp_path / "a.mp4")
        done = run("evaluate", "--data", str(tmp_path), "--model", str(TINY))
        assert done.exit_code == 2
        assert "none of 1 clips could be scored" in done.stderr

    @pytest.mark.corpus
    def test_table_and_json(self, corpus: Path) -> None:
        common = ("evaluate", "--protocol", "lrs2", "--data", str(corpus), "--model", str(TINY))
        done = run(*common, "--limit", "1")
        assert done.exit_code == 0
        rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines() if line}
        assert rows["SyncNet"][-6:] == ["75.8", "82.3", "87.6", "91.8", "94.5", "96.1"]
        assert "1 clips," in done.stdout
        assert "which see 5 frames only" in done.stdout
        done = run(*common, "--limit", "1", "--json")
        line = json.loads(done.stdout)
        assert (line["protocol"], line["clips"], line["model"]) == ("lrs2", 1, "tiny")
        assert float(rows["tiny"][-6]) == pytest.approx(100 * line["accuracy"]["5"], abs=0.01)
