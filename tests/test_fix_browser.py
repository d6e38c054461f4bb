"""Repaired files in a browser: flash and click as Chromium's ``<video>`` presents them.

The ruler: the picture is looked at by seeking a paused film to just before and just after the
flash. The sound goes through Web Audio, where a worklet sees every sample; its clock is tied to
``video.currentTime``, which Chromium takes from the sound that it has given out. That tells the
click's place on the film's own time to within 2 ms (scatter of the clock), and 1.6 ms early.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, start_browser
from factory import AudioSpec, VideoSpec, write_media
from offset_clips import CASES
from web import serving

import avsync

pytestmark = needs_browser

FLASHES_S = (0.44, 1.08)
PAGE = """<!doctype html><title>film</title><video id=v playsinline></video><script>
const tap = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process(inputs) {
    const heard = inputs[0][0];
    if (heard && heard.some((x) => Math.abs(x) > 0.02))
      this.port.postMessage([currentFrame, Array.from(heard)]);
    return true;
  }
});`;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
window.look = async (source, moments) => {
  const video = document.getElementById("v");
  const loaded = new Promise((done, fail) => {
    video.oncanplaythrough = done;
    video.onerror = () => fail(new Error(video.error.message));
  });
  video.src = source;
  await loaded;
  const pen = new OffscreenCanvas(8, 8).getContext("2d", { willReadFrequently: true });
  const light = [];
  for (const moment of moments) {
    const there = new Promise((done) => { video.onseeked = done; });
    video.currentTime = moment;
    await there;
    pen.drawImage(video, 0, 0, 8, 8);
    light.push(pen.getImageData(0, 0, 8, 8).data.filter((_, k) => k % 4 == 1)[0]);
  }
  const back = new Promise((done) => { video.onseeked = done; });
  video.currentTime = 0;
  await back;
  const context = new AudioContext({ sampleRate: 48000, latencyHint: 0.001 });
  await context.audioWorklet.addModule(
    URL.createObjectURL(new Blob([tap], { type: "text/javascript" })));
  const node = new AudioWorkletNode(context, "tap");
  const loud = [], clocks = [];
  node.port.onmessage = (event) => loud.push(event.data);
  context.createMediaElementSource(video).connect(node).connect(context.destination);
  await context.resume();
  const ended = new Promise((done) => { video.onended = done; });
  await video.play();
  while (!video.ended) {
    clocks.push([context.currentTime, video.currentTime]);
    await wait(3);
  }
  await ended;
  await wait(100);
  await context.close();
  return { light, loud, clocks };
};
</script>"""
ASK = (
    "const done = arguments[2]; look(arguments[0], arguments[1]).then(done, (e) => done(String(e)))"
)


class Screen:
    """A browser, and a web server that gives it films."""

    def __init__(self, driver: Any, url: str, folder: Path) -> None:
        self.driver, self.url, self.folder = driver, url, folder

    def show(self, path: Path) -> tuple[list[float], list[float]]:
        """The instants at which a film's flashes begin, and its clicks, s.

        Where a loaded machine made picture or sound falter, the film is played again.
        """
        (self.folder / path.name).write_bytes(path.read_bytes())
        moments = [t + d for t in FLASHES_S for d in (-0.004, 0.004, 0.036, 0.044)]
        for attempt in range(4):
            self.driver.get(f"{self.url}/page.html")
            told = self.driver.execute_async_script(ASK, f"{self.url}/{path.name}", moments)
            assert isinstance(told, dict), told
            light = np.array(told["light"]).reshape(-1, 4) > 150
            if light.tolist() != [[False, True, True, False]] * 2 and attempt < 3:
                continue  # a picture came late
            assert light.tolist() == [[False, True, True, False]] * 2
            clocks = np.array(told["clocks"])
            clicks = [
                click
                for block in self._clicks(told["loud"])
                for click in self._placed(block, clocks)
            ]
            if len(clicks) == len(FLASHES_S):
                return list(FLASHES_S), clicks
        pytest.skip("the sound falters: the machine is too busy for the browser")

    @staticmethod
    def _clicks(loud: list[Any]) -> Iterator[float]:
        """Where each click has its middle (weighted by power), in seconds of the context."""
        blocks = sorted(loud)
        at = np.concatenate([start + np.arange(len(x)) for start, x in blocks])
        power = np.concatenate([x for _, x in blocks]) ** 2
        for part in np.split(np.arange(len(at)), np.flatnonzero(np.diff(at) > 9600) + 1):
            yield float((at[part] * power[part]).sum() / power[part].sum() / 48_000)

    @staticmethod
    def _placed(click: float, clocks: Any) -> Iterator[float]:
        """The click on the film's time; none when the two clocks did not run together there."""
        near = clocks[np.abs(clocks[:, 0] - click) < 0.15]
        apart = near[:, 0] - near[:, 1]
        if len(near) >= 4 and np.ptp(np.percentile(apart, [10, 90])) < 0.004:
            yield click - float(np.median(apart))


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    folder = tmp_path_factory.mktemp("www")
    (folder / "page.html").write_text(PAGE)
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    with serving(folder) as (url, _):
        yield Screen(driver, url, folder)
    driver.quit()


def film(folder: Path, name: str, offset_ms: float) -> Path:
    """A film of 1.6 s whose sound leads by ``offset_ms``."""
    ending, video, audio = CASES[name]
    assert video.rate == VideoSpec().rate
    late = AudioSpec(audio.codec, shift_s=-offset_ms / 1000)
    made = write_media(
        folder / f"{name.partition('.')[0]}.{ending}",
        video=video,
        audio=late,
        events_s=FLASHES_S,
        duration_s=1.6,
    )
    return made.path


def errors_ms(shown: tuple[list[float], list[float]]) -> list[float]:
    return [1000 * (click - flash) for flash, click in zip(*shown, strict=True)]


def test_the_ruler_shows_an_offset(screen: Screen, tmp_path: Path) -> None:
    assert errors_ms(screen.show(film(tmp_path, "aac.mp4", 120))) == pytest.approx(
        [-120] * 2, abs=5
    )


@pytest.mark.parametrize(
    ("name", "offset_ms", "way"),
    [
        ("aac.mp4", 120, "edit_list"),
        ("aac.mp4", -120, "edit_list"),
        ("mp3.mp4", 83, "edit_list"),
        ("pcm.mov", -83, "edit_list"),
        ("aac.mkv", 120, "time_stamps"),
        ("aac.mkv", -120, "encoded_anew"),
        ("opus.webm", 120, "time_stamps"),
        ("opus.webm", -120, "encoded_anew"),
    ],
)
def test_flash_and_click_meet_in_the_browser(
    name: str, offset_ms: float, way: str, screen: Screen, tmp_path: Path
) -> None:
    out = tmp_path / f"fixed.{CASES[name][0]}"
    done = avsync.fix(film(tmp_path, name, offset_ms), out, offset_ms=offset_ms)
    assert done.audio[0].method == way
    assert errors_ms(screen.show(out)) == pytest.approx([0.0] * 2, abs=5)
