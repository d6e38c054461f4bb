"""Reports in a real browser: sorting, filtering, phone width, dark mode, and nothing to complain.

Skipped where there is no browser (see browser.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, start_browser
from report_samples import everything, leads

from avsync.report import write_report

pytestmark = needs_browser


class Browser:
    """A page in chromium."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def look(self, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Open a file at a width (px; below 500 as a phone) in light or dark."""
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(file.as_uri())

    def ask(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def click(self, css: str) -> None:
        """Click as a person would: fails where something lies on top."""
        self.driver.find_element("css selector", css).click()

    def write(self, css: str, text: str) -> None:
        """Replace what a field holds."""
        field = self.driver.find_element("css selector", css)
        field.clear()
        field.send_keys(text)

    @property
    def names(self) -> list[str]:
        """The files of the index that are to be seen, in their order."""
        found: list[str] = self.ask(
            "[...document.querySelectorAll('tbody tr')].filter(r => r.offsetHeight)"
            ".map(r => r.dataset.name)"
        )
        return found

    @property
    def complaints(self) -> list[str]:
        """What the browser's console holds since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one of each, the last name without any place to break."""
    folder = tmp_path_factory.mktemp("report")
    results = [*everything(), leads(f"z/{'x' * 180}.mp4")]
    return write_report(results, folder)


EVIL_NAME = """<img src=x onerror=alert(1)> & "it's" {{ 7*7 }}.mp4"""
LONG_NAME = f"{'x' * 180}.mp4"


def test_the_index_sorts(browser: Browser, index: Path) -> None:
    browser.look(index)
    given = ["early.mp4", "late.mkv", "fine.mp4", "tape.ts", EVIL_NAME, "crowd.mp4", "bad.avi"]
    assert browser.names == [*given, LONG_NAME]
    browser.click("[data-key=offset] button")  # the furthest off first, either way
    assert browser.names[:2] == ["late.mkv", EVIL_NAME]
    assert set(browser.names[2:4]) == {"early.mp4", LONG_NAME}
    assert browser.names[4:6] == ["tape.ts", "fine.mp4"]
    assert set(browser.names[6:]) == {"crowd.mp4", "bad.avi"}  # without a number: last
    head = "document.querySelector('[data-key=offset]').getAttribute('aria-sort')"
    assert browser.ask(head) == "descending"
    browser.click("[data-key=offset] button")
    assert browser.names[0] == "fine.mp4"
    assert set(browser.names[6:]) == {"crowd.mp4", "bad.avi"}
    assert browser.ask(head) == "ascending"
    browser.click("[data-key=name] button")
    assert browser.ask(head) is None
    in_order = ["bad.avi", "crowd.mp4", "early.mp4", "fine.mp4", "late.mkv", "tape.ts", LONG_NAME]
    assert [name for name in browser.names if name != EVIL_NAME] == in_order
    browser.click("[data-key=duration] button")
    assert browser.names[:3] == ["tape.ts", EVIL_NAME, "crowd.mp4"]
    assert browser.complaints == []


def test_the_index_filters(browser: Browser, index: Path) -> None:
    browser.look(index)
    browser.write("#filter", "films LEADS")
    assert browser.names == ["early.mp4"]
    assert browser.ask("document.getElementById('shown').textContent") == "1 of 8 shown"
    browser.write("#filter", "nowhere")
    assert browser.names == []
    assert browser.ask("document.getElementById('none').offsetHeight") > 0
    browser.write("#filter", " ")
    browser.click("#chips [data-status=out_of_sync]")
    assert browser.names == ["early.mp4", "late.mkv", EVIL_NAME, LONG_NAME]
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.status)"
    assert browser.ask(pressed) == ["out_of_sync"]
    browser.write("#filter", "late")
    assert browser.names == ["late.mkv"]
    browser.write("#filter", " ")
    browser.click("#chips [data-status='']")
    assert len(browser.names) == 8
    assert browser.complaints == []


def test_from_the_index_to_a_file_and_back(browser: Browser, index: Path) -> None:
    browser.look(index)
    browser.click("tbody tr:nth-child(2) a")
    assert browser.ask("document.querySelector('h1').textContent") == "late.mkv"
    browser.click(".crumb a")
    assert browser.ask("location.href") == index.as_uri()
    assert browser.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_stands_out_at_the_side(browser: Browser, index: Path, width: int) -> None:
    pages = [index, *sorted((index.parent / "files").iterdir())]
    assert len(pages) == 8
    for page in pages:
        browser.look(page, width=width)
        size = browser.ask("[document.documentElement.scrollWidth, innerWidth]")
        assert size[0] <= size[1] == width, page.name
        assert browser.ask("document.images.length") == 0  # the name with <img> stayed a name
    assert browser.complaints == []


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of ``rgb(r, g, b)``."""
    parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    lin = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]


COLOURS = """(() => {
  const colour = (e, name) => getComputedStyle(e).getPropertyValue(name);
  const grounds = ["body", ".card"].map(
    (css) => colour(document.querySelector(css), "background-color"));
  const inks = ["h1", ".soft", ".badge", ".headline", ".chart text", "td"].flatMap((css) =>
    [...document.querySelectorAll(css)].map(
      (e) => [css, colour(e, css === ".chart text" ? "fill" : "color")]));
  return [grounds, inks];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(browser: Browser, index: Path, scheme: str) -> None:
    for page in [index, *sorted((index.parent / "files").iterdir())]:
        browser.look(page, scheme=scheme)
        colours, inks = browser.ask(COLOURS)
        grounds = [luminance(c) for c in colours]
        assert max(grounds) < 0.02 if scheme == "dark" else min(grounds) > 0.85
        assert len(inks) > 5
        for css, colour in inks:
            for ground in grounds:
                low, high = sorted((luminance(colour), ground))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (page.name, css)  # WCAG 2, AA
    assert browser.complaints == []


def test_the_chart_shows_its_numbers(browser: Browser, index: Path) -> None:
    page = next(p for p in (index.parent / "files").iterdir() if p.name.startswith("early"))
    for width in (390, 1280):
        browser.look(page, width=width)
        at = browser.ask(
            "(() => { const r = s => document.querySelector(s).getBoundingClientRect();"
            " const c = r('svg[aria-labelledby^=curve]'), d = r('circle.dot'), b = r('rect.band');"
            " return [c.left, document.querySelector('line.axis').getBoundingClientRect().width,"
            " d.left + d.width / 2, b.left, b.right]; })()"
        )
        left, across, dot, low, high = at

        def ms(x: float, left: float = left, across: float = across) -> float:
            return -600 + 1200 * (x - left) / across

        assert ms(dot) == pytest.approx(124.46, abs=3)
        assert (ms(low), ms(high)) == (pytest.approx(-60, abs=3), pytest.approx(40, abs=3))
        named = browser.ask("document.querySelector('#curve-d').textContent")
        assert "is at +120 ms (audio leads by 120 ms)" in named
