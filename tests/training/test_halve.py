"""Weights stored in half precision: exact ones only, and the graph computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from avsync.training.halve import eighth, halve  # noqa: E402
from avsync.training.onnx_graph import OnnxGraph  # noqa: E402

SIDE = 64


def graph(file: Path, weight: np.ndarray) -> Path:
    """x @ weight, x (n, SIDE)."""
    (x, y) = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIDE]) for name in ("x", "y")
    )
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [x],
        [y],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(file))
    return file


def run(file: Path, x: np.ndarray) -> np.ndarray:
    return np.asarray(ort.InferenceSession(str(file)).run(None, {"x": x})[0])


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((SIDE, SIDE)).astype(np.float32)


def computes_the_same(file: Path, share: float) -> None:
    """Of the file at most this share is left; it computes the same, and stays as it is then."""
    x = np.random.default_rng(1).standard_normal((5, SIDE)).astype(np.float32)
    before, size = run(file, x), file.stat().st_size
    halve(file)
    assert file.stat().st_size < share * size
    np.testing.assert_array_equal(run(file, x), before)
    runner = OnnxGraph(file.read_bytes())
    np.testing.assert_allclose(runner(torch.from_numpy(x)).numpy(), before, atol=1e-4)
    assert runner.double()(torch.from_numpy(x).double()).dtype == torch.float64
    again = file.read_bytes()
    halve(file)
    assert file.read_bytes() == again


def test_exact_halves_take_half_the_file_and_compute_the_same(
    tmp_path: Path, weight: np.ndarray
) -> None:
    exact = weight.astype(np.float16).astype(np.float32)
    computes_the_same(graph(tmp_path / "g.onnx", exact), 0.55)


@pytest.mark.parametrize("axis", [0, -1])
def test_exact_8_bit_weights_take_a_quarter_and_compute_the_same(
    tmp_path: Path, weight: np.ndarray, axis: int
) -> None:
    small, scale = eighth(weight, axis)
    assert small.dtype == np.int8
    assert scale.shape == ((SIDE, 1) if axis == 0 else (1, SIDE))
    exact = small * scale
    assert (np.abs(exact - weight) <= np.abs(weight).max(1 - axis % 2, keepdims=True) / 200).all()
    again, same = eighth(exact, axis)
    np.testing.assert_array_equal(again, small)
    np.testing.assert_array_equal(same, scale)
    computes_the_same(graph(tmp_path / "g.onnx", exact), 0.35)


@pytest.mark.parametrize("change", [1e-7, 1e9])
def test_what_half_precision_does_not_hold_stays(
    tmp_path: Path, weight: np.ndarray, change: float
) -> None:
    exact = weight.astype(np.float16).astype(np.float32)
    exact[3, 4] += np.float32(change)
    exact[3, 5] = 1.0 + 2**-20
    file = graph(tmp_path / "g.onnx", exact)
    before = file.read_bytes()
    halve(file)
    (kept,) = onnx.load(str(file)).graph.initializer
    assert kept.data_type == TensorProto.FLOAT
    np.testing.assert_array_equal(
        numpy_helper.to_array(kept),
        numpy_helper.to_array(onnx.load_from_string(before).graph.initializer[0]),
    )
