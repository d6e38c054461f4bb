"""From clips to cached features: the product's own features, on one clock, stored and found again.

No test here needs torch; making the cache does not either.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from factory import AudioSpec, EventMedia, VideoSpec, write_media

from avsync.errors import MediaNotFoundError, MediaReadError
from avsync.faces import mouth_chunks
from avsync.media import iter_grid_frames
from avsync.training import data
from avsync.training.data import build_cache, extract, list_clips, load_features

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def portrait() -> Image:
    skimage = pytest.importorskip("skimage")
    file = Path(skimage.__file__).parent / "data" / "astronaut.png"
    if not file.is_file():
        pytest.skip("this scikit-image carries no portrait")
    whole = cv2.cvtColor(cv2.imread(str(file), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(whole[0:224, 112:336])


def letter(path: Path) -> Path:
    """A text file with a film's name."""
    path.write_text("This is a letter, not a film.\n" * 40)
    return path


def film(path: Path, portrait: Image, **options: float) -> EventMedia:
    """1.6 s of the portrait with clicks, at 25 frames a second."""
    video = VideoSpec(width=224, height=224, picture=lambda t, flash: portrait)
    sound = AudioSpec(codec="pcm_s16le", delay_s=options.pop("sound_delay_s", 0.0))
    return write_media(path, video=video, audio=sound, duration_s=1.6, events_s=(0.52, 1.08),
                       **options)  # type: ignore[arg-type]  # fmt: skip


class TestListClips:
    def test_without_an_index_every_video_below(self, tmp_path: Path) -> None:
        for name in ("b.mp4", "a/c.MKV", "a/d/e.webm", "notes.txt", "a/sound.wav"):
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        assert list_clips(tmp_path) == [
            {"id": "a_c", "file": "a/c.MKV"},
            {"id": "a_d_e", "file": "a/d/e.webm"},
            {"id": "b", "file": "b.mp4"},
        ]

    def test_an_index_is_taken_as_it_is(self, tmp_path: Path) -> None:
        rows = [{"id": "x", "file": "dev/x.mp4", "split": "dev"}, {"id": "y", "file": "y.mp4"}]
        (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
        (tmp_path / "other.mp4").touch()
        assert list_clips(tmp_path) == rows

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(MediaNotFoundError, match="no such folder"):
            list_clips(tmp_path / "nowhere")


class TestExtract:
    @pytest.mark.parametrize(("start_s", "sound_delay_s"), [(0.0, 0.0), (1.4, 0.13)])
    def test_crops_and_mel_are_on_one_clock(
        self, tmp_path: Path, portrait: Image, start_s: float, sound_delay_s: float
    ) -> None:
        media = film(tmp_path / "a.mkv", portrait, start_s=start_s, sound_delay_s=sound_delay_s)
        found = extract(media.path, "a")
        assert found is not None
        assert found.clip == "a"
        assert found.first == round(25 * start_s)
        assert found.crops.shape == (40, 80, 112)
        assert found.crops.dtype == np.uint8
        assert found.valid.all()
        assert found.opening.shape == (40,)
        assert found.mel.dtype == np.float16
        assert found.mel.shape[1] == 80
        # Column lead + 4 t is centred on tick first + t: where sound starts later, lead is less.
        assert found.lead == -round(100 * sound_delay_s)
        power = np.exp(found.mel.astype(np.float64)).sum(1)
        for event in media.events_s:
            column = found.lead + round(100 * event)
            near = power[column - 8 : column + 9]
            assert np.argmax(near) == pytest.approx(8, abs=1)
            assert near.max() > 20 * np.median(power)

    def test_same_features_as_inference(self, tmp_path: Path, portrait: Image) -> None:
        media = film(tmp_path / "a.mkv", portrait)
        found = extract(media.path, "a")
        assert found is not None
        chunks = list(mouth_chunks(iter_grid_frames(media.path)))
        np.testing.assert_array_equal(found.crops, np.concatenate([c.crops for c in chunks]))
        eyes = np.median(np.concatenate([c.eye_px for c in chunks]))
        assert found.eye_px == pytest.approx(float(eyes))
        assert found.eye_px == pytest.approx(62.8, rel=0.05)

    def test_no_face_is_none(self, tmp_path: Path) -> None:
        assert extract(write_media(tmp_path / "a.mp4", duration_s=0.4).path, "a") is None

    def test_no_sound_is_said(self, tmp_path: Path, portrait: Image) -> None:
        video = VideoSpec(width=224, height=224, picture=lambda t, flash: portrait)
        media = write_media(tmp_path / "a.mp4", video=video, audio=None, duration_s=0.4)
        with pytest.raises(MediaReadError, match="audio"):
            extract(media.path, "a")

    def test_not_media(self, tmp_path: Path) -> None:
        with pytest.raises(MediaReadError):
            extract(letter(tmp_path / "a.mp4"), "a")


class TestCache:
    def test_what_is_stored_is_what_was_extracted(self, tmp_path: Path, portrait: Image) -> None:
        media = film(tmp_path / "a.mkv", portrait)
        assert data._store(str(media.path), "clip", str(tmp_path / "clip.npz")) == "done"
        again, fresh = load_features(tmp_path / "clip.npz"), extract(media.path, "clip")
        assert fresh is not None
        for name in type(fresh).__slots__:
            np.testing.assert_array_equal(getattr(again, name), getattr(fresh, name))
        assert type(again.first) is int
        assert type(again.lead) is int
        assert not list(tmp_path.glob("*.part*"))

    def test_failures_are_noted_and_not_tried_again(self, tmp_path: Path) -> None:
        pytest.importorskip("tqdm")
        root, cache = tmp_path / "clips", tmp_path / "cache"
        root.mkdir()
        letter(root / "letter.mp4")
        letter(root / "other.mp4")
        assert build_cache(root, cache, jobs=1) == {
            "done": 0, "cached": 0, "no face": 0, "unreadable": 2,
        }  # fmt: skip
        assert "letter.mp4" in (cache / "letter.skip").read_text()
        (cache / "other.skip").unlink()
        (cache / "other.npz").touch()
        assert build_cache(root, cache, jobs=1)["cached"] == 2

    def test_no_face_is_noted(self, tmp_path: Path) -> None:
        media = write_media(tmp_path / "a.mp4", duration_s=0.4)
        assert data._store(str(media.path), "a", str(tmp_path / "a.npz")) == "no face"
        assert (tmp_path / "a.skip").read_text() == "no face found\n"

    def test_only_the_clips_asked_for(self, tmp_path: Path) -> None:
        pytest.importorskip("tqdm")
        root = tmp_path / "clips"
        root.mkdir()
        for name in "abc":
            letter(root / f"{name}.mp4")
        clips = [{"id": "b", "file": "b.mp4"}]
        counts = build_cache(root, tmp_path / "cache", clips=clips, jobs=1)
        assert counts["unreadable"] == 1
        assert [p.name for p in (tmp_path / "cache").iterdir()] == ["b.skip"]
