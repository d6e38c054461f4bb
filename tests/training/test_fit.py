from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tiny_encoder import random_batch  # noqa: E402

from avsync.training.augment import _compressed, augment_mel, augment_video, crop_centre  # noqa: E402
from avsync.training.data import ClipFeatures  # noqa: E402
from avsync.training.encoder import EncoderConfig  # noqa: E402
from avsync.training.fit import HALF, MARGIN, Sampler, TrainConfig, Trainer  # noqa: E402
from avsync.training.loop import ahead  # noqa: E402

LEAD, LATE = 7, 3.0


def clock_clip(name: str, frames: int = 250) -> ClipFeatures:
    """Frame t shows t; mel column c says to which frame's time it belongs, 30 ms late."""
    crops = np.zeros((frames, 80, 112), np.uint8)
    crops[:] = np.arange(frames, dtype=np.uint8)[:, None, None]
    columns = 4 * frames + 40
    belongs = (np.arange(columns) - LEAD - LATE) / 4
    mel = np.repeat(belongs[:, None], 80, 1).astype(np.float16)
    return ClipFeatures(
        name, 0, crops, np.ones(frames, bool), np.zeros(frames, np.float32), mel, LEAD, 50.0
    )


@pytest.mark.parametrize("paces", [False, True])
def test_a_window_is_true_to_its_shift(paces: bool) -> None:
    clips = [clock_clip(str(i)) for i in range(4)]
    late = {c.clip: LATE for c in clips}
    sampler = Sampler(clips, late, tokens=40, seed=3, paces=paces)
    spans = set()
    for _ in range(6):
        crops, mel, known, shift = sampler.draw(4)
        assert crops.shape == (4, 44, 80, 112)
        for b in range(4):
            seen = crops[b, 2:-2, 0, 0].numpy().astype(float)  # the middle of each stack
            said = mel[b, MARGIN * 4 :: 4, 0].numpy()
            place = np.arange(40) + float(shift[b])
            ok = known[b].numpy()[np.ceil(place).astype(int)]
            heard = np.interp(place, np.arange(len(said)), said)
            # half a frame of rounding where the pace is not 1, float16 in the mel
            assert np.abs(heard - seen)[ok].max() < (0.62 if paces else 0.1)
            spans.add(int(crops[b, -1, 0, 0]) - int(crops[b, 0, 0, 0]))
    assert (spans == {43}) is not paces
    assert HALF == 15


def test_without_strength_pictures_are_at_most_mirrored_and_sounds_as_they_were() -> None:
    torch.manual_seed(1)
    crops = torch.rand(16, 3, 80, 112).mul(255).byte()
    seen, plain = augment_video(crops, strength=0.0), crop_centre(crops).float()
    mirrored = [bool((s - p.flip(-1)).abs().max() < 0.1) for s, p in zip(seen, plain, strict=True)]
    as_it_was = [bool((s - p).abs().max() < 0.1) for s, p in zip(seen, plain, strict=True)]
    assert all(a != b for a, b in zip(mirrored, as_it_was, strict=True))
    assert 0 < sum(mirrored) < 16
    mel = torch.randn(16, 60, 80) - 5
    torch.testing.assert_close(augment_mel(mel, strength=0.0), mel, atol=1e-4, rtol=0)


def test_widened_pictures_and_sounds_stay_in_range() -> None:
    torch.manual_seed(0)
    crops = (torch.rand(4, 9, 80, 112) * 255).byte()
    seen = augment_video(crops, widen=True)
    assert seen.shape == (4, 9, 64, 96)
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 255
    heard = augment_mel(torch.randn(4, 60, 80) - 5, widen=True)
    assert heard.shape == (4, 60, 80)
    assert bool(torch.isfinite(heard).all())


def test_compression_rounds_blocks_and_keeps_their_means() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(40, 200, 96)[None, None, None] + torch.linspace(0, 30, 64)[:, None]
    x = (ramp + 6 * torch.randn(2, 3, 64, 96)).contiguous()
    fine, rough = _compressed(x, torch.tensor([0.01, 12.0]))
    assert float((fine - x[0]).abs().max()) < 0.1
    lost = float((rough - x[1]).square().mean().sqrt())
    assert 2 < lost < 8  # most of the noise, nothing of the ramp
    means = [y.view(3, 8, 8, 12, 8).mean((2, 4)) for y in (rough, x[1])]
    assert float((means[0] - means[1]).abs().max()) <= 12 / 8 / 2 + 1e-3


def test_batches_come_in_turn_and_each_source_is_asked_by_one_at_a_time() -> None:
    asked: dict[str, list[bool]] = {"a": [], "b": [], "c": []}
    busy: set[str] = set()

    def draw(name: str) -> str:
        asked[name].append(name in busy)
        busy.add(name)
        time.sleep(0.002)
        busy.discard(name)
        return f"{name}{len(asked[name])}"

    batches = ahead([partial(draw, name) for name in asked])
    assert [next(batches) for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "c2", "a3"]
    batches.close()
    assert not any(any(times) for times in asked.values())
    alone = ahead([partial(draw, "a")])
    before = len(asked["a"])
    assert next(alone) == f"a{before + 1}"
    assert len(asked["a"]) == before + 1  # nothing ahead of time

    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        next(ahead([fail, fail]))


def test_the_rate_follows_the_clock() -> None:
    small = EncoderConfig(video_channels=(4, 4, 4, 4), audio_channels=(4, 4, 4), dim=8)
    trainer = Trainer(TrainConfig(encoder=small, minutes=1.0, warmup=0, threads=1))
    early = trainer.config.learning_rate
    assert 0.02 * early < trainer.rate() <= early
    trainer.began -= 61
    assert trainer.finished()
    assert trainer.rate() == pytest.approx(0.02 * early)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, optimiser: str) -> None:
    small = EncoderConfig(video_channels=(4, 4, 4, 4), audio_channels=(4, 4, 4), dim=8, dropout=0.0)
    config = TrainConfig(
        encoder=small,
        optimiser=optimiser,
        steps=4,
        batch=2,
        warmup=1,
        strength=0.0,
        threads=1,
        log_every=1,
        save_every=2,
    )
    batches = []
    for seed in range(4):
        torch.manual_seed(seed)
        batches.append(random_batch(config.tokens, [15.3, 15.3]))

    def go(trainer: Trainer, out: Path, mine: list[Any]) -> None:
        torch.manual_seed(9)  # mirrored or not
        rest = iter(mine)
        trainer.run([lambda: next(rest)], out)

    straight = Trainer(config)
    go(straight, tmp_path / "straight", batches)
    stopped = Trainer(config)
    torch.manual_seed(9)
    for batch in batches[:2]:
        stopped.step(batch)
    stopped.save(tmp_path / "half.pt")
    random = torch.get_rng_state()
    resumed = Trainer(config)
    resumed.load(tmp_path / "half.pt")
    assert resumed.done == 2
    torch.set_rng_state(random)
    rest = iter(batches[2:])
    shares: list[float] = []
    resumed.run([lambda: next(rest)], tmp_path / "resumed", progress=shares.append)
    assert shares[-1] == 1.0
    for a, b in zip(
        [*straight.average.parameters(), *straight.losses.parameters()],
        [*resumed.average.parameters(), *resumed.losses.parameters()],
        strict=True,
    ):
        assert torch.equal(a, b)
    log = [json.loads(row) for row in (tmp_path / "resumed" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [3, 4]
    assert {"local", "wide", "both", "match", "hit", "clip", "lr", "s"} <= log[0].keys()
