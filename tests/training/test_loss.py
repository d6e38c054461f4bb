"""SyncLoss: the shipped expert in torch, its features, and gradients that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from tiny_model import TINY  # noqa: E402

from avsync.errors import (  # noqa: E402
    AVSyncError,
    InvalidArrayError,
    InvalidOptionError,
    ModelCorruptError,
)
from avsync.loss import SyncLoss, crop_mouths, log_mel, sample_windows  # noqa: E402
from avsync.mel import log_mel as numpy_log_mel  # noqa: E402
from avsync.runtime import SyncModel  # noqa: E402
from avsync.training.onnx_graph import OnnxGraph  # noqa: E402


def mouths(frames: int, batch: int = 1, seed: int = 0, size: tuple[int, int] = (64, 96)) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, frames, 3, *size, generator=generator)


def voice(seconds: float, batch: int = 1, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, round(16_000 * seconds), generator=generator)


@pytest.fixture(scope="module")
def tiny() -> SyncLoss:
    return SyncLoss(TINY)


class TestExpert:
    @pytest.mark.parametrize("model", ["default", TINY])
    def test_graphs_give_what_onnx_runtime_gives(self, model: Any) -> None:
        pytest.importorskip("onnxruntime")
        loss = SyncLoss(model)
        runtime = SyncModel(model, provider="cpu", threads=1, eight_bit=False)
        rng = np.random.default_rng(0)
        crops = rng.integers(0, 256, (11, loss.crop_height, loss.crop_width), dtype=np.uint8)
        mel = (3 * rng.standard_normal((40, 80)) - 5).astype(np.float32)
        with torch.no_grad():
            video = loss.video(torch.from_numpy(crops).float()[None])[0].numpy()
            audio = loss.audio(torch.from_numpy(mel)[None])[0].numpy()
        assert np.abs(video - runtime.encode_video(crops)).max() <= 1e-4
        assert np.abs(audio - runtime.encode_audio(mel)).max() <= 1e-4

    def test_a_checkpoint_gives_what_its_export_gives(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime")
        from avsync.runtime import Calibration
        from avsync.training.encoder import EncoderConfig, SyncEncoder
        from avsync.training.export import export_model, save_weights

        torch.manual_seed(0)
        small = EncoderConfig(
            video_channels=(4, 6, 8, 10), audio_channels=(4, 6, 8), dim=16, local_dim=6
        )
        network = SyncEncoder(small).eval()
        save_weights(network, tmp_path / "net.pt")
        network.load_state_dict({k: v.half().to(v) for k, v in network.state_dict().items()})
        calibration = Calibration(scale=20.0, features=(), weights=(0.0,), method="none")
        export_model(network, tmp_path / "model", name="small", calibration=calibration)
        pictures, sound = mouths(9), voice(0.6)
        from_file = SyncLoss(tmp_path / "net.pt")(pictures, sound)
        from_folder = SyncLoss(tmp_path / "model")(pictures, sound)
        assert float(from_file) == pytest.approx(float(from_folder), abs=1e-3)

    def test_it_stays_frozen(self, tiny: SyncLoss) -> None:
        assert not any(m.training for m in tiny.train().modules())
        assert not any(p.requires_grad for p in tiny.parameters())

    def test_other_models_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "bad.pt").write_bytes(b"nothing")
        with pytest.raises(AVSyncError, match="not a checkpoint"):
            SyncLoss(tmp_path / "bad.pt")
        with pytest.raises(ModelCorruptError, match="not an ONNX file"):
            OnnxGraph(b"nothing", "bad.onnx")
        (tmp_path / "model.json").write_text('{"format": "avsync-published-2"}')
        with pytest.raises(InvalidOptionError, match="a published model"):
            SyncLoss(tmp_path)


class TestFeatures:
    def test_mel_is_the_products(self) -> None:
        rng = np.random.default_rng(0)
        samples = (0.1 * rng.standard_normal((2, 16_123))).astype(np.float32)
        samples[0, 4_000:9_000] *= 1e-4
        samples[0, 9_000:12_000] = 0
        got = log_mel(torch.from_numpy(samples)).numpy()
        for row, want in zip(got, map(numpy_log_mel, samples), strict=True):
            assert row.shape == want.shape
            assert np.abs(row - want).max() <= 1e-4

    @pytest.mark.parametrize(("zoom", "roll"), [(0.6, 0.0), (1.0, 0.3), (3.4, -0.5)])
    def test_crops_sample_the_picture_where_the_place_says(self, zoom: float, roll: float) -> None:
        y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
        picture = torch.stack([x, y, x + y])[None, None] / 1000
        c, s = zoom * np.cos(roll), zoom * np.sin(roll)
        # the stored crop's middle, (55.5, 39.5), lies at (210, 140)
        matrix = np.array([[c, -s, 0], [s, c, 0]])
        matrix[:, 2] = np.array([210, 140]) - matrix[:, :2] @ [55.5, 39.5]
        places = torch.tensor(matrix, dtype=torch.float32)[None, None]
        got = crop_mouths(picture, places, size=(20, 30))[0, 0].numpy() * 1000
        for row, column in [(0, 0), (19, 29), (10, 4)]:
            want = matrix @ [column + (112 - 30) / 2, row + (80 - 20) / 2, 1]
            assert got[:2, row, column] == pytest.approx(want, abs=0.02)
            assert got[2, row, column] == pytest.approx(want.sum(), abs=0.03)

    def test_windows_are_cut_with_their_sound(self) -> None:
        frames = torch.arange(40.0).view(1, 40, 1, 1, 1).repeat(2, 1, 3, 2, 2)
        samples = torch.arange(40 * 640.0)[None].repeat(2, 1)[:, :-700]  # ends early
        generator = torch.Generator().manual_seed(3)
        video, audio, start_s = sample_windows(
            frames, samples, frames=10, count=8, margin_s=0.2, generator=generator
        )
        assert video.shape == (16, 10, 3, 2, 2)
        assert audio.shape == (16, (10 + 10) * 640)
        assert start_s == -0.2
        firsts = set()
        for pictures, sound in zip(video[:, :, 0, 0, 0], audio, strict=True):
            first = int(pictures[0])
            assert pictures.tolist() == [first + i for i in range(10)]
            want = [(first + i - 5) * 640.0 for i in range(20)]
            got = sound[::640].tolist()
            assert got == [w if 0 <= w < 40 * 640 - 700 else 0.0 for w in want]
            firsts.add(first)
        assert len(firsts) > 3


class TestScores:
    def test_columns_are_shifts_of_the_sound(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(12), voice(1.0)
        now, _ = tiny.scores(pictures, sound, start_s=-0.2)
        later, _ = tiny.scores(pictures, sound, start_s=-0.16)
        # the sound came a tick later: what paired at shift s pairs two steps further
        assert torch.allclose(now[..., 4:-4], later[..., 6:-2], atol=1e-6)
        assert tiny.shifts_ms[tiny.reach + 2] == -40  # sound later = audio lags = negative

    def test_a_start_between_ticks_counts(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(12), voice(1.0)
        lead = torch.nn.functional.pad(sound, (300, 0))
        one, _ = tiny.scores(pictures, lead, start_s=-0.2)
        other, _ = tiny.scores(pictures, sound, start_s=-0.2 + 300 / 16_000)
        assert torch.allclose(one, other, atol=1e-6)

    def test_scores_are_products_of_the_tokens(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(8, 2), voice(0.5, 2)
        grid, known = tiny.scores(pictures, sound)
        crops = 255 * (pictures * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2)
        mel = log_mel(sound)[:, :48]
        for clip in range(2):
            video = tiny.video(crops[clip : clip + 1])[0]
            audio = tiny.audio(mel[clip : clip + 1])[0]
            for token in range(4):  # token j rests on frames j ... j + 4, its middle is j + 2
                at_zero = grid[clip, token, tiny.reach]
                assert float(at_zero) == pytest.approx(
                    float(video[token] @ audio[token + 2]), abs=1e-5
                )
        # the first token is at step 4; the sound has the steps 0 to 23
        steps = range(4 - tiny.reach, 4 + tiny.reach + 1)
        assert known[0].tolist() == [0 <= step < 24 for step in steps]

    def test_mels_may_be_given(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(9), voice(0.8)
        by_wave = tiny(pictures, sound, start_s=-0.2)
        assert float(tiny(pictures, log_mel(sound), start_s=-0.2)) == pytest.approx(float(by_wave))


class TestLoss:
    def test_the_contrast_is_a_cross_entropy_over_far_shifts(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(20), voice(1.6)
        grid, known = tiny.scores(pictures, sound, start_s=-0.4)
        assert bool(known.all())
        apart = tiny.shifts_ms.abs()
        asked = ((apart == 0) | (apart > 40)).numpy()
        rows = grid[0].unfold(0, 15, 1).mean(-1).numpy() * tiny.scale
        want = [np.log(np.exp(r[asked]).sum()) - r[tiny.reach] for r in rows]
        assert float(tiny(pictures, sound, start_s=-0.4)) == pytest.approx(np.mean(want), rel=1e-5)

    def test_the_plain_one_is_one_minus_cosine(self) -> None:
        plain = SyncLoss(TINY, contrast_ms=None, window=4)
        pictures, sound = mouths(14), voice(0.7)
        grid, _ = plain.scores(pictures, sound)
        assert grid.shape == (1, 10, 1)
        want = 1 - grid[0, :, 0].unfold(0, 4, 1).mean()
        assert float(plain(pictures, sound)) == pytest.approx(float(want))

    def test_reductions_and_batches(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(9, 3), voice(0.8, 3)
        each = SyncLoss(TINY, reduction="none")(pictures, sound, start_s=-0.2)
        alone = [float(tiny(pictures[i : i + 1], sound[i : i + 1], start_s=-0.2)) for i in range(3)]
        assert each.tolist() == pytest.approx(alone, rel=1e-5)
        assert float(tiny(pictures, sound, start_s=-0.2)) == pytest.approx(np.mean(alone))
        summed = SyncLoss(TINY, reduction="sum")(pictures, sound, start_s=-0.2)
        assert float(summed) == pytest.approx(np.sum(alone))

    def test_stored_crops_and_grey_ones_are_taken(self, tiny: SyncLoss) -> None:
        stored, sound = mouths(9, size=(80, 112)), voice(0.5)
        middle = stored[..., 8:-8, 8:-8]
        grey = (middle * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True)
        want = float(tiny(middle, sound))
        assert float(tiny(stored, sound)) == pytest.approx(want, rel=1e-5)
        assert float(tiny(grey, sound)) == pytest.approx(want, rel=1e-4)

    @pytest.mark.parametrize(
        ("pictures", "sound", "words"),
        [
            (mouths(4), voice(0.5), "at least 5"),
            (mouths(9, size=(50, 60)), voice(0.5), "crop_mouths"),
            (255 * mouths(9), voice(0.5), "not in 0..255"),
            (mouths(9)[0], voice(0.5), r"\(B, T, 3, H, W\)"),
            (mouths(9), voice(0.5)[0], "waveform"),
            (mouths(9, 2), voice(0.5), "2 clips of pictures, 1 of sound"),
        ],
    )
    def test_wrong_inputs_are_told(
        self, tiny: SyncLoss, pictures: Any, sound: Any, words: str
    ) -> None:
        with pytest.raises(InvalidArrayError, match=words):
            tiny(pictures, sound)

    def test_sound_beside_the_pictures_is_told(self, tiny: SyncLoss) -> None:
        with pytest.raises(InvalidArrayError, match="does not cover the pictures"):
            tiny(mouths(9), voice(0.5), start_s=3.0)

    @pytest.mark.parametrize("options", [{"reduction": "max"}, {"window": 0}, {"contrast_ms": 40}])
    def test_wrong_options_are_told(self, options: Any) -> None:
        with pytest.raises(InvalidOptionError):
            SyncLoss(TINY, **options)


class TestGradient:
    @pytest.mark.parametrize("contrast_ms", [400.0, None])
    @pytest.mark.parametrize("model", ["default", TINY])
    def test_finite_differences(self, model: Any, contrast_ms: float | None) -> None:
        loss = SyncLoss(model, contrast_ms=contrast_ms).double()
        pictures = mouths(6).double().requires_grad_()
        sound = voice(0.8)
        (gradient,) = torch.autograd.grad(loss(pictures, sound, start_s=-0.2), pictures)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for _ in range(3):
                way = torch.randn(pictures.shape, generator=generator, dtype=torch.float64)
                step = 1e-8  # small: few of the ReLUs may turn within it
                ahead = loss(pictures + step * way, sound, start_s=-0.2)
                behind = loss(pictures - step * way, sound, start_s=-0.2)
                want = float(ahead - behind) / (2 * step)
                assert float((gradient * way).sum()) == pytest.approx(want, rel=1e-4, abs=1e-7)

    def test_it_reaches_the_whole_frame_through_the_crop(self, tiny: SyncLoss) -> None:
        frames = torch.rand(1, 7, 3, 60, 90, dtype=torch.float64).requires_grad_()
        places = torch.tensor([[0.5, 0.1, 15.0], [-0.1, 0.5, 14.0]]).expand(1, 7, 2, 3)
        loss = SyncLoss(TINY).double()
        value = loss(crop_mouths(frames, places), voice(0.5))
        (gradient,) = torch.autograd.grad(value, frames)
        way = torch.randn(frames.shape, dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (
                loss(crop_mouths(frames + s * way, places), voice(0.5)) for s in (1e-6, -1e-6)
            )
        want = float(ahead - behind) / 2e-6
        assert float((gradient * way).sum()) == pytest.approx(want, rel=1e-4)

    def test_only_pixels_get_one(self, tiny: SyncLoss) -> None:
        pictures, sound = mouths(9).requires_grad_(), voice(0.5).requires_grad_()
        tiny(pictures, sound).backward()
        assert sound.grad is None
        assert bool((pictures.grad.abs().amax((2, 3, 4)) > 0).all())
