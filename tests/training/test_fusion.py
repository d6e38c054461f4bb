"""Cross-attention over tokens: shapes, masks, batches, and that it learns what can be learnt."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avsync.errors import AVSyncError, ModelNotFoundError  # noqa: E402
from avsync.training.encoder import EncoderConfig, SyncEncoder  # noqa: E402
from avsync.training.fusion import (  # noqa: E402
    THRESHOLD,
    FusionConfig,
    FusionNetwork,
    audio_span,
    parameters,
)
from avsync.training.fusion_data import CANDIDATES, FusionSampler  # noqa: E402
from avsync.training.fusion_eval import (  # noqa: E402
    area_under_roc,
    cosine_rows,
    evaluate,
    window_scores,
)
from avsync.training.fusion_fit import (  # noqa: E402
    FusionTrainConfig,
    FusionTrainer,
    hard_loss,
    load_fusion,
)
from avsync.training.fusion_runs import (  # noqa: E402
    STUDENT,
    TEACHER,
    TokenCorpus,
    distil_all,
    distillation_table,
    speaker_turns,
    table_markdown,
)
from avsync.training.losses import LOSSES  # noqa: E402
from avsync.training.token_cache import TokenClip, with_context  # noqa: E402

WIDTH = 16
SMALL = FusionConfig(token_dim=WIDTH, local_dim=8, dim=16, heads=2, layers=2, dropout=0.0)
PLAIN = SMALL.model_copy(update={"prior": False})


def clip(seed: int, ticks: int = 40, shift: float = 15.0, known: int = 0) -> TokenClip:
    """Audio tokens that repeat the video tokens, ``shift`` - 15 ticks later."""
    rng = np.random.default_rng(seed)
    speech = rng.standard_normal((2 * (ticks + 64), WIDTH)).astype(np.float16)
    video = speech[64 : 64 + 2 * ticks : 2]
    late = round(2 * (shift - 15))
    begin = 64 - 32 - late
    audio = speech[begin : begin + 2 * (ticks + 32)]
    there = np.ones(len(audio), bool)
    there[:known] = False
    return TokenClip(f"clip{seed}", video, audio, there, shift)


@cache
def corpus() -> tuple[TokenClip, ...]:
    return tuple(clip(i, shift=15 + (i % 5 - 2) / 2) for i in range(12))


def pair(ticks: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(ticks)
    return torch.randn(count, ticks, WIDTH), torch.randn(count, audio_span(ticks), WIDTH)


def _size(config: FusionConfig) -> int:
    with torch.device("meta"):
        return parameters(FusionNetwork(config))


class TestNetwork:
    @pytest.mark.parametrize("ticks", [1, 3, 21])
    def test_shapes(self, ticks: int) -> None:
        answer = FusionNetwork(PLAIN).eval()(*pair(ticks))
        assert answer.logits.shape == (3,)
        assert answer.fused.shape == (3, 2 * ticks + 1, 16)
        assert [len(answer.relations[s]) for s in ("fusion", "av", "va")] == [2, 2, 2]
        assert answer.relations["av"][0].attention_logits.shape == (3, 2, 2 * ticks + 1, ticks)

    def test_padding_changes_nothing(self) -> None:
        network = FusionNetwork(SMALL).eval()
        torch.nn.init.normal_(network.classifier.weight)
        video, audio = pair(5)
        longer = torch.cat([video, 9 * torch.ones(3, 2, WIDTH)], 1)
        heard = torch.cat([audio, 7 * torch.ones(3, 4, WIDTH)], 1)
        seen = torch.arange(7)[None].expand(3, -1) < 5
        here = torch.arange(15)[None].expand(3, -1) < 11
        whole = network(video, audio).logits
        padded = network(longer, heard, seen, here).logits
        torch.testing.assert_close(padded, whole, atol=1e-5, rtol=0)

    def test_order_of_the_sound_matters(self) -> None:
        network = FusionNetwork(PLAIN).eval()
        video, audio = pair(5)
        assert not torch.allclose(
            network(video, audio).logits, network(video, audio.flip(1)).logits
        )

    def test_starts_from_the_encoders_cosine(self) -> None:
        torch.manual_seed(0)
        encoder = SyncEncoder(EncoderConfig(dim=WIDTH, local_dim=8))
        network = FusionNetwork(FusionConfig.on(encoder, dim=16, heads=2, layers=1), encoder).eval()
        video, audio = pair(3)
        with torch.no_grad():
            v = torch.nn.functional.normalize(encoder.video.local(video), dim=-1)
            a = torch.nn.functional.normalize(encoder.audio.local(audio[:, 1::2]), dim=-1)
            cosine = (v * a).sum(-1).mean(1)
            want = 10 * (cosine - THRESHOLD) + network.classifier.bias
            torch.testing.assert_close(network(video, audio).logits, want, atol=1e-4, rtol=0)

    def test_context_tokens_give_the_score_that_ships(self) -> None:
        """The prior over trunk and context tokens is the mean product of the shipped tokens."""
        torch.manual_seed(0)
        encoder = SyncEncoder(EncoderConfig(dim=WIDTH, local_dim=8, context_dim=4)).eval()
        config = FusionConfig.on(encoder, context=True, dim=16, heads=2, layers=1)
        network = FusionNetwork(config, encoder).eval()
        film = clip(2)
        wide = with_context(encoder, film)
        assert wide.video.shape == (40, 2 * WIDTH)
        assert wide.audio.shape == (144, 2 * WIDTH)
        np.testing.assert_array_equal(wide.video[:, :WIDTH], film.video)
        shipped = cosine_rows(encoder, film)
        np.testing.assert_array_equal(cosine_rows(encoder, wide), shipped)
        logits, cosines = window_scores(network, wide, [4], 7)
        np.testing.assert_allclose(cosines[0], shipped[4:11].mean(0), atol=2e-3)
        np.testing.assert_allclose(
            logits[0], 10 * (cosines[0] - THRESHOLD) + network.classifier.bias.item(), atol=1e-4
        )

    def test_student_is_small_with_the_front_end_counted(self) -> None:
        with torch.device("meta"):
            encoder = SyncEncoder()
        front = parameters(encoder.video.encoder) + parameters(encoder.audio.encoder)
        small, wide = (
            front + _size(FusionConfig.on(encoder, **widths)) for widths in (STUDENT, TEACHER)
        )
        assert small <= 0.17 * wide


class TestSampler:
    def sampler(self, **options: object) -> FusionSampler:
        return FusionSampler(corpus(), lengths={1: 1, 3: 1}, seed=0, **options)  # type: ignore[arg-type]

    def test_the_true_sound_is_the_one_labelled(self) -> None:
        """In these clips the token of the true half tick repeats the video token."""
        sampler = self.sampler()
        for _ in range(6):
            batch = sampler.draw(4)
            assert batch.audio.shape[1] == CANDIDATES
            torch.testing.assert_close(batch.target.sum(1), torch.ones(4))
            whole = (batch.target == 1).any(1)
            for b in range(4):
                for c in range(CANDIDATES):
                    same = torch.equal(batch.audio[b, c, 1::2], batch.video[b])
                    true = c < CANDIDATES - 1 and batch.target[b, c] == 1
                    assert same == bool(true)
            assert (batch.label == 1).sum() == 4
            assert batch.label[:, 2:].eq(0).all()
            assert whole.any()

    def test_same_seed_same_batches(self) -> None:
        a, b = self.sampler().draw(5), self.sampler().draw(5)
        assert torch.equal(a.audio, b.audio)
        assert torch.equal(a.video, b.video)

    def test_sound_that_is_not_there_is_not_used(self) -> None:
        clips = [clip(i, known=40) for i in range(4)]
        batch = FusionSampler(clips, lengths={1: 1}, seed=0).draw(20)
        missing = torch.from_numpy(np.concatenate([c.audio[:40] for c in clips])).float()
        assert not (batch.audio.flatten(0, 2)[:, None] == missing[None]).all(-1).any()

    def test_refuses_one_group_and_windows_too_long(self) -> None:
        with pytest.raises(AVSyncError, match="at least two"):
            self.sampler(groups={c.clip: "one" for c in corpus()})
        with pytest.raises(AVSyncError, match="1 to 21"):
            FusionSampler(corpus(), lengths={22: 1}, seed=0)
        with pytest.raises(AVSyncError, match="no clip holds"):
            FusionSampler([clip(1, 4), clip(2, 4)], lengths={9: 1}, seed=0).draw(1)


class TestTraining:
    def config(self, **more: object) -> FusionTrainConfig:
        base = {"fusion": PLAIN, "lengths": {3: 1.0}, "windows": 6, "warmup": 5, "log_every": 5}
        return FusionTrainConfig.model_validate(base | more)

    def test_loss_by_hand(self) -> None:
        sampler = FusionSampler(corpus(), lengths={1: 1}, seed=3)
        batch = sampler.draw(2)
        even = hard_loss(torch.zeros(2 * CANDIDATES), batch, 0.5)
        assert float(even["shift"]) == pytest.approx(np.log(CANDIDATES - 1))
        assert float(even["sync"]) == pytest.approx(np.log(2))
        sure = torch.full((2, CANDIDATES), -30.0)
        sure[batch.label == 1] = 30.0
        assert float(hard_loss(sure.flatten(), batch, 0.5)["sync"]) == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("loss", sorted(LOSSES))
    def test_every_loss_takes_a_step(self, loss: str) -> None:
        wide = PLAIN.model_copy(update={"dim": 32})
        teacher = FusionNetwork(wide).eval().requires_grad_(False)
        trainer = FusionTrainer(self.config(loss=loss), teacher=teacher)
        before = trainer.model.video_in.weight.clone()
        batch = FusionSampler(corpus(), lengths={3: 1}, seed=0).draw(4)
        parts = trainer.step(batch)
        assert all(np.isfinite(v) for v in parts.values())
        assert ("distillation" in parts) == (loss != "none")
        assert not torch.equal(before, trainer.model.video_in.weight)

    def test_needs_a_teacher(self) -> None:
        with pytest.raises(AVSyncError, match="--teacher"):
            FusionTrainer(self.config(loss="kd"))

    def test_learns_and_resumes(self, tmp_path: Path) -> None:
        """One batch again and again can be learnt by heart."""
        config = self.config(steps=40, learning_rate=1e-2)
        sampler = FusionSampler(corpus(), lengths={3: 1.0}, seed=0)
        batch = sampler.draw(4)
        sampler.draw = lambda windows: batch  # type: ignore[method-assign]
        trainer = FusionTrainer(config)
        trainer.run([lambda: sampler.draw(2)], tmp_path)
        log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert [row["step"] for row in log] == list(range(5, 41, 5))
        assert log[-1]["shift"] < 0.5 * log[0]["shift"]
        assert log[-1]["sync"] < 0.5 * log[0]["sync"]
        again = FusionTrainer(config)
        again.load(tmp_path / "state.pt")
        assert again.done == 40
        network = load_fusion(tmp_path / "state.pt")
        for mine, theirs in zip(network.parameters(), trainer.average.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        with pytest.raises(AVSyncError, match="other widths"):
            FusionTrainer(self.config(fusion=SMALL)).load(tmp_path / "state.pt")

    def test_bad_states(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFoundError, match="no such file"):
            load_fusion(tmp_path / "none.pt")
        (tmp_path / "bad.pt").write_bytes(b"no")
        with pytest.raises(AVSyncError, match="not the state"):
            load_fusion(tmp_path / "bad.pt")


class TestEvaluation:
    def test_cosine_finds_what_repeats(self) -> None:
        """Local heads that pass tokens through make the true shift the best one."""
        network = FusionNetwork(SMALL.model_copy(update={"local_dim": WIDTH})).eval()
        with torch.no_grad():
            for head in (network.video_local, network.audio_local):
                head.weight.copy_(torch.eye(WIDTH))
                head.bias.zero_()
        film = clip(1, shift=18)
        logits, cosines = window_scores(network, film, [0, 5], 3)
        assert cosines.argmax(1).tolist() == [18, 18]
        np.testing.assert_allclose(cosines.max(1), 1, atol=1e-4)
        assert logits.argmax(1).tolist() == [18, 18]
        figures = evaluate(network, [clip(i) for i in range(3)], frames=(5, 9))
        assert figures["joint_5"] > 0.95
        assert figures["averaged_15"] == 1
        assert figures["auc_cosine"] > 0.95

    def test_missing_sound_is_nan(self) -> None:
        network = FusionNetwork(SMALL).eval()
        logits, _ = window_scores(network, clip(1, known=9), [0], 1)
        assert np.isnan(logits[0, :4]).all()
        assert np.isfinite(logits[0, 4:]).all()

    def test_area(self) -> None:
        assert area_under_roc([2, 3], [1, 2]) == pytest.approx(0.875)

    def test_markdown(self) -> None:
        rows = [
            {"loss": "teacher", "joint_5": 0.5, "auc_logit": 0.8},
            {"loss": "kd", "joint_5": 0.3, "auc_logit": 0.6},
            {"loss": "kd", "joint_5": 0.4, "auc_logit": 0.6},
        ]
        text = table_markdown(rows, [5])
        assert "| teacher | 50.0 | 80.0 |" in text
        assert "| kd | 35.0 ± 5.0 | 60.0 ± 0.0 |" in text

    def test_speakers_take_turns(self) -> None:
        rows = {"a": {"speaker": "x"}, "b": {"speaker": "x"}, "c": {"source": "y"}}
        assert speaker_turns(rows, ["a", "b", "c"]) == ["a", "c", "b"]


def test_table_runs_every_loss_on_the_same_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokens = TokenCorpus(
        encoder=SyncEncoder(EncoderConfig(dim=16, local_dim=8)),
        clips=[clip(i) for i in range(6)],
        dev=[clip(9)],
        weights={},
        groups={},
    )
    config = FusionTrainConfig(fusion=PLAIN, steps=2, windows=3, lengths={3: 1.0}, warmup=1)
    FusionTrainer(config, tokens.encoder).save(tmp_path / "teacher.pt")
    out, teacher = tmp_path / "table", tmp_path / "teacher.pt"
    cut = config.model_copy(update={"steps": 1})
    distil_all(tokens, out, teacher, cut, losses=("none", "kd"))
    distil_all(tokens, out, teacher, config, losses=("none", "kd"))  # goes on with the second step
    rows = distillation_table(tokens, out, teacher)
    assert [(r["loss"], r["seed"]) for r in rows] == [
        ("teacher", 0), ("none", 0), ("none", 1), ("kd", 0), ("kd", 1),
    ]  # fmt: skip
    assert all("joint_5" in r for r in rows)
    network = load_fusion(teacher)
    front = parameters(tokens.encoder.video.encoder) + parameters(tokens.encoder.audio.encoder)
    trained = sum(p.numel() for p in FusionNetwork(PLAIN).parameters() if p.requires_grad)
    assert {h.out_features for h in network.heads()} == {8}
    assert rows[0]["parameters"] == trained
    assert rows[0]["with_front_end"] == trained + front
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2]
    first = log[0]
    assert set(first) == {"step", "none-0", "none-1", "kd-0", "kd-1"}
    assert first["none-0"] != first["none-1"]
    assert "| kd |" in (tmp_path / "table" / "table.md").read_text()
    FusionTrainer(config, tokens.encoder).save(out / "none-0.pt")
    with pytest.raises(AVSyncError, match="different steps"):
        distil_all(tokens, out, teacher, config, losses=("none", "kd"))
