"""The shift grid, its targets and the loss over all shifts, against counting by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from avsync.training.contrastive import (  # noqa: E402
    MultiScaleShiftLoss,
    StrangerLoss,
    rival_grid,
    shift_grid,
    soft_targets,
)


def rand(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestShiftGrid:
    def test_equals_loops(self) -> None:
        video, audio = rand(2, 6, 5), rand(2, 10, 5, seed=1)
        grid = shift_grid(video, audio)
        assert grid.shape == (2, 6, 5)
        for b in range(2):
            for t in range(6):
                for s in range(5):
                    assert grid[b, t, s] == pytest.approx(
                        float(video[b, t] @ audio[b, t + s]), 1e-5
                    )

    def test_sound_that_comes_later_has_a_larger_index(self) -> None:
        """As the docstring has it: s pairs t with t + s, the opposite sign of offset_ms."""
        path = torch.nn.functional.normalize(rand(1, 30, 16), dim=-1)
        for late in range(5):
            # 10 video tokens from instant 10; sound from instant 8, late by `late`.
            sound = path[:, 8 - late + 2 : 8 - late + 16]
            grid = shift_grid(path[:, 10:20], sound)
            assert grid.mean(1).argmax() == late

    def test_gradients_reach_both(self) -> None:
        video, audio = rand(1, 4, 3).requires_grad_(), rand(1, 6, 3).requires_grad_()
        shift_grid(video, audio).sum().backward()
        torch.testing.assert_close(video.grad[0, 0], audio[0, :3].sum(0))
        torch.testing.assert_close(audio.grad[0, 0], video[0, 0])


class TestRivalGrid:
    def test_equals_loops(self) -> None:
        video, audio = rand(2, 6, 5), rand(2, 10, 5, seed=1)
        grid = rival_grid(video, audio, sharpness=3.0)
        for b in range(2):
            for t in range(6):
                for s in range(5):
                    fits = [np.exp(3 * float(v @ audio[b, t + s])) for v in video[b]]
                    want = float(video[b, t] @ audio[b, t + s]) - np.log(np.mean(fits)) / 3
                    assert grid[b, t, s] == pytest.approx(want, abs=1e-4)

    def test_a_sound_that_fits_every_mouth_beats_none(self) -> None:
        """Alone it would: its cosine is larger than that of the true sound."""
        mouths = torch.eye(4)[None] + 1.0
        sound = torch.cat([torch.eye(4), torch.ones(1, 4)])[None]
        assert shift_grid(mouths, sound)[0, 3].argmax() == 1
        assert rival_grid(mouths, sound)[0, 3].argmax() == 0


class TestSoftTargets:
    def test_by_hand(self) -> None:
        got = soft_targets(torch.tensor([0.0, 2.0, 1.25, 3.0]), 4)
        want = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0.75, 0.25, 0], [0, 0, 0, 1]]
        torch.testing.assert_close(got, torch.tensor(want).float())

    @given(place=st.floats(0, 30))
    def test_sums_to_one_with_its_mean_at_the_shift(self, place: float) -> None:
        got = soft_targets(torch.tensor([place], dtype=torch.float32), 31)[0].double()
        assert float(got.sum()) == pytest.approx(1)
        assert float((got * torch.arange(31)).sum()) == pytest.approx(place, abs=1e-4)
        assert int((got > 0).sum()) <= 2


class TestLoss:
    T, S = 40, 31

    def known(self, value: bool = True, batch: int = 2) -> Any:
        return torch.full((batch, self.T, self.S), value)

    def target(self, shift: float = 15.0, batch: int = 2) -> Any:
        return soft_targets(torch.full((batch,), float(shift)), self.S)

    def test_a_flat_grid_costs_the_log_of_the_number_of_shifts(self) -> None:
        loss = MultiScaleShiftLoss()
        value = loss(torch.zeros(2, self.T, self.S), self.known(), self.target())
        assert value.item() == pytest.approx(np.log(self.S), rel=1e-5)

    def test_one_scale_by_hand(self) -> None:
        loss = MultiScaleShiftLoss(scales=(5,))
        grid = 0.3 * rand(2, self.T, self.S)
        target = self.target(12.5)
        mean = torch.stack([grid[:, i : i + 5].mean(1) for i in range(self.T - 4)], 1)
        logits = mean * 10.0 * 5**0.25
        want = -(target[:, None] * logits.log_softmax(-1)).sum(-1).mean()
        assert loss(grid, self.known(), target).item() == pytest.approx(want.item(), rel=1e-5)

    def test_scales_are_averaged(self) -> None:
        grid, target = 0.3 * rand(2, self.T, self.S), self.target()
        parts = [
            MultiScaleShiftLoss(scales=(k,))(grid, self.known(), target).item() for k in (1, 5, 20)
        ]
        whole = MultiScaleShiftLoss()(grid, self.known(), target)
        assert whole.item() == pytest.approx(np.mean(parts), rel=1e-5)

    def test_the_right_shift_costs_little_and_a_wrong_one_much(self) -> None:
        grid = torch.zeros(2, self.T, self.S)
        grid[..., 15] = 1.0
        loss = MultiScaleShiftLoss()
        right = loss(grid, self.known(), self.target(15)).item()
        near = loss(grid, self.known(), self.target(15.5)).item()
        wrong = loss(grid, self.known(), self.target(4)).item()
        assert right < 0.01
        assert right < near < wrong
        assert wrong > 10

    def test_unknown_pairs_have_no_say(self) -> None:
        """Where the sound is missing, its tokens may be anything."""
        grid, known = 0.3 * rand(2, self.T, self.S), self.known()
        known[:, 30:, 20:] = False
        spoilt = grid.clone()
        spoilt[~known] = 1e3
        loss = MultiScaleShiftLoss()
        clean = loss(grid, known, self.target())
        assert loss(spoilt, known, self.target()).item() == pytest.approx(clean.item(), rel=1e-5)

    def test_unknown_shifts_cannot_win(self) -> None:
        """A shift without sound is no rival: the flat rest costs the log of what is known."""
        known = self.known()
        known[..., 20:] = False
        value = MultiScaleShiftLoss()(torch.zeros(2, self.T, self.S), known, self.target(5))
        assert value.item() == pytest.approx(np.log(20), rel=1e-4)

    def test_windows_whose_true_shift_is_unknown_do_not_count(self) -> None:
        known = self.known()
        known[0, :, 15] = False
        known[1, :20, 15] = False
        grid = torch.zeros(2, self.T, self.S)
        loss = MultiScaleShiftLoss(scales=(1,))
        rest = self.known(batch=1)[:, :20]
        want = loss(grid[:1, :20], rest, self.target(batch=1)).item()
        assert loss(grid, known, self.target()).item() == pytest.approx(want, rel=1e-4)

    def test_nothing_known_costs_nothing(self) -> None:
        grid = rand(2, self.T, self.S).requires_grad_()
        value = MultiScaleShiftLoss()(grid, self.known(False), self.target())
        assert value.item() == 0
        value.backward()
        assert torch.isfinite(grid.grad).all()

    def test_temperatures_are_learnt(self) -> None:
        loss = MultiScaleShiftLoss()
        assert loss.log_scale.exp().tolist() == pytest.approx([10 * k**0.25 for k in (1, 5, 20)])
        grid = torch.zeros(1, self.T, self.S)
        grid[..., 15] = 0.2
        loss(grid, self.known(batch=1), self.target(batch=1)).backward()
        assert (loss.log_scale.grad < 0).all()  # a right peak wants to be sharper

    def test_descent_finds_the_shift(self) -> None:
        """A few steps on free tokens bring the mean score to its peak at the target."""
        video, audio = rand(1, 20, 8), rand(1, 50, 8, seed=1)
        video.requires_grad_()
        loss, target = MultiScaleShiftLoss(), self.target(9.0, batch=1)
        known = torch.ones(1, 20, self.S, dtype=torch.bool)
        optimiser = torch.optim.SGD([video], lr=0.5)

        def grid() -> Any:
            unit = torch.nn.functional.normalize
            return shift_grid(unit(video, dim=-1), unit(audio, dim=-1))

        before = loss(grid(), known, target).item()
        for _ in range(30):
            optimiser.zero_grad()
            loss(grid(), known, target).backward()
            optimiser.step()
        assert loss(grid(), known, target).item() < 0.5 * before
        assert int(grid().mean(1).argmax()) == 9


class TestStrangerLoss:
    """Windows of 20 tokens, 30 sounds: 11 shifts, the true one is 5."""

    def unit(self, *shape: int, seed: int) -> Any:
        return torch.nn.functional.normalize(rand(*shape, seed=seed), dim=-1)

    def loss(self, video: Any, audio: Any, known: Any = None) -> Any:
        torch.manual_seed(0)
        known = torch.ones(audio.shape[:2], dtype=torch.bool) if known is None else known
        judge = StrangerLoss(scales=(5, 10), strangers=2)
        return judge(video, audio, known, soft_targets(torch.full((len(video),), 5.0), 11))

    def test_sounds_of_their_own_cost_little_and_sounds_like_the_others_much(self) -> None:
        audio = self.unit(4, 30, 96, seed=3)
        own = self.loss(audio[:, 5:25], audio)
        unlike = self.loss(self.unit(4, 20, 96, seed=4), audio)
        alike = self.loss(audio[:1, 5:25].expand(4, -1, -1), audio[:1].expand(4, -1, -1))
        assert own < 0.1 * unlike
        assert alike > 5  # every sound fits every mouth: which is whose cannot be told

    def test_what_is_the_same_at_all_shifts_says_nothing(self) -> None:
        audio = self.unit(4, 30, 96, seed=3)
        more = torch.ones(4, 30, 1)
        same = self.loss(torch.cat([audio, more], -1)[:, 5:25], torch.cat([audio, more], -1))
        torch.testing.assert_close(same, self.loss(audio[:, 5:25], audio))

    def test_sounds_that_are_not_there_do_not_count(self) -> None:
        audio = self.unit(4, 30, 96, seed=3)
        known = torch.ones(4, 30, dtype=torch.bool)
        known[:, :14] = False
        noise = audio.clone()
        noise[:, :14] = 5
        # Only what begins at token 14 or later has all its shifts: windows of 5, not of 10.
        one = self.loss(audio[:, 5:25], noise, known)
        two = self.loss(audio[:, 5:25], audio, known)
        torch.testing.assert_close(one, two)
        assert self.loss(audio[:, 5:25], audio, known & False) == 0

    def test_threshold_is_learnt(self) -> None:
        judge = StrangerLoss(scales=(5,))
        audio = self.unit(4, 30, 96, seed=3)
        known = torch.ones(4, 30, dtype=torch.bool)
        judge(audio[:, 5:25], audio, known, soft_targets(torch.full((4,), 5.0), 11)).backward()
        assert judge.threshold.grad.abs().item() > 0
        assert judge.log_scale.grad.abs().item() > 0
