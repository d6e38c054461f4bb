"""Reports on generated clips: what counts, what is counted, and the tables."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_samples import curve
from typer.testing import CliRunner

import avsync.metrics
from avsync import batch_work
from avsync.cli import app
from avsync.errors import InvalidOptionError, MediaReadError
from avsync.metrics import LipSyncError, SyncReport, sync_report, sync_table
from avsync.result import SyncResult


class FakeDetector:
    """``OFFSET.mp4`` has that offset; ``weak`` is ambiguous with its peak at 0, ``blind`` has no
    face, ``text`` is no media. Peaks rise from 0.2 to 0.5."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def score(self, path: str | Path, *, audio_stream: int | None = None) -> SyncResult:
        name = Path(path).stem
        common: dict[str, Any] = {"path": str(path), "model": "fake-1", "duration_s": 8}
        if name == "text":
            raise MediaReadError(f"{path}: not media")
        if name == "blind":
            return SyncResult(status="no_face", **common)
        if name == "weak":
            return SyncResult(status="ambiguous", curve=curve(0), **common)
        offset = float(name)
        status = "in_sync" if -60 <= offset <= 40 else "out_of_sync"
        found = {"offset_ms": offset, "probability": 0.9, "windows": 9, "curve": curve(offset)}
        return SyncResult(status=status, **common, **found)


class FakeMeter:
    name = "syncnet-fake"

    def __init__(self, weights: Path, **options: Any) -> None:
        self.weights = weights

    def measure(self, path: str) -> LipSyncError:
        if Path(path).stem == "weak":
            return LipSyncError(path=path, model=self.name, status="too_short", reason="short")
        lse_d = 7.0 if Path(path).stem == "0" else 9.0
        return LipSyncError(path=path, model=self.name, lse_d=lse_d, lse_c=lse_d - 4)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_work, "DETECTOR", "test_sync_report:FakeDetector")
    monkeypatch.setattr(avsync.metrics, "LipSyncMeter", FakeMeter)


