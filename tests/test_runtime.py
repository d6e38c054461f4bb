"""Model folders and sessions; token streams in pieces give what one whole run gives."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import CONTEXT_REACH, DIM, LOCAL_DIM, TINY, copy_tiny, write_tiny_model
from token_streams import chunk, random_crops, random_mel, stream_audio, stream_video

from avsync._paths import bundled_models_dir
from avsync.crops import CROP_HEIGHT, CROP_WIDTH
from avsync.engines import TokenEngine
from avsync.errors import (
    DependencyMissingError,
    InvalidOptionError,
    ModelCorruptError,
    ModelNotFoundError,
    ProviderUnavailableError,
)
from avsync.mel import MelStream
from avsync.runtime import SyncModel
from avsync.token_streams import VideoTokenStream

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def tiny() -> SyncModel:
    return SyncModel(TINY, provider="cpu", threads=1)


@pytest.fixture(scope="module", params=["tiny", "bundled"])
def model(request: pytest.FixtureRequest, tiny: SyncModel) -> SyncModel:
    if request.param == "tiny":
        return tiny
    if not (bundled_models_dir() / "model.json").is_file():
        pytest.skip("no bundled model here (models/model.json)")
    return SyncModel(provider="cpu", threads=1)


class TestVideoTokens:
    def test_whole_run_is_the_graph_on_the_middle_with_repeated_ends(
        self, model: SyncModel
    ) -> None:
        crops = random_crops(40)
        card = model.card
        top, left = (CROP_HEIGHT - card.crop_height) // 2, (CROP_WIDTH - card.crop_width) // 2
        inner = crops[:, top : top + card.crop_height, left : left + card.crop_width]
        padded = np.pad(inner, ((card.stack_reach,) * 2, (0, 0), (0, 0)), mode="edge")
        got = stream_video(model, crops, [])
        assert got.shape == (40, card.dim)
        np.testing.assert_allclose(got, model.encode_video(padded), atol=1e-5)

    @pytest.mark.parametrize("sizes", [[250] * 3, [1, 2, 300, 7, 256], [3] * 40 + [400]])
    def test_chunks_give_what_the_whole_gives(self, tiny: SyncModel, sizes: list[int]) -> None:
        crops = random_crops(700)
        want = stream_video(tiny, crops, [], block=10**6)
        got = stream_video(tiny, crops, sizes)
        assert got.shape == want.shape == (700, DIM)
        np.testing.assert_allclose(got, want, atol=1e-5)

    def test_chunks_with_the_bundled_model(self, model: SyncModel) -> None:
        crops = random_crops(90)
        want = stream_video(model, crops, [], block=10**6)
        got = stream_video(model, crops, [7, 30, 1], block=16)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=2e-4)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        sizes=st.lists(st.integers(1, 60), max_size=8),
        count=st.integers(1, 150),
        block=st.integers(1, 40),
    )
    def test_any_chunks_any_block(
        self, tiny: SyncModel, sizes: list[int], count: int, block: int
    ) -> None:
        crops = random_crops(count)
        want = stream_video(tiny, crops, [], block=10**6)
        got = stream_video(tiny, crops, sizes, block)
        assert got.shape == want.shape == (count, DIM)
        np.testing.assert_allclose(got, want, atol=1e-5)

    def test_a_token_belongs_to_its_own_tick(self, model: SyncModel) -> None:
        """A picture that changes at tick 20 moves the local part of tokens 18 to 22 alone."""
        crops = random_crops(60)
        other = crops.copy()
        other[20] = 255 - other[20]
        moved = np.abs(stream_video(model, crops, []) - stream_video(model, other, [])).max(1)
        local = np.abs(
            (stream_video(model, crops, []) - stream_video(model, other, []))[
                :, : model.card.local_dim
            ]
        ).max(1)
        reach = model.card.stack_reach
        assert np.flatnonzero(local > 1e-5).tolist() == list(range(20 - reach, 21 + reach))
        wide = reach + model.card.context_reach
        assert moved[: 20 - wide].max() < 1e-5
        assert moved[21 + wide :].max() < 1e-5
        assert min(moved[20 - wide], moved[20 + wide]) > 1e-7

    def test_the_tiny_models_context_is_real(self, tiny: SyncModel, tmp_path: Path) -> None:
        """With a card that denies the context, pieces do differ from the whole."""
        liar = SyncModel(copy_tiny(tmp_path / "m", context_reach=0), provider="cpu", threads=1)
        crops = random_crops(60)
        want = stream_video(liar, crops, [], block=10**6)
        np.testing.assert_allclose(want, stream_video(tiny, crops, []), atol=1e-5)
        assert np.abs(stream_video(liar, crops, [], block=16) - want).max() > 0.01

    def test_nothing_pushed_gives_nothing(self, tiny: SyncModel) -> None:
        assert VideoTokenStream(tiny).close() == []

    def test_blocks_come_early_and_memory_stays_small(self, tiny: SyncModel) -> None:
        stream = VideoTokenStream(tiny)
        done = 0
        for i in range(20):
            done += sum(map(len, stream.push(chunk(random_crops(100, i)))))
            assert len(stream._rows) <= 256 + 100 + 2 * (2 + CONTEXT_REACH)
        assert done >= 2000 - 256 - 5

    def test_tracks_that_ended_keep_their_tokens_only(self, tiny: SyncModel) -> None:
        """A film with a cut every few seconds has thousands of tracks."""
        crops = replace(chunk(random_crops(60)), last=True)
        engine = TokenEngine(tiny)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            eyes = [engine.eye(0) for _ in range(20)]
            for eye in eyes:
                eye.push(crops)
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert [len(eye.close(i).tokens) for i, eye in enumerate(eyes)] == [60] * 20
        assert kept < 20 * 120_000  # crops alone would take 20 times 370 kB


class TestAudioTokens:
    @pytest.mark.parametrize("first", [0, 1, 3, 4, 137, -1, -4, -20, -21])
    def test_first_token_is_on_the_first_whole_tick(self, tiny: SyncModel, first: int) -> None:
        mel = random_mel(100)
        began, tokens = stream_audio(tiny, mel, first, [])
        tick = int(np.ceil(first / 4))
        assert began == 2 * tick
        own = mel[4 * tick - first :]
        own = own[: len(own) // 4 * 4]
        assert tokens.shape == (len(own) // 2, DIM)
        np.testing.assert_allclose(tokens[::2], tiny.encode_audio(own), atol=1e-5)

    def test_phases_are_runs_on_delayed_columns(self, model: SyncModel) -> None:
        mel = random_mel(240)
        phases, steps, step = model.card.phases, model.card.audio_steps, 4 // model.card.phases
        _, tokens = stream_audio(model, mel, 0, [])
        assert len(tokens) == 60 * phases
        for phase in range(phases // steps):
            shifted = mel[phase * step :]
            want = model.encode_audio(shifted[: len(shifted) // 4 * 4])
            own = tokens[phase :: phases // steps]
            reach = model.card.audio_reach or 3 + model.card.context_reach
            inner = len(want) - reach * steps
            np.testing.assert_allclose(own[:inner], want[:inner], atol=2e-4)

    @pytest.mark.parametrize("phases", [1, 2, 4])
    def test_other_numbers_of_phases(self, phases: int, tmp_path: Path) -> None:
        other = SyncModel(copy_tiny(tmp_path / "m", phases=phases), provider="cpu", threads=1)
        mel = random_mel(400)
        first, tokens = stream_audio(other, mel, 6, [11, 90], block=20)
        assert first == 2 * phases
        assert len(tokens) == 398 // 4 * phases
        whole = stream_audio(other, mel, 6, [], block=10**6)[1]
        np.testing.assert_allclose(tokens, whole, atol=1e-5)
        np.testing.assert_allclose(tokens[::phases], other.encode_audio(mel[2:398]), atol=1e-5)

    @pytest.mark.parametrize("sizes", [[1000, 1000], [1, 2, 3, 1200, 5], [997] * 3])
    def test_pieces_give_what_the_whole_gives(self, tiny: SyncModel, sizes: list[int]) -> None:
        mel = random_mel(3001)
        first, want = stream_audio(tiny, mel, -7, [], block=10**6)
        again, got = stream_audio(tiny, mel, -7, sizes)
        assert again == first == -2
        assert got.shape == want.shape == (2 * (2998 // 4), DIM)
        np.testing.assert_allclose(got, want, atol=1e-5)

    def test_pieces_with_the_bundled_model(self, model: SyncModel) -> None:
        mel = random_mel(500)
        _, want = stream_audio(model, mel, 3, [], block=10**6)
        _, got = stream_audio(model, mel, 3, [41, 100, 3], block=25)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=2e-4)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        first=st.integers(-30, 30),
        sizes=st.lists(st.integers(0, 120), max_size=6),
        count=st.integers(0, 400),
        block=st.integers(1, 40),
    )
    def test_any_pieces_any_block(
        self, tiny: SyncModel, first: int, sizes: list[int], count: int, block: int
    ) -> None:
        mel = random_mel(count)
        began, want = stream_audio(tiny, mel, first, [], block=10**6)
        again, got = stream_audio(tiny, mel, first, sizes, block)
        assert again == began
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-5)

    def test_a_burst_shows_at_its_own_time(self, tiny: SyncModel) -> None:
        """Sound that starts at -0.13 s, a burst at 0.76 s: tokens around 0.76 s change."""
        silence = np.zeros(40_000, np.float32)
        burst = silence.copy()
        at = round((0.76 + 0.13) * 16_000)
        burst[at - 80 : at + 80] = np.random.default_rng(0).standard_normal(160)
        found = []
        for sound in (silence, burst):
            mels = MelStream(-0.13)
            mel = np.concatenate([mels.push(sound), mels.close()])
            first, tokens = stream_audio(tiny, mel, mels.first, [50])
            found.append(tokens[:, :LOCAL_DIM])
        change = np.abs(found[1] - found[0]).max(1)
        times = (first + np.flatnonzero(change > 1e-5)) / 50
        # 17 columns (80 ms either side) and the burst's own 2 x (5 + 16) ms.
        assert times.min() == pytest.approx(0.76 - 0.1, abs=0.021)
        assert times.max() == pytest.approx(0.76 + 0.1, abs=0.021)

    def test_too_little_sound_gives_no_token(self, tiny: SyncModel) -> None:
        assert len(stream_audio(tiny, random_mel(3), 0, [])[1]) == 0
        assert len(stream_audio(tiny, random_mel(4), 0, [])[1]) == 2
        assert len(stream_audio(tiny, random_mel(4), 1, [])[1]) == 0


class TestModelFolder:
    def test_card_of_the_tiny_model(self, tiny: SyncModel) -> None:
        card = tiny.card
        assert (card.name, card.dim, card.local_dim, card.phases) == ("tiny", DIM, LOCAL_DIM, 2)
        assert card.calibration.weights == (-4.0, 0.5, 3.0, 8.0)
        assert tiny.provider == "CPUExecutionProvider"
        assert tiny.folder == TINY

    def test_committed_model_is_what_the_helper_writes(self, tmp_path: Path) -> None:
        pytest.importorskip("onnx")
        write_tiny_model(tmp_path)
        again = SyncModel(tmp_path, provider="cpu", threads=1)
        committed = SyncModel(TINY, provider="cpu", threads=1)
        crops, mel = random_crops(30)[:, :64, :96], random_mel(120)
        np.testing.assert_allclose(
            again.encode_video(crops), committed.encode_video(crops), atol=1e-6
        )
        np.testing.assert_allclose(again.encode_audio(mel), committed.encode_audio(mel), atol=1e-6)

    def test_tokens_are_unit_vectors_in_two_halves(self, model: SyncModel) -> None:
        local = model.card.local_dim
        for tokens in (
            model.encode_video(random_crops(20)[:, :64, :96]),
            model.encode_audio(random_mel(80)),
        ):
            np.testing.assert_allclose(np.linalg.norm(tokens, axis=1), 1, atol=1e-3)
            share = np.linalg.norm(tokens[:, :local], axis=1)
            np.testing.assert_allclose(share, share[0], atol=1e-3)
            assert 0.3 < share[0] < 0.9

    def test_bundled_files_match_their_sums(self) -> None:
        folder = bundled_models_dir()
        if not (folder / "model.json").is_file():
            pytest.skip("no bundled model here (models/model.json)")
        card = json.loads((folder / "model.json").read_text("utf-8"))
        for kind in ("video", "audio"):
            data = (folder / card[kind]["file"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == card[kind]["sha256"]

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match=r"nowhere: no model\.json there"):
            SyncModel(tmp_path / "nowhere")

    def test_missing_graph(self, tmp_path: Path) -> None:
        folder = copy_tiny(tmp_path / "m")
        (folder / "audio.onnx").unlink()
        with pytest.raises(ModelNotFoundError, match=r"audio\.onnx: missing"):
            SyncModel(folder)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", '{"name": "x"}', '{"name": 3, "extra": 4}', "\udcff"]
    )
    def test_bad_description(self, text: str, tmp_path: Path) -> None:
        folder = copy_tiny(tmp_path / "m")
        (folder / "model.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ModelCorruptError, match=r"model\.json: not a model description"):
            SyncModel(folder)

    def test_unknown_format(self, tmp_path: Path) -> None:
        with pytest.raises(ModelCorruptError, match="not a model description of this version"):
            SyncModel(copy_tiny(tmp_path / "m", format="avsync-tokens-99"))

    def test_calibration_needs_a_weight_for_each_feature(self, tmp_path: Path) -> None:
        bad = {"scale": 20.0, "features": ["margin"], "weights": [1.0], "method": ""}
        with pytest.raises(ModelCorruptError, match="not a model description"):
            SyncModel(copy_tiny(tmp_path / "m", calibration=bad))

    def test_one_changed_byte_is_noticed(self, tmp_path: Path) -> None:
        folder = copy_tiny(tmp_path / "m")
        data = bytearray((folder / "video.onnx").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "video.onnx").write_bytes(data)
        with pytest.raises(ModelCorruptError, match=r"video\.onnx: does not match its SHA-256"):
            SyncModel(folder)

    def test_right_sum_of_something_that_is_no_graph(self, tmp_path: Path) -> None:
        data = b"this is no graph"
        entry = {"file": "video.onnx", "sha256": hashlib.sha256(data).hexdigest()}
        folder = copy_tiny(tmp_path / "m", video=entry)
        (folder / "video.onnx").write_bytes(data)
        with pytest.raises(ModelCorruptError, match=r"video\.onnx: ONNX Runtime cannot load it"):
            SyncModel(folder, provider="cpu")

    def test_errors_are_builtin_errors_too(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            SyncModel(tmp_path)

    @pytest.mark.parametrize("threads", [0, -2])
    def test_threads_must_be_positive(self, threads: int) -> None:
        with pytest.raises(InvalidOptionError, match=f"threads must be 1 or more, not {threads}"):
            SyncModel(TINY, threads=threads)


class TestProviders:
    def fake(self, monkeypatch: pytest.MonkeyPatch, available: list[str], got: list[str]) -> None:
        """An ONNX Runtime that offers ``available`` and whose sessions end up on ``got``."""

        def session(data: bytes, options: Any, providers: list[str]) -> Any:
            return SimpleNamespace(get_providers=lambda: [p for p in got if p in providers])

        fake = SimpleNamespace(
            get_available_providers=lambda: available,
            SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *a: None),
            InferenceSession=session,
        )
        monkeypatch.setitem(sys.modules, "onnxruntime", fake)

    CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

    @pytest.mark.parametrize(
        ("provider", "available", "chosen"),
        [
            ("auto", [CPU], CPU),
            ("auto", [CUDA, CPU], CUDA),
            ("cpu", [CUDA, CPU], CPU),
            ("cuda", [CUDA, CPU], CUDA),
        ],
    )
    def test_choice(
        self, monkeypatch: pytest.MonkeyPatch, provider: Any, available: list[str], chosen: str
    ) -> None:
        self.fake(monkeypatch, available, [self.CUDA, self.CPU])
        assert SyncModel(TINY, provider=provider).provider == chosen

    def test_unknown_name(self) -> None:
        with pytest.raises(InvalidOptionError, match="'tpu' is unknown: auto, cpu or cuda"):
            SyncModel(TINY, provider="tpu")  # type: ignore[arg-type]

    def test_cuda_wanted_but_not_built_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, [self.CPU], [self.CPU])
        with pytest.raises(ProviderUnavailableError, match=r"no CUDA execution provider.*gpu"):
            SyncModel(TINY, provider="cuda")

    def test_cuda_wanted_but_it_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, [self.CUDA, self.CPU], [self.CPU])
        with pytest.raises(ProviderUnavailableError, match="could not start CUDA"):
            SyncModel(TINY, provider="cuda")

    def test_auto_falls_back_to_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake(monkeypatch, [self.CUDA, self.CPU], [self.CPU])
        with pytest.warns(RuntimeWarning, match="could not start CUDA") as said:
            assert SyncModel(TINY, provider="auto").provider == self.CPU
        assert len(said) == 1

    def test_a_runtime_without_cuda_is_no_reason_to_warn(
        self, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        self.fake(monkeypatch, [self.CPU], [self.CPU])
        assert SyncModel(TINY, provider="auto").provider == self.CPU
        assert not recwarn.list

    @pytest.mark.parametrize("provider", ["cpu", "cuda"])
    def test_the_cpu_takes_the_8_bit_graphs(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: Any
    ) -> None:
        """They are other files here; CUDA takes the full ones."""
        shutil.copytree(TINY, tmp_path / "m")
        card = json.loads((tmp_path / "m" / "model.json").read_text())
        for kind in ("video", "audio"):
            data = f"8 bit {kind}".encode()
            (tmp_path / "m" / f"{kind}_int8.onnx").write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            card[f"{kind}_int8"] = {"file": f"{kind}_int8.onnx", "sha256": digest}
        (tmp_path / "m" / "model.json").write_text(json.dumps(card))
        self.fake(monkeypatch, [self.CUDA, self.CPU], [self.CUDA, self.CPU])
        ort: Any = sys.modules["onnxruntime"]
        plain, given = ort.InferenceSession, []
        monkeypatch.setattr(
            ort,
            "InferenceSession",
            lambda data, *a, **k: given.append(data) or plain(data, *a, **k),
        )
        SyncModel(tmp_path / "m", provider=provider)
        assert [data.startswith(b"8 bit") for data in given] == [provider == "cpu"] * 2

    def test_no_runtime_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(DependencyMissingError, match=r"pip install 'avsync\[cpu\]'"):
            SyncModel(TINY)
