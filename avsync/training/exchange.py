"""Runs that learn together: now and then each takes the mean of its weights and the others'.

Through a folder, so that processes of one machine, or machines with a common disk, may join and
leave at any time and none waits for another (local SGD: Stich 2019, arXiv 1805.09767).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avsync.training.loop import save_state

__all__ = ["Exchange"]

#: Steps between exchanges, and how old (s) another's weights may be.
EVERY = 10
OLDEST_S = 300.0


class Exchange:
    """One run's place in a folder of weights.

    Args:
        folder: the common folder, made where it is missing. name: this run's, unlike the others'.
        modules: whose weights are exchanged, by name.
    """

    def __init__(self, folder: Path, name: str, modules: dict[str, nn.Module]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{name}.pt"
        self.modules = modules

    def step(self, done: int) -> int:
        """Exchange when ``done`` steps say so; returns with how many others it was."""
        if done % EVERY:
            return 0
        mine = {name: module.state_dict() for name, module in self.modules.items()}
        save_state(mine, self.file)
        others = [f for f in self.file.parent.glob("*.pt") if f != self.file]
        others = [f for f in others if time.time() - f.stat().st_mtime < OLDEST_S]
        for i, file in enumerate(others):
            theirs = torch.load(file, map_location="cpu", weights_only=True)
            self._approach(mine, theirs, 1 / (i + 2))
        return len(others)

    @staticmethod
    @torch.no_grad()
    def _approach(mine: dict[str, Any], theirs: dict[str, Any], share: float) -> None:
        for name, state in mine.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.dtype.is_floating_point:
                    value.lerp_(theirs[name][key].to(value), share)
