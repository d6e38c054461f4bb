"""The demo: what it puts in comes out, on the bundled sample."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from avsync.cli import app
from avsync.demo import run_demo
from avsync.errors import InvalidOptionError


def test_the_command_finds_what_it_put_in(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "demo"
    done = CliRunner().invoke(app, ["demo", "-o", str(out), "--offset-ms", "-200"])
    assert (done.exit_code, done.stderr) == (0, "")
    first, found, repaired, copy, report = (line.strip() for line in done.stdout.splitlines())
    assert first == f"put in:   audio lags by 200 ms ({out / 'talk-shifted.mp4'})"
    assert found.startswith("found:    audio lags by ")
    assert abs(int(found.split()[4]) - 200) <= 40
    assert "measured again" in repaired
    assert Path(copy).is_file()
    page = Path(report.removeprefix("report:").strip())
    assert page == out / "report.html"
    assert "talk-fixed.mp4" in page.read_text("utf-8")
    assert sorted(p.name for p in out.iterdir()) == [
        "report.html",
        "report_files",
        "talk-fixed.mp4",
        "talk-shifted.mp4",
    ]


def test_offsets_that_show_nothing_are_refused(tmp_path: Path) -> None:
    for offset_ms in (0, 30, 900):
        with pytest.raises(InvalidOptionError, match="80 to 500"):
            run_demo(tmp_path / "none", offset_ms=offset_ms)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidOptionError, match="cannot be made"):
        run_demo(tmp_path / "file" / "room")
    assert not (tmp_path / "none").exists()
