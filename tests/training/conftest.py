"""The rule that fills the published networks for golden values, and the networks so filled.

The rule and the numbers in golden.json are facts about the published networks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent


def rule(index: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of state_dict entry ``index`` (0-based)."""
    r = np.random.RandomState(index)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        value = 1 + 0.5 * r.uniform(0, 1, shape)
    elif name.endswith("running_mean"):
        value = 0.1 * r.uniform(-1, 1, shape)
    elif len(shape) < 2:
        value = float(name.endswith("weight")) + 0.1 * r.uniform(-1, 1, shape)
    else:
        a = np.sqrt(3 / np.prod(shape[1:]))
        value = r.uniform(-a, a, shape)
    return np.asarray(value, np.float32)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    return json.loads((HERE / "golden.json").read_text())


@pytest.fixture(scope="session")
def published_names() -> Callable[[str], list[tuple[str, tuple[int, ...]]]]:
    """Names and shapes in state_dict order, by architecture."""

    def read(arch: str) -> list[tuple[str, tuple[int, ...]]]:
        rows = json.loads((HERE / f"{arch}_state_dict.json").read_text())
        return [(name, tuple(shape)) for name, shape in rows]

    return read


@pytest.fixture(scope="session")
def golden_state(published_names: Any) -> Callable[[str], dict[str, Any]]:
    """A state_dict in published format, filled by the rule."""
    torch = pytest.importorskip("torch")

    def make(arch: str) -> dict[str, Any]:
        rows = enumerate(published_names(arch))
        return {name: torch.from_numpy(rule(j, name, shape)) for j, (name, shape) in rows}

    return make


@pytest.fixture(scope="session")
def golden_network(golden_state: Any) -> Callable[[str], Any]:
    """The network of an architecture, filled by the rule, in eval mode; made once."""
    pytest.importorskip("torch")
    from avsync.training.networks import VocaLiST
    from avsync.training.syncnet import SyncNet

    makers = {"vocalist": VocaLiST.teacher, "mtdvocalist": VocaLiST.student, "syncnet": SyncNet}
    made: dict[str, Any] = {}

    def make(arch: str) -> Any:
        if arch not in made:
            network = makers[arch]()
            network.load_state_dict(golden_state(arch), strict=True)
            made[arch] = network.eval()
        return made[arch]

    return make


@pytest.fixture(scope="session")
def golden_inputs() -> dict[str, Any]:
    """Inputs of the golden values as float32 tensors: video, mel, lip, audio."""
    torch = pytest.importorskip("torch")

    def uniform(seed: int, low: float, high: float, shape: tuple[int, ...]) -> Any:
        value = np.random.RandomState(seed).uniform(low, high, shape)
        return torch.from_numpy(value.astype(np.float32))

    return {
        "video": uniform(1000, 0, 255, (2, 15, 48, 96)),
        "mel": uniform(1001, -4, 4, (2, 1, 80, 16)),
        "lip": uniform(1002, 0, 255, (2, 3, 5, 224, 224)),
        "audio": uniform(1003, -20, 20, (2, 1, 13, 20)),
    }


@pytest.fixture(scope="session")
def golden_outputs(golden_network: Any, golden_inputs: Any) -> Callable[[str], Any]:
    """The forward pass on the golden inputs of a VocaLiST network, made once."""
    torch = pytest.importorskip("torch")
    made: dict[str, Any] = {}

    def make(arch: str) -> Any:
        if arch not in made:
            with torch.no_grad():
                made[arch] = golden_network(arch)(golden_inputs["video"], golden_inputs["mel"])
        return made[arch]

    return make


@pytest.fixture(scope="session")
def exported(tmp_path_factory: Any, golden_network: Any) -> Callable[[str], Path]:
    """The model folder of an architecture filled by the golden rule, made once."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from avsync.training.export_published import export_network

    made: dict[str, Path] = {}

    def make(arch: str) -> Path:
        if arch not in made:
            made[arch] = tmp_path_factory.mktemp(arch)
            export_network(golden_network(arch), arch, made[arch])
        return made[arch]

    return make
