"""The losses against published numbers and against formulas worked out by hand in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from avsync.errors import InvalidOptionError  # noqa: E402
from avsync.training.attention import LayerRelations  # noqa: E402
from avsync.training.losses import LOSSES, make_loss, relation_kl  # noqa: E402
from avsync.training.networks import STACKS, Fusion  # noqa: E402

SHAPES = {"fusion": (16, 5), "av": (16, 5), "va": (5, 16)}


def answer(seed: int, dim: int, batch: int = 4, heads: int = 2, *, grad: bool = False) -> Fusion:
    """A random answer with the mask of 5 queries over 16 keys."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Any:
        return torch.randn(*shape, generator=g).requires_grad_(grad)

    def layer(stack: str) -> LayerRelations:
        queries, keys = SHAPES[stack]
        mask = torch.zeros(queries, keys)
        if stack == "va":
            mask = torch.triu(torch.full((5, 16), float("-inf")), 12)
        return LayerRelations(
            rand(batch, heads, queries, keys) + mask, rand(batch, heads, keys, dim // heads)
        )

    relations = {stack: tuple(layer(stack) for _ in range(4)) for stack in STACKS}
    return Fusion(rand(batch), rand(batch, 16, dim), relations)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(teacher: np.ndarray, student: np.ndarray, per: str) -> float:
    t, s = softmax(teacher), softmax(student)
    total = (t * (np.log(t) - np.log(s))).sum()
    return float(total / (t.size if per == "element" else t.size / t.shape[-1]))


def layer_kl(stack: str, teacher: Any, student: Any, per: str) -> float:
    at, as_ = (x.attention_logits.numpy().astype(float) for x in (teacher, student))
    if stack == "va":
        at, as_ = np.maximum(at, 1e-5), np.maximum(as_, 1e-5)
    vt, vs = (x.values.numpy().astype(float) for x in (teacher, student))
    rt, rs = (v @ v.swapaxes(-1, -2) / math.sqrt(v.shape[-1]) for v in (vt, vs))
    return kl(at, as_, per) + kl(rt, rs, per)


LABELS = torch.tensor([1, 0, 1, 0])


def bce_of(logits: Any) -> float:
    z = logits.numpy().astype(float)
    y = LABELS.numpy()
    return float(np.mean(np.log1p(np.exp(-z)) * y + np.log1p(np.exp(z)) * (1 - y)))


def test_golden_mtd_loss(golden: Any, golden_outputs: Any) -> None:
    expected = golden["mtd_loss"]
    loss = make_loss("mtd")
    assert loss.sigma.shape == (expected["n_sigma"],)
    with torch.no_grad():
        terms = loss(
            golden_outputs("mtdvocalist"),
            torch.tensor(expected["labels"]),
            golden_outputs("vocalist"),
        )
    assert terms.bce.item() == pytest.approx(expected["bce_with_logits"], rel=1e-3)
    assert terms.total.item() == pytest.approx(expected["total_all_sigma_1"], rel=1e-3)
    # The constants are most of the total; the teacher's part alone must hold as well.
    part = 2 * (expected["total_all_sigma_1"] - 13 * math.log(2)) - expected["bce_with_logits"]
    assert terms.distillation.item() == pytest.approx(part, rel=1e-3)


@pytest.mark.parametrize(("reduction", "per"), [("mean", "element"), ("batchmean", "row")])
def test_mtd_is_the_formula_with_each_sigma_on_its_layer(reduction: str, per: str) -> None:
    student, teacher = answer(1, 8), answer(2, 12)
    loss = make_loss("mtd", reduction=reduction)
    sigma = np.linspace(0.5, 2.0, 13)
    with torch.no_grad():
        loss.sigma.copy_(torch.from_numpy(sigma))
        terms = loss(student, LABELS, teacher)
    parts = [bce_of(student.logits)]
    for stack in ("fusion", "av", "va"):
        for t, s in zip(teacher.relations[stack], student.relations[stack], strict=True):
            parts.append(layer_kl(stack, t, s, per))
    total = sum(p / (2 * v**2) + math.log(1 + v**2) for p, v in zip(parts, sigma, strict=True))
    assert terms.total.item() == pytest.approx(total, rel=1e-5)
    assert terms.distillation.item() == pytest.approx(sum(parts[1:]), rel=1e-5)


def test_only_va_is_clamped() -> None:
    student, teacher = answer(1, 8), answer(2, 8)
    loss = make_loss("mtd")
    before = loss(student, LABELS, teacher).total
    for stack, changes in (("fusion", True), ("av", True), ("va", False)):
        changed = dict(teacher.relations)
        changed[stack] = tuple(
            LayerRelations(torch.where(x.attention_logits < 0, -5.0, x.attention_logits), x.values)
            for x in teacher.relations[stack]
        )
        after = loss(student, LABELS, teacher._replace(relations=changed)).total
        assert (not torch.allclose(before, after)) is changes, stack


def test_mtd_gradients_are_finite_despite_the_mask_and_reach_sigma() -> None:
    student, teacher = answer(1, 8, grad=True), answer(2, 8, grad=True)
    loss = make_loss("mtd")
    loss(student, LABELS, teacher).total.backward()
    assert torch.all(torch.isfinite(loss.sigma.grad))
    assert torch.all(loss.sigma.grad != 0)
    assert torch.all(torch.isfinite(student.relations["va"][0].values.grad))
    assert teacher.relations["va"][0].values.grad is None
    assert teacher.logits.grad is None


def test_temperature_softens_both_and_scales_by_its_square() -> None:
    t, s = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    got = relation_kl(t, s, temperature=3.0).item()
    assert got == pytest.approx(9 * kl(t.numpy() / 3, s.numpy() / 3, "element"), rel=1e-4)


def test_kd_is_kl_of_two_classes_at_temperature_5() -> None:
    student, teacher = answer(1, 8), answer(2, 8)
    terms = make_loss("kd")(student, LABELS, teacher)
    p, q = (1 / (1 + np.exp(-a.logits.numpy().astype(float) / 5)) for a in (teacher, student))
    soft = 25 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    assert terms.total.item() == pytest.approx(0.1 * bce_of(student.logits) + 0.9 * soft, rel=1e-4)


def test_fitnet_is_mse_through_a_linear_map() -> None:
    student, teacher = answer(1, 8), answer(2, 12)
    loss = make_loss("fitnet", student_dim=8, teacher_dim=12)
    with torch.no_grad():
        terms = loss(student, LABELS, teacher)
    weight, bias = loss.regressor.weight.detach().numpy(), loss.regressor.bias.detach().numpy()
    gap = np.mean((student.fused.numpy() @ weight.T + bias - teacher.fused.numpy()) ** 2)
    assert terms.total.item() == pytest.approx(bce_of(student.logits) + 100 * gap, rel=1e-5)


def test_rkd_is_distances_and_angles_of_the_batch() -> None:
    student, teacher = answer(1, 8), answer(2, 12)
    terms = make_loss("rkd")(student, LABELS, teacher)

    def relations(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n = len(points)
        distance, angle = np.zeros((n, n)), np.zeros((n, n, n))
        for i in range(n):
            for j in range(n):
                distance[i, j] = np.linalg.norm(points[i] - points[j])
                for k in range(n):
                    a, b = points[i] - points[j], points[k] - points[j]
                    length = np.linalg.norm(a) * np.linalg.norm(b)
                    angle[j, i, k] = a @ b / length if length else 0.0
        return distance / distance[distance > 0].mean(), angle

    def smooth(x: np.ndarray, y: np.ndarray) -> float:
        d = np.abs(x - y)
        return float(np.where(d < 1, d * d / 2, d - 0.5).mean())

    pooled = [x.fused.numpy().astype(float).max(1) for x in (student, teacher)]
    (ds, as_), (dt, at) = map(relations, pooled)
    expected = 25 * smooth(ds, dt) + 50 * smooth(as_, at)
    assert terms.distillation.item() == pytest.approx(expected, rel=1e-4)
    assert terms.total.item() == pytest.approx(bce_of(student.logits) + expected, rel=1e-4)


def test_rkd_gradient_is_finite_when_two_samples_are_equal() -> None:
    student, teacher = answer(1, 8), answer(2, 8)
    fused = student.fused.clone()
    fused[1] = fused[0]
    student = student._replace(fused=fused.requires_grad_())
    make_loss("rkd")(student, LABELS, teacher).total.backward()
    assert torch.all(torch.isfinite(student.fused.grad))


def test_minilm_is_the_last_fusion_layer_per_row() -> None:
    student, teacher = answer(1, 8), answer(2, 12)
    terms = make_loss("minilm")(student, LABELS, teacher)
    expected = layer_kl(
        "fusion", teacher.relations["fusion"][3], student.relations["fusion"][3], "row"
    )
    assert terms.distillation.item() == pytest.approx(expected, rel=1e-5)
    three = make_loss("minilm", stacks=STACKS)(student, LABELS, teacher)
    assert torch.isfinite(three.total)
    assert three.distillation > terms.distillation


def test_none_is_the_labels_alone() -> None:
    student = answer(1, 8)
    terms = make_loss("none")(student, LABELS)
    assert terms.total.item() == pytest.approx(bce_of(student.logits), rel=1e-5)
    assert terms.distillation.item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_one_interface(name: str) -> None:
    student, teacher = answer(1, 8, grad=True), answer(2, 12)
    loss = make_loss(name, student_dim=8, teacher_dim=12)
    terms = loss(student, LABELS, teacher)
    assert terms.total.shape == terms.bce.shape == terms.distillation.shape == ()
    terms.total.backward()
    assert torch.all(torch.isfinite(student.logits.grad))
    if loss.needs_teacher:
        with pytest.raises(ValueError, match="needs the teacher"):
            loss(student, LABELS)


@pytest.mark.parametrize("name", ["mtd", "kd", "rkd", "minilm"])
def test_no_distillation_from_oneself(name: str) -> None:
    student = answer(1, 8)
    assert make_loss(name)(student, LABELS, student).distillation.item() == pytest.approx(
        0, abs=1e-6
    )


def test_refusals() -> None:
    with pytest.raises(InvalidOptionError, match="choose from mtd"):
        make_loss("tinybert")
    with pytest.raises(InvalidOptionError, match="temprature"):
        make_loss("mtd", temprature=2)
    with pytest.raises(InvalidOptionError, match="batchmean"):
        make_loss("mtd", reduction="sum")
    with pytest.raises(InvalidOptionError, match="stacks"):
        make_loss("minilm", stacks=("middle",))
    with pytest.raises(ValueError, match="heads"):
        make_loss("mtd")(answer(1, 8, heads=2), LABELS, answer(2, 8, heads=4))
