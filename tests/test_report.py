"""Reports: what is written, that it is right, escaped, and needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from factory import write_media
from PIL import Image
from report_samples import (
    EVIL,
    ambiguous,
    cuts,
    drifting,
    everything,
    fine,
    late,
    leads,
)
from typer.testing import CliRunner

from avsync.cli import app
from avsync.errors import InvalidOptionError
from avsync.report import Unread, plot, read_lines, write_batch, write_report
from avsync.report_charts import clock, curve_chart, drift_line, signed_ms, time_chart, time_span
from avsync.report_data import file_name, make_page, page_name
from avsync.report_thumbs import face_thumbnails
from avsync.result import Curve, SyncResult, Track


class Page(HTMLParser):
    """The texts and the tags of a page; void tags aside, every tag must be closed in order."""

    VOID = frozenset({"meta", "link", "br", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script") and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def words(self) -> str:
        """All that can be read, one blank between pieces."""
        return " ".join(self.texts)

    def all(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        """The attributes of every such tag that has the class."""
        return [
            a for t, a in self.tags if t == tag and css in (a.get("class") or "").split() + [""]
        ]


def page_of(result: SyncResult, tmp_path: Path) -> Page:
    file = write_report([result], tmp_path / "page.html")
    assert file == tmp_path / "page.html"
    return Page(file.read_text("utf-8"))


@pytest.mark.parametrize(
    ("result", "headline", "sentence", "meaning"),
    [
        (
            leads(),
            "Audio leads by 124 ms",
            "Audio leads by 124 ms (97 % sure), out of sync.",
            "The sound comes 124 ms before the lips. To repair, delay the audio by 124 ms "
            "(mpv --audio-delay=0.124).",
        ),
        (
            late(),
            "Audio lags by 300 ms",
            "Audio lags by 300 ms (97 % sure), out of sync.",
            "The sound comes 300 ms after the lips. To repair, advance the audio by 300 ms "
            "(mpv --audio-delay=-0.300).",
        ),
        (
            fine(),
            "In sync",
            "Audio lags by 12 ms (97 % sure), in sync.",
            "The sound comes 12 ms after the lips. That is within the tolerance ebu (+40/-60 ms).",
        ),
        (
            drifting(),
            "Audio leads by 70 ms and drifts by +6.0 ms per minute",
            "Audio leads by 70 ms and drifts by +6.0 ms per minute (97 % sure), out of sync.",
            "one delay does not repair the whole file (avsync fix --drift does).",
        ),
        (
            cuts(),
            "Audio leads by 160 ms",
            "out of sync.",
            "no single delay repairs all (avsync fix --piece",
        ),
        (
            ambiguous(),
            "Not judged: ambiguous",
            "Not judged: the evidence does not settle on one offset.",
            "no offset is claimed",
        ),
    ],
)
def test_the_verdict_in_words(
    result: SyncResult, headline: str, sentence: str, meaning: str, tmp_path: Path
) -> None:
    page = page_of(result, tmp_path)
    assert headline in page.texts
    assert sentence in page.words
    assert meaning in page.words


def test_a_page_holds_every_value(tmp_path: Path) -> None:
    page = page_of(late(), tmp_path)
    assert "the file is <cut> off after 8.0 s" in page.texts
    for text in (
        "late.mkv",
        "films/late.mkv",
        "test-model-7",
        "0.1.0",
        "−300 ms",
        "97 %",
        "+40 / −60 ms",
        "6.8 s",
        "11",
        "±600 ms",
        "Face 0",
        "0:08.0",
    ):
        assert text in page.texts, text
    assert "audio lags" in page.words
    assert "audio leads" in page.words  # the ends of the axis


def test_segments_are_listed(tmp_path: Path) -> None:
    page = page_of(cuts(), tmp_path)
    assert "0:00.0 – 1:35.5 +160 ms audio leads by 160 ms 90 % sure 0 outside" in page.words
    assert "1:35.5 – 3:23.0 −8 ms audio lags by 8 ms 90 % sure 1 inside" in page.words
    assert "3:23.0 – 5:12.2 −120 ms audio lags by 120 ms 90 % sure several outside" in page.words
    bars = page.all("rect", "seg")[:3]
    assert [bar["x"] for bar in bars] == ["0.0%", "30.57%", "64.981%"]


def test_svg_numbers_of_the_curve(tmp_path: Path) -> None:
    chart = curve_chart(leads())
    assert chart is not None
    # ±600 ms across: -60 ms is 45 %, +40 ms 53.333 %, 124.46 ms 60.372 %.
    assert (chart.band.left, chart.band.width, chart.zero) == (45.0, 8.333, 50.0)
    assert chart.best is not None
    assert chart.best[0] == 60.372
    assert [t.label for t in chart.x_ticks] == ["−600", "−400", "−200", "0", "+200", "+400", "+600"]
    assert [t.at for t in chart.x_ticks] == pytest.approx(
        [0, 16.667, 33.333, 50, 66.667, 83.333, 100]
    )
    points = [tuple(map(float, p.split())) for p in chart.line[1:].split(" L")]
    assert len(points) == 61
    assert [x for x, _ in points] == pytest.approx([1000 * i / 60 for i in range(61)], abs=0.1)
    assert min(range(61), key=lambda i: points[i][1]) == 36  # +120 ms is highest
    page = page_of(leads(), tmp_path)
    (dot,) = page.all("circle", "dot")[:1]
    assert dot["cx"] == "60.372%"
    assert page.all("path", "curve")[0]["d"] == chart.line
    assert page.all("rect", "band")[0]["x"] == "45.0%"


def test_no_offset_no_mark(tmp_path: Path) -> None:
    page = page_of(ambiguous(), tmp_path)
    assert page.all("path", "curve")
    assert not page.all("circle", "dot")
    assert not page.all("rect", "seg")


def test_the_drift_line_goes_through_the_offset_in_the_middle(tmp_path: Path) -> None:
    assert drift_line(drifting()) == (0.0, -20.0, 1800.0, 160.0)
    assert drift_line(leads()) is None
    chart = time_chart(drifting())
    assert chart.drift is not None
    left, start, right, end = chart.drift
    assert (left, right) == (0.0, 100.0)
    assert (start + end) / 2 == pytest.approx(chart.bars[0].top, abs=0.02)
    assert start > end  # later means earlier sound: upwards
    assert page_of(drifting(), tmp_path).all("line", "drift")


def test_faces_that_speak_come_first_and_none_overlap() -> None:
    lanes = [[track.id for _, track in lane.bars] for lane in time_chart(cuts()).lanes]
    assert lanes == [[0, 2, 3], [1, 4]]


def test_the_timeline_starts_where_the_clock_does() -> None:
    assert time_span(leads()) == (0.0, 8.0)
    assert time_span(leads(), 1.4) == (0.0, 8.0)  # a track starts before
    late_clock = leads().model_copy(
        update={
            "segments": (),
            "tracks": (Track(id=0, start_s=90_000, end_s=90_005, face_px=40, box=(0, 0, 40, 40)),),
        }
    )
    assert time_span(late_clock) == (90_000.0, 90_008.0)


@pytest.mark.parametrize(
    ("ms", "text"),
    [(124.46, "+124 ms"), (-0.4, "0 ms"), (-79.5, "−80 ms"), (0.5, "+1 ms"), (0, "0 ms")],
)
def test_signed_ms(ms: float, text: str) -> None:
    assert signed_ms(ms) == text


@pytest.mark.parametrize(
    ("seconds", "digits", "text"),
    [(0, 1, "0:00.0"), (59.96, 1, "1:00.0"), (3661, 0, "1:01:01"), (-2, 1, "−0:02.0")],
)
def test_clock(seconds: float, digits: int, text: str) -> None:
    assert clock(seconds, digits) == text


def test_a_flat_curve_and_a_tiny_file_can_be_drawn(tmp_path: Path) -> None:
    flat = Curve(shift_ms=(-40.0, 0.0, 40.0), score=(0.1, 0.1, 0.1))
    result = SyncResult(path="a", status="too_short", model="m", curve=flat, duration_s=0)
    assert "Not judged: too short" in page_of(result, tmp_path).texts


def all_html(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.html"):
        yield file.read_text("utf-8")


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    write_report(everything(), tmp_path)
    pages = list(all_html(tmp_path))
    assert len(pages) == 7
    for text in pages:
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
        page = Page(text)
        for _, attributes in page.tags:
            for name in ("src", "href"):
                value = attributes.get(name)
                assert value is None or not value.startswith(("http", "/", "file:"))
        policy = next(
            a["content"]
            for a in page.all("meta")
            if a.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy is not None
        assert policy.startswith("default-src 'none'; img-src data:; ")
        assert len(text) < 60_000


def test_names_are_escaped(tmp_path: Path) -> None:
    index = write_report(everything(), tmp_path)
    for text in all_html(tmp_path):
        assert "<img src=x" not in text
        assert "<cut>" not in text
        assert "49.mp4" not in text
    page = Page(index.read_text("utf-8"))
    assert file_name(EVIL) in page.texts
    assert not [a for _, a in page.tags if "onerror" in a]


def test_the_index(tmp_path: Path) -> None:
    index = write_report(iter(everything()), tmp_path / "new" / "folder")
    assert index == tmp_path / "new" / "folder" / "index.html"
    text = index.read_text("utf-8")
    page = Page(text)
    assert "7 files: 5 judged, 4 of them out of sync" in page.texts
    rows = [a for a in page.all("tr") if "data-status" in a]
    assert [r["data-status"] for r in rows] == [
        "out_of_sync", "out_of_sync", "in_sync", "drift", "out_of_sync", "ambiguous", "error",
    ]  # fmt: skip
    assert [r["data-offset"] for r in rows] == [
        "124.46",
        "-300.0",
        "-12.3",
        "70.0",
        "160.0",
        "",
        "",
    ]
    assert "audio lags by 300 ms" in page.texts
    assert "no media" in page.texts
    links = [str(a["href"]) for a in page.all("a")]
    assert len(links) == 6
    for link in links:
        single = Page((index.parent / link).read_text("utf-8"))
        assert single.all("a")[0]["href"] == "../index.html"
    script = text.split("<script>")[1].split("</script>")[0]
    assert "aria-sort" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert any(
        f"script-src 'sha256-{digest}';" in (a.get("content") or "") for a in page.all("meta")
    )
    assert [a["data-key"] for a in page.all("th")] == [
        "name", "status", "offset", "sure", "drift", "duration",
    ]  # fmt: skip
    assert not list(tmp_path.rglob("*.part"))


def test_an_index_by_name_has_its_pages_beside_it(tmp_path: Path) -> None:
    index = write_report([leads(), late()], tmp_path / "out put.html")
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.html")}
    assert names == {
        "out put.html",
        f"out put_files/{page_name('films/early.mp4')}",
        f"out put_files/{page_name('films/late.mkv')}",
    }
    links = [a["href"] for a in Page(index.read_text("utf-8")).all("a")]
    assert links[0] == f"out%20put_files/{page_name('films/early.mp4')}"


def test_equal_names_and_equal_paths_get_pages_of_their_own(tmp_path: Path) -> None:
    same = [leads("a/x.mp4"), leads("b/x.mp4"), leads("a/x.mp4")]
    index = write_report(same, tmp_path)
    links = [str(a["href"]) for a in Page(index.read_text("utf-8")).all("a")]
    assert len(set(links)) == 3
    assert all((tmp_path / link).is_file() for link in links)


def test_none_and_only_unread(tmp_path: Path) -> None:
    assert "0 files" in Page(write_report([], tmp_path / "a").read_text("utf-8")).texts
    only = write_report([Unread("x.avi", "x.avi: no media")], tmp_path / "b.html")
    assert "no media" in Page(only.read_text("utf-8")).texts


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        write_report([leads()], tmp_path / "file" / "page.html")
    (tmp_path / "old.png").mkdir()
    with pytest.raises(InvalidOptionError, match="cannot be written"):
        plot(leads(), tmp_path / "old.png")
    assert not list(tmp_path.rglob("*.part"))


def test_an_old_page_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_report([leads()], tmp_path / "page.html")
    before = file.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InvalidOptionError, match="No space left"):
        write_report([late()], file)
    assert file.read_bytes() == before


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_media(path)
    return path


def test_faces_and_facts_come_from_the_file(film: Path, tmp_path: Path) -> None:
    span = {"start_s": 0.0, "end_s": 3.0}
    track = Track(id=4, **span, face_px=40, box=(20, 10, 60, 60), speaking=0.9)
    result = leads(str(film)).model_copy(
        update={"tracks": (track,), "segments": (), "duration_s": 3.2}
    )
    pictures = face_thumbnails(film, [track])
    assert [p.time_s for p in pictures[4]] == pytest.approx([0.51, 1.5, 2.49])
    text = write_report([result], tmp_path / "a.html").read_text("utf-8")
    page = Page(text)
    (face,) = page.all("img")
    assert face["alt"] == "Face 4 at 0:01.5"
    data = base64.b64decode(str(face["src"]).removeprefix("data:image/jpeg;base64,"))
    assert data[:2] == b"\xff\xd8"
    assert len(page.all("image")) == 3
    assert "h264, 96 × 64, 25 fps, from 0:00.000" in page.texts
    without = write_report([result], tmp_path / "b.html", thumbnails=False).read_text("utf-8")
    assert "data:image" not in without


def test_at_most_so_many_pictures(film: Path) -> None:
    tracks = [
        Track(id=i, start_s=0, end_s=3, face_px=40, box=(20, 10, 60, 60), speaking=i / 10)
        for i in range(4)
    ]
    assert set(face_thumbnails(film, tracks, most=2)) == {3, 2}
    assert face_thumbnails(film, tracks, seconds=-1) == {}


def test_no_file_or_no_video_no_pictures(tmp_path: Path) -> None:
    track = leads().tracks
    assert face_thumbnails("gone.mp4", track) == {}
    (tmp_path / "text.mp4").write_text("no media")
    assert face_thumbnails(tmp_path / "text.mp4", track) == {}
    facts = dict(make_page(leads(str(tmp_path / "text.mp4"))).facts)
    assert facts["Size"] == "8 B"
    assert "Container" not in facts
    assert dict(make_page(leads("gone.mp4")).facts)["File"].startswith("not here")


@pytest.mark.parametrize("suffix", ["png", "SVG", "pdf"])
def test_plot(suffix: str, tmp_path: Path) -> None:
    file = plot(drifting("a $x^ b.mp4"), tmp_path / f"plot.{suffix}")
    head = {"png": b"\x89PNG", "SVG": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert file.read_bytes().startswith(head)
    if suffix == "png":
        with Image.open(file) as image:
            assert image.size == (1200, 840)


def test_plot_of_what_was_not_judged_and_of_another_ending(tmp_path: Path) -> None:
    bare = SyncResult(path="a.mp4", status="no_face", model="m")
    assert plot(bare, tmp_path / "bare.png").stat().st_size > 5_000
    with pytest.raises(InvalidOptionError, match=r"must end in \.png, \.svg or \.pdf"):
        plot(bare, tmp_path / "bare.bmp")


def test_lines_are_read(tmp_path: Path) -> None:
    bad: dict[str, Any] = {"path": "bad.avi", "status": "error", "error": "no media", "model": None}
    batch_line = {**json.loads(late().model_dump_json()), "elapsed_s": 1.5, "source": {"size": 3}}
    lines = [
        leads().model_dump_json() + "\n",
        json.dumps(bad) + "\n",
        "\n",
        json.dumps(batch_line) + "\n",
        fine("films/early.mp4").model_dump_json() + "\n",
        '{"path": "half',
    ]
    found = read_lines(lines)
    assert [r.path for r in found] == ["films/early.mp4", "bad.avi", "films/late.mkv"]
    assert found == [fine("films/early.mp4"), Unread("bad.avi", "no media"), late()]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(lines), "utf-8")
    index = write_batch(file, tmp_path / "report")
    assert "3 files: 2 judged, 1 of them out of sync" in Page(index.read_text("utf-8")).texts


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("nonsense\n", "in.jsonl, line 2: not a JSON line"),
        ("[]\n", "in.jsonl, line 2: not a result: no path"),
        ('{"path": "a", "status": "odd", "model": "m"}\n', "line 2: not a result: status: Input"),
        ('{"path": "a", "status": "in_sync", "model": "m"}\n', "needs offset_ms and probability"),
    ],
)
def test_lines_that_are_no_results(line: str, fault: str) -> None:
    with pytest.raises(InvalidOptionError, match=re.escape(fault)):
        read_lines(["\n", line], "in.jsonl")


def test_the_report_command(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(leads().model_dump_json() + "\n" + late().model_dump_json() + "\n", "utf-8")
    runner = CliRunner()
    done = runner.invoke(app, ["report", str(file), "-o", str(tmp_path / "out"), "--no-thumbnails"])
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'out' / 'index.html'}\n")
    done = runner.invoke(
        app, ["report", "-", "-o", str(tmp_path / "one.html")], input=leads().model_dump_json()
    )
    assert done.exit_code == 0
    assert "Audio leads by 124 ms" in (tmp_path / "one.html").read_text("utf-8")
    done = runner.invoke(app, ["report", str(tmp_path / "gone"), "-o", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "gone: cannot be read (No such file or directory)" in done.stderr


class FakeDetector:
    """Finds every file early, apart from those named bad."""

    def __init__(self, **options: Any) -> None: ...

    def score(self, path: str, **options: Any) -> SyncResult:
        if "bad" in path:
            raise InvalidOptionError("bad")
        return leads(path)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avsync.detector.SyncDetector", FakeDetector)


@pytest.mark.usefixtures("fake")
def test_score_writes_report_and_plot(tmp_path: Path) -> None:
    page, picture = tmp_path / "a.html", tmp_path / "a.png"
    done = CliRunner().invoke(
        app, ["score", "--json", "x.mp4", "--report", str(page), "--plot", str(picture)]
    )
    assert done.exit_code == 0
    assert json.loads(done.stdout)["offset_ms"] == 124.46
    assert done.stderr.splitlines() == [f"avsync: report: {page}", f"avsync: plot: {picture}"]
    assert "Audio leads by 124 ms" in page.read_text("utf-8")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("fake")
def test_score_of_several_writes_an_index_with_those_that_failed(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["score", "x.mp4", "bad.mp4", "--report", str(tmp_path)])
    assert done.exit_code == 2
    page = Page((tmp_path / "index.html").read_text("utf-8"))
    rows = [(a["data-name"], a["data-status"]) for a in page.all("tr") if "data-name" in a]
    assert rows == [("x.mp4", "out_of_sync"), ("bad.mp4", "error")]


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["x.mp4", "y.mp4", "--plot", "a.png"], "--plot takes one file, not 2"),
        (["x.mp4", "--plot", "a.bmp"], "a plot's name must end in"),
    ],
)
def test_a_plot_that_cannot_be_is_refused_before_the_work(arguments: list[str], fault: str) -> None:
    done = CliRunner().invoke(app, ["score", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert fault in done.stderr
