"""Features of speech: Whisper's own where they see as much, and local as they are used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from factory import write_media  # noqa: E402
from smart_turn import smart_turn_file  # noqa: E402
from tiny_encoder import TINY, random_batch  # noqa: E402
from token_streams import random_mel, stream_audio  # noqa: E402

from avsync.errors import AVSyncError  # noqa: E402
from avsync.loss import SyncLoss  # noqa: E402
from avsync.mel import log_mel  # noqa: E402
from avsync.protocol import HALF  # noqa: E402
from avsync.runtime import Calibration, SyncModel  # noqa: E402
from avsync.training import speech  # noqa: E402
from avsync.training.data import ClipFeatures, save_features  # noqa: E402
from avsync.training.encoder import LOCAL_SHARE, SyncEncoder  # noqa: E402
from avsync.training.evaluate import clip_tokens, score_rows  # noqa: E402
from avsync.training.export import export_model, load_weights, save_weights  # noqa: E402
from avsync.training.fit import TrainConfig, Trainer  # noqa: E402
from avsync.training.fusion_eval import cosine_rows  # noqa: E402
from avsync.training.speech import (  # noqa: E402
    SpeechFeatures,
    load_speech,
    load_whisper,
    read_graph,
    save_speech,
)
from avsync.training.speech_distil import Original, distil, sounds_of, whisper_mel  # noqa: E402
from avsync.training.token_cache import (  # noqa: E402
    WHOLE,
    cache_tokens,
    load_tokens,
    with_context,
)

HEARING = TINY.model_copy(update={"speech_layers": 2, "dropout": 0.0})
CALIBRATION = Calibration(scale=20, features=("margin",), weights=(0.5, 2.0), method="by hand")


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return smart_turn_file(tmp_path_factory.mktemp("whisper") / "smart-turn.onnx")


@pytest.fixture(scope="module")
def encoder() -> SyncEncoder:
    """Speech weighs something, distances too, and no feature is as it began."""
    torch.manual_seed(1)
    model = SyncEncoder(HEARING)
    with torch.no_grad():
        for name, parameter in model.audio.named_parameters():
            if "distance" in name or "speech_out" in name or "position" in name:
                parameter.normal_(0, 0.5 if "distance" in name else 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def exported(encoder: SyncEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hearing")
    save_weights(encoder, folder / "checkpoint.pt")
    model = load_weights(folder / "checkpoint.pt")
    worst = export_model(model, folder, name="hearing", calibration=CALIBRATION)
    assert max(worst.values()) < 1e-4
    return folder


def test_whispers_layers_are_read_as_they_stand(
    whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "REACH", 400)  # sees all, as the original does
    model = load_whisper(whisper, 2).eval()
    with torch.no_grad():
        model.mel.weight.copy_(torch.eye(80))
        model.mel.bias.zero_()
        mel = torch.randn(1, 80, 800, generator=torch.Generator().manual_seed(0))
        session, names = read_graph(whisper)
        assert len(names) == 3
        for layers in (2, 1, 0):
            (want,) = session.run([names[layers]], {"input_features": mel.numpy()})
            got = SpeechFeatures.forward(model, mel.transpose(1, 2)).numpy()
            assert np.abs(want).max() > 0.5
            np.testing.assert_allclose(got, want, atol=2e-3)
            model.layers = model.layers[: layers - 1]


def test_other_files_are_refused(tmp_path: Path, exported: Path, whisper: Path) -> None:
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(AVSyncError, match=r"text\.onnx: no ONNX file"):
        load_whisper(tmp_path / "text.onnx")
    with pytest.raises(AVSyncError, match="not Smart Turn v3; it lies in the wheel of pipecat-ai"):
        load_whisper(exported / "video.onnx")
    with pytest.raises(AVSyncError, match="has 2 layers of Whisper, not 3"):
        Original(whisper, 3)
    with pytest.raises(AVSyncError, match="no features of speech made by 'speech'"):
        load_speech(exported / "checkpoint.pt")


def test_a_feature_depends_on_its_reach_and_on_no_place() -> None:
    torch.manual_seed(0)
    model = SpeechFeatures(2).eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.attention.distance)
    mel = torch.randn(1, 400, 80)
    with torch.no_grad():
        whole = model(mel)
        assert whole.shape == (1, 200, 384)
        edge = model.reach // 2 + 1
        inner = slice(edge, -edge)
        torch.testing.assert_close(
            model(mel[:, 60:-40])[:, inner], whole[:, 30:-20][:, inner], atol=1e-4, rtol=0
        )
        other = mel.clone()
        other[:, 200 + model.reach + 1 :] += 3
        other[:, : 200 - model.reach] -= 3
        torch.testing.assert_close(model(other)[:, 100], whole[:, 100], atol=1e-4, rtol=0)
        other[:, 200 + model.reach - 4] += 3
        assert (model(other)[:, 100] - whole[:, 100]).abs().max() > 1e-4


def test_cached_tokens_have_the_cosines_of_the_whole_encoder(
    encoder: SyncEncoder, tmp_path: Path
) -> None:
    """What the context of the sound rests on is cached beside the tokens of the trunk."""
    rng = np.random.default_rng(4)
    clip = ClipFeatures(
        clip="clip",
        first=0,
        crops=rng.integers(0, 255, (70, 80, 112), np.uint8),
        valid=np.ones(70, bool),
        opening=np.zeros(70, np.float32),
        lead=80,
        mel=random_mel(440).astype(np.float16),
        eye_px=40.0,
    )
    save_features(clip, tmp_path / "clip.npz")
    counts = cache_tokens(encoder, [tmp_path / "clip.npz"], tmp_path / "tokens", variant=WHOLE)
    assert counts["done"] == 1
    (cached,) = load_tokens(tmp_path / "tokens", ["clip"], [WHOLE])
    video, audio, lag = clip_tokens(encoder, clip, bf16=False)
    local = HEARING.local_dim
    share = np.where(np.arange(video.shape[1]) < local, LOCAL_SHARE, 1 - LOCAL_SHARE)
    want, got = score_rows(video * share, audio, lag), cosine_rows(encoder, cached)
    inner = slice(30, 40)  # far from both ends of the sound: there silence is around it
    np.testing.assert_allclose(got[inner], want[inner], atol=5e-3)
    deaf = replace(cached, around=None)
    assert np.abs(cosine_rows(encoder, deaf)[inner] - want[inner]).max() > 0.05
    with pytest.raises(AVSyncError, match="without features of speech"):
        with_context(encoder, deaf)
    wide = with_context(encoder, cached)
    assert wide.audio.shape[1] == 2 * HEARING.dim
    with torch.no_grad():
        context = torch.from_numpy(wide.audio[2::2, HEARING.dim :]).float()
        tokens = torch.nn.functional.normalize(encoder.audio.wide(context), dim=-1)
    shifted = lag - HALF
    np.testing.assert_allclose(tokens[30 - shifted : 40 - shifted], audio[30:40, local:], atol=5e-3)


def test_speech_weighs_nothing_at_first(encoder: SyncEncoder) -> None:
    torch.manual_seed(2)
    fresh, plain = SyncEncoder(HEARING).eval(), SyncEncoder(TINY).eval()
    plain.load_state_dict({k: v for k, v in fresh.state_dict().items() if "speech" not in k})
    mel = torch.from_numpy(random_mel(120))[None]
    with torch.no_grad():
        for a, b in zip(fresh.audio(mel), plain.audio(mel), strict=True):
            torch.testing.assert_close(a, b)
        local, wide = encoder.audio(mel)
        encoder.audio.speech_out.weight.mul_(-1)
        again = encoder.audio(mel)
        encoder.audio.speech_out.weight.mul_(-1)
    torch.testing.assert_close(local, again[0])  # 0.2 s of sound see no speech around it
    assert (wide - again[1]).abs().max() > 0.01


def test_both_halves_of_a_tick_in_any_pieces(encoder: SyncEncoder, exported: Path) -> None:
    model = SyncModel(exported, provider="cpu", threads=1)
    assert (model.card.phases, model.card.audio_steps) == (2, 2)
    assert model.card.audio_reach == encoder.audio_reach == 10 + 17
    mel = random_mel(4 * 150)
    with torch.no_grad():
        first = torch.cat(encoder.audio(torch.from_numpy(mel)[None]), -1)[0].numpy()
        later = torch.cat(encoder.audio(torch.from_numpy(mel[2:-2])[None]), -1)[0].numpy()
    _, tokens = stream_audio(model, mel, 0, [], block=10**6)
    width, share = HEARING.local_dim, np.array([0.25, 0.75]) ** 0.5
    for got, want in ((tokens[::2], first), (tokens[1:-2:2], later)):
        scaled = np.concatenate([want[:, :width] * share[0], want[:, width:] * share[1]], 1)
        inner = slice(30, 100)
        assert (got[inner] * scaled[inner]).sum(1).min() > 0.999  # weights are kept in 8 bit
    for sizes in ([7, 100, 31], [333]):
        _, pieces = stream_audio(model, mel, 0, sizes, block=20)
        np.testing.assert_allclose(pieces, tokens, atol=1e-5)


def test_the_loss_runs_the_graph(exported: Path) -> None:
    loss = SyncLoss(exported)
    mouths = torch.rand(2, 20, 1, 64, 96, requires_grad=True)
    mel = torch.from_numpy(np.stack([random_mel(160, i) for i in range(2)]))
    value = loss(mouths, mel)
    value.backward()
    assert mouths.grad is not None
    assert float(mouths.grad.abs().sum()) > 0
    sound, _ = loss._sound(mel, 0.0)
    own = SyncModel(exported, provider="cpu", threads=1).encode_audio(mel[1].numpy())
    np.testing.assert_allclose(sound[1].numpy(), own, atol=1e-4)


def test_kept_weights_are_8_bit_and_export_to_the_same_bytes(
    encoder: SyncEncoder, exported: Path, tmp_path: Path
) -> None:
    kept = load_weights(exported / "checkpoint.pt")
    worst = 0.0
    for (name, a), b in zip(
        encoder.named_parameters(), dict(kept.named_parameters()).values(), strict=True
    ):
        if name.startswith("audio.speech.layers") and a.dim() > 1:
            worst = max(worst, float(((a - b).abs().amax() / a.abs().amax()).detach()))
    assert 0 < worst < 1 / 200
    save_weights(kept, tmp_path / "again.pt")
    again = load_weights(tmp_path / "again.pt").state_dict()
    assert all(torch.equal(v, again[k]) for k, v in kept.state_dict().items())
    export_model(kept, tmp_path, name="hearing", calibration=CALIBRATION)
    assert (tmp_path / "audio.onnx").read_bytes() == (exported / "audio.onnx").read_bytes()
    weights = sum(p.numel() for p in kept.audio.speech.parameters())
    assert weights < (tmp_path / "audio.onnx").stat().st_size < 1.2 * weights


def test_whispers_layers_learn_slowly() -> None:
    config = TrainConfig(
        encoder=HEARING, steps=1, warmup=0, optimiser="muon", tokens=20, weight_decay=0, threads=1
    )
    torch.manual_seed(0)
    trainer = Trainer(config)
    with torch.no_grad():
        torch.nn.init.normal_(trainer.model.audio.speech_out.weight, std=0.05)
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    trainer.step(random_batch(20, [15.0, 17.0, 13.0]))
    moved = {
        k: float((v - before[k]).detach().square().mean().sqrt())
        for k, v in trainer.model.named_parameters()
    }
    slow = moved["audio.speech.layers.0.inner.weight"]
    fast = moved["audio.context.outer.0.weight"]
    assert slow == pytest.approx(fast * config.speech_rate, rel=0.5)


def test_local_layers_come_near_the_original(whisper: Path, tmp_path: Path) -> None:
    samples = np.random.default_rng(3).normal(0, 0.1, 6 * 16000).astype(np.float32)
    assert whisper_mel(samples).shape == (80, 800)
    original = Original(whisper, 1)
    rows = original.features(np.tile(samples, 4))
    assert rows.shape == (1 + 24 * 50, 384)
    assert np.abs(rows).max(1).min() > 0
    media = write_media(tmp_path / "clip.mp4").path
    crops = np.zeros((10, 80, 112), np.uint8)
    one = np.zeros(10, np.float32)
    clip = ClipFeatures("a", 0, crops, one > 0, one, log_mel(samples).astype(np.float16), 0, 50.0)
    with pytest.raises(AVSyncError, match=r"none of 1 clips has 3\.2 s"):
        sounds_of({"a": media}, [clip], original)


def test_distilling(whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    pieces: dict[str, np.ndarray] = {}
    for name in "abc":
        level = np.repeat(np.exp(rng.normal(-2, 1, 60)), 1600)
        pieces[name] = (rng.normal(0, 0.3, 96000) * level).astype(np.float32)

    class Piece:
        def __init__(self, samples: np.ndarray) -> None:
            self.samples, self.start_s = samples, 0.2

    def heard(path: Path) -> list[Piece]:
        return [Piece(pieces[path.name])]

    monkeypatch.setattr("avsync.training.speech_distil.iter_audio", heard)
    one = np.zeros(10, np.float32)
    crops = np.zeros((10, 80, 112), np.uint8)
    clips = [
        # Column 0 lies at 0.2 s: tick 10 (0.4 s) less 20 columns.
        ClipFeatures(n, 10, crops, one > 0, one, log_mel(x).astype(np.float16), 20, 50.0)
        for n, x in pieces.items()
    ]
    sounds, mels = sounds_of({n: Path(n) for n in pieces}, clips, Original(whisper, 1))
    assert [s.column for s in sounds] == [0, 0, 0]
    assert mels.shape == (81, 80)

    def forgetful(file: Path, layers: int) -> SpeechFeatures:
        torch.manual_seed(0)
        model = load_whisper(file, layers)
        with torch.no_grad():
            for weight in model.layers.parameters():
                weight.add_(torch.randn_like(weight) * weight.std() if weight.dim() > 1 else 0)
        return model

    monkeypatch.setattr("avsync.training.speech_distil.load_whisper", forgetful)
    model, figures = distil(whisper, 1, sounds, mels, minutes=0.15, batch=2, strength=0.0)
    assert figures["after"] < 0.8 * figures["before"], figures
    save_speech(model, tmp_path / "speech.pt")
    mel = torch.from_numpy(random_mel(80))[None]
    with torch.no_grad():
        torch.testing.assert_close(load_speech(tmp_path / "speech.pt").eval()(mel), model(mel))
