"""What every training run shares: schedule, one update, moving average, log, state to resume."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Loop", "ahead", "cosine", "follow", "save_state"]


def cosine(part: float) -> float:
    """Share of the learning rate when ``part`` of a run is done: from 1 down to 0.02."""
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move ``average`` towards ``model``, keeping the share ``keep`` of itself."""
    for mine, theirs in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - keep)
        else:
            mine.copy_(theirs)


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write a training state beside ``file``, then in its place: never half of one."""
    temporary = file.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(file)


def ahead(draws: Sequence[Callable[[], Any]]) -> Generator[Any]:
    """Batches from each of ``draws`` in turn; several are made in threads, ahead of time."""
    while len(draws) == 1:
        yield draws[0]()
    with ThreadPoolExecutor(len(draws)) as pool:
        waiting = deque((draw, pool.submit(draw)) for draw in draws)
        while True:
            draw, made = waiting.popleft()
            batch = made.result()
            waiting.append((draw, pool.submit(draw)))
            yield batch


class Loop:
    """A run of ``step`` after ``step``; trainers add the model, its losses and ``step``.

    ``config`` is a pydantic model with ``steps``, ``learning_rate``, ``warmup``, ``ema``,
    ``log_every``, ``save_every`` and, where a run may end by the clock, ``minutes``.
    """

    config: Any
    device: torch.device
    model: nn.Module
    average: nn.Module
    #: Modules with parameters of their own that are trained as well, by their name in the state.
    beside: dict[str, nn.Module]
    optimiser: torch.optim.Optimizer
    #: Norm at which gradients of ``model`` are clipped.
    clip: float
    #: Called with the steps done after each of them: where several runs learn together.
    exchange: Callable[[int], object] | None = None

    def __init__(self) -> None:
        self.done = 0
        self.began = time.monotonic()

    def step(self, batch: Any) -> dict[str, float]:
        """One optimiser step. Returns what is logged of it."""
        raise NotImplementedError

    def part(self) -> float:
        """Which part of the run after its warm-up is done: by steps, or by the clock."""
        c = self.config
        part = (self.done - c.warmup) / max(1, c.steps - c.warmup)
        minutes = getattr(c, "minutes", None)
        if minutes is None:
            return part
        return max(part, (time.monotonic() - self.began) / (60 * minutes))

    def rate(self) -> float:
        """The learning rate of the next step: linear warm-up, then a cosine."""
        c = self.config
        if self.done < c.warmup:
            return float(c.learning_rate * (self.done + 1) / c.warmup)
        return float(c.learning_rate * cosine(self.part()))

    def finished(self) -> bool:
        """Whether the steps are done or the time is over."""
        minutes = getattr(self.config, "minutes", None)
        over = minutes is not None and time.monotonic() - self.began > 60 * minutes
        return over or self.done >= self.config.steps

    def update(self, loss: Tensor) -> None:
        """Follow the gradient of ``loss`` by one step."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate() * group.get("share", 1.0)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimiser.step()
        self.done += 1
        follow(self.average, self.model, min(self.config.ema, (1 + self.done) / (10 + self.done)))

    def save(self, file: Path) -> None:
        """Everything needed to resume."""
        state = {
            "config": self.config.model_dump(),
            "done": self.done,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        state |= {name: module.state_dict() for name, module in self.beside.items()}
        save_state(state, file)

    def load(self, file: Path) -> None:
        """Resume from :meth:`save`'s file."""
        state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
        self.check(file, state)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for name, module in self.beside.items():
            module.load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = int(state["done"])

    def check(self, file: Path, state: dict[str, Any]) -> None:
        """Raise where a state does not fit this run."""

    def run(
        self,
        draws: Sequence[Callable[[], Any]],
        out: Path,
        *,
        validate: Callable[[Any], dict[str, float]] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Step until finished; configuration, log and state go to ``out``.

        Args:
            draws: each makes the next batch of its own; one is called as it is needed, several
                in threads of their own (for a GPU). validate: of the moving average, logged at
                each save.
            progress: called with the share done, 0..1.
        """
        config = self.config
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(config.model_dump_json(indent=1) + "\n")
        self.began, sums, count = time.monotonic(), dict[str, float](), 0
        with (out / "log.jsonl").open("a") as log, contextlib.closing(ahead(draws)) as batches:
            last = self.finished()
            while not last:
                for name, value in self.step(next(batches)).items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                if self.exchange is not None:
                    self.exchange(self.done)
                last = self.finished()  # asked once: what ends by the clock is saved, too
                if progress is not None:
                    progress(1.0 if last else min(1.0, max(0.0, self.part())))
                saving = last or self.done % config.save_every == 0
                if not saving and self.done % config.log_every:
                    continue
                spent = round(time.monotonic() - self.began, 1)
                row: dict[str, Any] = {"step": self.done, "s": spent, "lr": self.rate()}
                row |= {k: round(v / count, 4) for k, v in sums.items()}
                sums, count = {}, 0
                if saving:
                    self.save(out / "state.pt")
                    if validate is not None:
                        row |= validate(self.average)
                log.write(json.dumps(row) + "\n")
                log.flush()