def clips(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.mp4").write_bytes(b"x")
    return folder


@pytest.fixture
def report(tmp_path: Path) -> SyncReport:
    return sync_report(clips(tmp_path / "ours", "0", "-400", "30", "weak", "blind", "text"))


class TestReport:
    def test_every_clip_counts(self, report: SyncReport) -> None:
        assert report.name == "ours"
        assert report.model == "fake-1"
        assert [Path(c.path).stem for c in report.clips] == sorted(
            ["0", "-400", "30", "weak", "blind", "text"]
        )
        assert report.coverage == pytest.approx(3 / 6)
        assert report.in_sync == pytest.approx(2 / 6)
        assert report.not_judged == {"ambiguous": 1, "no_face": 1, "error": 1}
        assert report.mean_abs_offset_ms == pytest.approx((0 + 400 + 30) / 3, abs=1e-3)
        assert report.lse_d is None

    def test_a_clip_that_is_fine_but_late_scores_badly(self, report: SyncReport) -> None:
        by_name = {Path(c.path).stem: c for c in report.clips}
        assert by_name["0"].score_at_zero == pytest.approx(0.5, abs=1e-4)
        assert by_name["-400"].score_at_zero == pytest.approx(0.2, abs=1e-4)
        # far shifts begin at 80 ms, where a peak at 0 still rises by 0.3 exp(-2.56)
        assert by_name["0"].margin_at_zero == pytest.approx(0.3 - 0.3 * 0.0773, abs=1e-4)
        assert by_name["-400"].margin_at_zero == pytest.approx(-0.3, abs=1e-4)
        assert 0.09 < by_name["30"].margin_at_zero < by_name["0"].margin_at_zero

    def test_scores_are_there_without_an_offset(self, report: SyncReport) -> None:
        by_name = {Path(c.path).stem: c for c in report.clips}
        assert by_name["weak"].offset_ms is None
        assert by_name["weak"].score_at_zero == pytest.approx(0.5, abs=1e-4)
        assert "settle" in str(by_name["weak"].reason)
        assert by_name["blind"].score_at_zero is None
        assert "not media" in str(by_name["text"].reason)
        mean = [c.score_at_zero for c in report.clips if c.score_at_zero is not None]
        assert report.score_at_zero == pytest.approx(sum(mean) / 4, abs=1e-4)

    def test_lse_comes_with_weights(self, tmp_path: Path) -> None:
        folder = clips(tmp_path / "set", "0", "30", "weak", "text")
        report = sync_report(folder, weights="syncnet")
        assert report.lse_model == "syncnet-fake"
        assert report.lse_d == pytest.approx(8.0)
        assert report.lse_c == pytest.approx(4.0)
        assert [c.lse_d for c in report.clips] == [7.0, 9.0, None, None]

    def test_lists_and_names(self, tmp_path: Path) -> None:
        folder = clips(tmp_path / "set", "0", "30", "-400")
        shares: list[float] = []
        report = sync_report(
            [folder / "0.mp4", folder / "30.mp4"], name="two", progress=shares.append
        )
        assert (report.name, len(report.clips), shares) == ("two", 2, [0.5, 1.0])
        with pytest.raises(InvalidOptionError, match="no video files"):
            sync_report(clips(tmp_path / "none"))


class TestTables:
    def test_csv_is_read_back(self, report: SyncReport) -> None:
        (row,) = csv.DictReader(io.StringIO(sync_table([report], "csv")))
        assert row["set"] == "ours"
        assert float(row["in_sync"]) == pytest.approx(1 / 3, abs=1e-4)
        assert row["lse_d"] == ""
        rows = list(csv.DictReader(io.StringIO(report.clips_csv())))
        assert [r["status"] for r in rows if r["path"].endswith("blind.mp4")] == ["no_face"]

    def test_json_holds_every_clip(self, report: SyncReport) -> None:
        (held,) = json.loads(sync_table([report], "json"))
        assert held["summary"]["clips"] == 6
        assert SyncReport.model_validate(held["report"]) == report

    def test_markdown(self, report: SyncReport) -> None:
        table = sync_table([report, report.model_copy(update={"name": "a|b"})])
        head, line, first, second, _, note = table.splitlines()
        assert head.startswith("| set | clips | judged % | mean abs. offset ms ↓ | in sync % ↑ |")
        assert "LSE-D" not in head
        assert line.count("|") == head.count("|") == first.count("|")
        assert first.startswith("| ours | 6 | 50.0 | 143.3 | 33.3 | ")
        assert second.startswith(r"| a\|b | 6 |")
        assert "ebu (+40/-60 ms)" in note
        assert "ours: not judged: 1 ambiguous, 1 error, 1 no_face" in note

    def test_latex(self, report: SyncReport) -> None:
        named = report.model_copy(update={"name": "50%_a&b"})
        table = sync_table([named], "latex")
        body = [line for line in table.splitlines() if not line.startswith("%")]
        assert body[0] == r"\begin{tabular}{lrrrrrr}"
        assert r"judged \% & mean abs. offset ms $\downarrow$ & in sync \% $\uparrow$" in body[2]
        assert body[4].startswith(r"50\%\_a\&b & 6 & 50.0 & 143.3 & 33.3 &")
        assert all(line.count("&") - line.count(r"\&") == 6 for line in (body[2], body[4]))
        assert body[-1] == r"\end{tabular}"

    def test_nothing_is_a_dash(self, tmp_path: Path) -> None:
        one = sync_report(clips(tmp_path / "a", "0"))
        none = sync_report(clips(tmp_path / "b", "blind"))
        assert "| b | 1 | 0.0 | – | 0.0 | – | – |" in sync_table([one, none])

    def test_other_forms_are_refused(self, report: SyncReport) -> None:
        with pytest.raises(InvalidOptionError, match="unknown: markdown"):
            sync_table([report], "html")  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="no reports"):
            sync_table([])


class TestCommand:
    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(app, ["evaluate-generated", *map(str, arguments)])

    def test_a_row_a_folder(self, tmp_path: Path) -> None:
        one, other = clips(tmp_path / "one", "0"), clips(tmp_path / "two", "-400", "weak")
        done = self.run(one, other)
        assert (done.exit_code, done.stderr) == (0, "")
        rows = [line for line in done.stdout.splitlines() if re.match(r"\| (one|two) ", line)]
        assert [r.split(" | ")[2] for r in rows] == ["100.0", "50.0"]

    @pytest.mark.parametrize(
        ("name", "start"), [("t.tex", "% avsync"), ("t.csv", "set,"), ("t.md", "| set")]
    )
    def test_the_ending_chooses_the_form(self, tmp_path: Path, name: str, start: str) -> None:
        out = tmp_path / "new" / name
        done = self.run(clips(tmp_path / "one", "0"), "-o", out)
        assert (done.exit_code, done.stdout) == (0, "")
        assert out.read_text("utf-8").startswith(start)

    def test_clips_of_all_sets_are_listed(self, tmp_path: Path) -> None:
        folders = [clips(tmp_path / "one", "0"), clips(tmp_path / "two", "-400")]
        done = self.run(*folders, "--format", "json", "--clips", tmp_path / "c.csv")
        assert [s["summary"]["set"] for s in json.loads(done.stdout)] == ["one", "two"]
        rows = list(csv.DictReader((tmp_path / "c.csv").open(encoding="utf-8")))
        assert [Path(r["path"]).stem for r in rows] == ["0", "-400"]

    def test_unread_clips_are_named(self, tmp_path: Path) -> None:
        done = self.run(clips(tmp_path / "one", "0", "text"))
        assert done.exit_code == 4
        assert "not read:" in done.stderr
        assert "text.mp4: not media" in done.stderr
        assert self.run(tmp_path / "none").exit_code == 2
