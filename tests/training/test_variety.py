"""What helps a run to generalise: mixed styles, near misses, runs that learn together."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tiny_encoder import TINY, random_batch  # noqa: E402

from avsync.training import exchange  # noqa: E402
from avsync.training.contrastive import NearLoss  # noqa: E402
from avsync.training.encoder import SyncEncoder  # noqa: E402
from avsync.training.exchange import Exchange  # noqa: E402
from avsync.training.fit import TrainConfig, Trainer  # noqa: E402
from avsync.training.style import mix_styles, mixed  # noqa: E402

STILL = TINY.model_copy(update={"dropout": 0.0})


def test_mixed_features_have_statistics_between_two_clips() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 400)
    x[1] = x[1] * 1.5 + 4
    own = mixed(x, (2,), 0.0)
    torch.testing.assert_close(own, x, atol=1e-4, rtol=0)
    seen = torch.stack([mixed(x, (2,), 1.0).mean(2)[0] for _ in range(60)])
    assert float(seen.min()) > -0.5
    assert float(seen.max()) < 4.5
    assert float(seen.std()) > 0.5
    moved = mixed(x, (2,), 1.0)
    for a, b in zip(moved, x, strict=True):  # what is said stays as it was
        assert float(torch.corrcoef(torch.stack([a[0], b[0]]))[0, 1]) > 0.999


def test_styles_are_mixed_in_training_alone() -> None:
    torch.manual_seed(0)
    model = SyncEncoder(STILL)
    mix_styles(model, 1.0, tokens=6)
    crops, mel = torch.rand(3, 10, 64, 96) * 255, torch.randn(3, 48, 80)
    model.eval()
    first, again = model(crops, mel), model(crops, mel)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    model.train()
    first, again = model(crops, mel), model(crops, mel)
    assert not any(torch.allclose(a, b) for a, b in zip(first, again, strict=True))


def test_near_loss_counts_a_frame_beside_as_right() -> None:
    tokens, shifts, d = 12, 9, 64
    torch.manual_seed(0)
    audio = torch.nn.functional.normalize(torch.randn(1, tokens + shifts - 1, d), dim=-1)
    known = torch.ones(1, tokens + shifts - 1, dtype=torch.bool)
    shift = torch.tensor([4.0])
    loss = NearLoss()

    def at(place: int) -> float:
        return float(loss(audio[:, place : place + tokens], audio, known, shift).detach())

    assert at(4) == pytest.approx(at(5), abs=0.1)
    assert at(3) == pytest.approx(at(4), abs=0.1)
    assert at(6) > at(4) + 2
    half = known.clone()
    half[:, :10] = False  # sound that is not there is no candidate, nor asked for
    assert float(loss(audio[:, 4:16], audio, half, shift).detach()) < 1.0


def test_runs_take_the_mean_of_fresh_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "EVERY", 2)
    models = [torch.nn.Linear(2, 1, bias=False) for _ in range(3)]
    for value, model in enumerate(models):
        torch.nn.init.constant_(model.weight, float(value))
    runs = [Exchange(tmp_path / "x", str(i), {"model": m}) for i, m in enumerate(models)]
    assert runs[0].step(1) == 0
    assert not list((tmp_path / "x").iterdir())
    assert runs[0].step(2) == 0
    old = time.time() - 2 * exchange.OLDEST_S
    assert runs[1].step(4) == 1
    assert models[1].weight[0, 0].item() == 0.5
    os.utime(tmp_path / "x" / "0.pt", (old, old))
    assert runs[2].step(2) == 1  # the second's as it was before its mean with the first's
    assert models[2].weight[0, 0].item() == 1.5


def test_a_step_with_all_of_it_and_the_strength_of_the_end() -> None:
    config = TrainConfig(
        encoder=STILL,
        steps=11,
        warmup=1,
        batch=2,
        tokens=20,
        threads=1,
        widen=True,
        style=0.5,
        near=1.5,
        strength=1.0,
        last_strength=0.4,
    )
    trainer = Trainer(config)
    batch = random_batch(20, [15.0, 12.3])
    strengths = []
    for _ in range(11):
        strengths.append(trainer.strength())
        parts = trainer.step(batch)
    assert parts["near"] > 0
    assert strengths[0] == strengths[6] == 1.0
    assert strengths[-1] == pytest.approx(0.4)
    assert strengths == sorted(strengths, reverse=True)
