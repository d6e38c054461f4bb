"""The encoder pair: shapes, unit tokens, and exactly what each token sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avsync.errors import AVSyncError  # noqa: E402
from avsync.training.encoder import (  # noqa: E402
    FRAME_STACK,
    EncoderConfig,
    SyncEncoder,
    grown,
)

SMALL = EncoderConfig(
    video_channels=(4, 6, 8, 10),
    audio_channels=(4, 6, 8),
    dim=16,
    local_dim=6,
    context_dim=10,
)
CONTEXT = sum(EncoderConfig().video_dilations)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return SyncEncoder(SMALL).eval()


def crops(frames: int, batch: int = 1, seed: int = 0) -> Any:
    return torch.rand(batch, frames, 64, 96, generator=torch.Generator().manual_seed(seed)) * 255


def mels(columns: int, batch: int = 1, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, columns, 80, generator=generator) * 3 - 5


def changed(a: Any, b: Any) -> list[int]:
    """Indices of tokens (1, T, d) that differ."""
    return np.flatnonzero((a - b).abs().amax((0, 2)).numpy() > 1e-6).tolist()


def test_shapes(model: Any) -> None:
    with torch.no_grad():
        v_local, v_wide, a_local, a_wide = model(crops(14, 2), mels(44, 2))
    assert v_local.shape == (2, 10, 6)
    assert v_wide.shape == (2, 10, 10)
    assert a_local.shape == (2, 11, 6)
    assert a_wide.shape == (2, 11, 10)


@pytest.mark.parametrize("frames", [5, 6, 23])
def test_a_token_for_every_stack_of_five(model: Any, frames: int) -> None:
    with torch.no_grad():
        assert model.video(crops(frames))[0].shape[1] == frames - FRAME_STACK + 1 == frames - 4


@pytest.mark.parametrize("columns", [4, 8, 40, 400])
def test_an_audio_token_for_every_four_columns(model: Any, columns: int) -> None:
    with torch.no_grad():
        assert model.audio(mels(columns))[0].shape[1] == columns // 4


def test_tokens_are_unit_vectors(model: Any) -> None:
    with torch.no_grad():
        for tokens in model(crops(14, 2), mels(44, 2)):
            torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(tokens.shape[:2]))


def test_a_video_token_sees_five_frames_and_its_context_seven_tokens_more(model: Any) -> None:
    x = crops(40)
    y = x.clone()
    y[0, 20] = 255 - y[0, 20]
    with torch.no_grad():
        (local, wide), (local_y, wide_y) = model.video(x), model.video(y)
    # Token t sees frames t .. t + 4.
    assert changed(local, local_y) == list(range(16, 21))
    assert changed(wide, wide_y) == list(range(16 - CONTEXT, 21 + CONTEXT))


def test_an_audio_token_sees_8_columns_either_side(model: Any) -> None:
    for column in (80, 81, 83):
        x = mels(160)
        y = x.clone()
        y[0, column] += 5
        with torch.no_grad():
            (local, wide), (local_y, wide_y) = model.audio(x), model.audio(y)
        seen = [n for n in range(40) if abs(4 * n - column) <= 8]
        assert set(changed(local, local_y)) <= set(seen)
        assert 20 in changed(local, local_y)  # the token centred on column 80
        low, high = seen[0] - CONTEXT, seen[-1] + CONTEXT
        assert set(changed(wide, wide_y)) <= set(range(low, high + 1))


def test_both_edges_of_the_audio_view_are_used(model: Any) -> None:
    """The window is centred: it reaches as far back as ahead, so no token is late by design."""
    x = mels(160).requires_grad_()
    local, _ = model.audio(x)
    (gradient,) = torch.autograd.grad(local[0, 20].square().mul(torch.arange(6)).sum(), x)
    touched = np.flatnonzero(gradient[0].abs().amax(1).numpy() > 0)
    assert (touched.min(), touched.max()) == (80 - 8, 80 + 8)


def test_brightness_and_contrast_hardly_matter(model: Any) -> None:
    """Crops are normalised over all their pixels."""
    x = crops(12)
    with torch.no_grad():
        plain, bright = model.video(x)[0], model.video(0.6 * x + 40)[0]
    assert (plain * bright).sum(-1).min() > 0.99


def test_tokens_do_not_depend_on_the_batch(model: Any) -> None:
    x, m = crops(12, 3), mels(40, 3)
    with torch.no_grad():
        together = model(x, m)
        alone = [model(x[i : i + 1], m[i : i + 1]) for i in range(3)]
    for k, part in enumerate(together):
        torch.testing.assert_close(part, torch.cat([a[k] for a in alone]), atol=1e-5, rtol=1e-4)


def test_dropout_works_in_training_only(model: Any) -> None:
    fresh = SyncEncoder(SMALL)
    x = crops(8)
    fresh.train()
    assert not torch.equal(fresh.video(x)[0], fresh.video(x)[0])
    fresh.eval()
    torch.testing.assert_close(fresh.video(x)[0], fresh.video(x)[0])


def test_every_weight_learns() -> None:
    torch.manual_seed(1)
    fresh = SyncEncoder(SMALL)
    parts = fresh(crops(12, 2), mels(44, 2))
    sum((p * torch.linspace(-1, 1, p.shape[-1])).sum() for p in parts).backward()
    still = [n for n, p in fresh.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_a_grown_encoder_gives_the_same_tokens_and_may_see_more(model: Any) -> None:
    wider = SMALL.model_copy(
        update={"video_dilations": (1, 2, 4, 8), "audio_dilations": (1, 2, 4, 1)}
    )
    torch.manual_seed(1)
    larger = grown(model, wider).eval()
    pictures, sounds = crops(40), mels(160)
    with torch.no_grad():
        for was, now in zip(model(pictures, sounds), larger(pictures, sounds), strict=True):
            torch.testing.assert_close(now, was, atol=1e-6, rtol=0)
        torch.nn.init.normal_(larger.video.context.outer[3].weight, std=0.3)
        torch.nn.init.normal_(larger.audio.context.outer[3].weight, std=0.3)
        touched = pictures.clone()
        touched[:, 20] = crops(1, seed=3)
        seen = changed(larger.video(pictures)[1], larger.video(touched)[1])
        assert (seen[0], seen[-1]) == (20 - 4 - 15, 20 + 15)
        touched = sounds.clone()
        touched[:, 80] += 3
        heard = changed(larger.audio(sounds)[1], larger.audio(touched)[1])
    assert larger.audio_reach == 8 + 3
    assert heard[0] >= 20 - 11
    assert heard[-1] <= 20 + 11


def test_other_widths_cannot_be_grown_from(model: Any) -> None:
    with pytest.raises(AVSyncError, match="another network"):
        grown(model, SMALL.model_copy(update={"local_dim": 7}))
    for other in ((2, 2, 4), (1, 2)):  # the same shapes, or fewer: other tokens
        with pytest.raises(AVSyncError, match="video_dilations 1,2,4; begin with these"):
            grown(model, SMALL.model_copy(update={"video_dilations": other}))


def test_config_survives_json_and_rejects_what_it_does_not_know() -> None:
    assert EncoderConfig.model_validate_json(SMALL.model_dump_json()) == SMALL
    with pytest.raises(ValueError, match="colour"):
        EncoderConfig.model_validate({"colour": 3})


def test_the_shipped_size_is_modest() -> None:
    count = sum(p.numel() for p in SyncEncoder().parameters())
    assert 3e6 < count < 6e6
