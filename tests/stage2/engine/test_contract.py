"""Every trained head × every loss against float64 autograd: values and gradients.

The reference is `reference.py`: one configuration, METHODS §3–4 written out, torch.autograd. Where
PyTorch or torchvision has a loss, it stands beside it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from stage2.engine.kernel import KERNELS, LossRows
from stage2.methods.family import Moment
from stage2.methods.heads import HEADS, Batch, Context
from stage2.methods.losses import LOSSES
from stage2.testing import settings_to_check
from tests.stage2 import reference
from tests.stage2.cases import HEAD_CASES, LOSS_CASES, MOMENT
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import problem

COUNTS = (60, 31, 17, 9, 5, 3, 1)
VIEW = problem(COUNTS, dim=6, seed=3).view()
ROWS = 40
WITHIN = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Allowed error of each precision, relative to the largest entry."""
Case = tuple[str, dict[str, Any]]

EVERY: list[Case] = [(loss, s) for loss, cases in LOSS_CASES.items() for s in cases]
ALIKE = {name: [case for case in EVERY if LOSSES[case[0]].kernel == name] for name in KERNELS}
"""Cases by kernel."""

PARTNERS = {("disalign", "c"): "v", ("cosine", "scale"): "weight"}
"""Parameters that are one number, a sum of which cancellation may leave little, and those whose
gradients have the size of its terms."""


def test_the_cases_reach_every_kernel() -> None:
    """Reference: the registry of kernels, and a name of it with every loss."""
    assert {loss.kernel for loss in LOSSES.values()} == set(KERNELS)
    assert all(ALIKE.values()), f"got {ALIKE}"


def _context(dtype: torch.dtype) -> Context:
    context = VIEW.context
    assert context.weight0 is not None
    assert context.bias0 is not None
    return replace(context, weight0=context.weight0.to(dtype), bias0=context.bias0.to(dtype))


def _rows(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Features and labels of the first training rows."""
    x, y = next(iter(VIEW.train.blocks()))
    return x[:ROWS].to(dtype), y[:ROWS]


def _stack(head: str, configs: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Parameters of `configs` configurations, the head's cases in turn, moved off their start."""
    cases = HEAD_CASES[head]
    settings = [{**cases[c % len(cases)], "seed": c} for c in range(configs)]
    generator = torch.Generator().manual_seed(5)
    moved = {}
    for name, value in HEADS[head].init(settings, _context(torch.float32)).items():
        noise = torch.randn(value.shape, generator=generator).to(value.dtype)
        moved[name] = (value + 0.3 * noise).to(dtype)
    return moved


def _kappa(cases: list[Case], rows: int, dtype: torch.dtype) -> Tensor | None:
    """Factors of the cases that weigh samples by their angle, [B, C], and 1 for the others."""
    angled = torch.tensor([settings.get("tau", 0) * (loss == "sla") for loss, settings in cases])
    if not angled.any():
        return None
    generator = torch.Generator().manual_seed(2)
    chance = torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    return torch.exp(chance * angled).to(dtype)


def _teacher(cases: list[Case], batch: Batch) -> Tensor | None:
    return batch.z0 if any(LOSSES[loss].needs_classifier for loss, _ in cases) else None


def _engine(
    head: str,
    parameters: dict[str, Tensor],
    cases: list[Case],
    context: Context,
    batch: Batch,
    y: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses [C] and gradients of the stack, by the implementation."""
    moment = Moment(**MOMENT)
    rows = LossRows.stack(
        [LOSSES[loss](context.counts, s, moment) for loss, s in cases],
        len(context.counts),
        dtype=batch.x.dtype,
    )
    z = HEADS[head].logits(parameters, batch)
    kernel = KERNELS[LOSSES[cases[0][0]].kernel]
    kappa = _kappa(cases, len(y), z.dtype)
    value, slope = kernel(z, y, rows, kappa=kappa, teacher=_teacher(cases, batch))
    return value, HEADS[head].gradients(parameters, batch, slope)


def _expected(
    head: str,
    own: dict[str, Tensor],
    case: Case,
    kappa: Tensor | None,
    context: Context,
    batch: Batch,
    y: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of one configuration, by autograd in float64."""
    assert context.weight0 is not None
    assert context.bias0 is not None
    p = {name: value.double().requires_grad_() for name, value in own.items()}
    w0, b0 = context.weight0.double(), context.bias0.double()
    x = batch.x.double()
    z = reference.logits(head, p, x, w0, b0)
    loss, settings = case
    counts = torch.from_numpy(np.asarray(context.counts))
    value = reference.loss(
        loss, z, y, settings, counts, **MOMENT, kappa=kappa, teacher=x @ w0.T + b0
    )
    names = reference.TRAINED[head]
    slopes = torch.autograd.grad(value, [p[name] for name in names])
    return value.detach(), dict(zip(names, slopes, strict=True))


def _check(head: str, cases: list[Case], *, within: dict[torch.dtype, float] = WITHIN) -> None:
    """Compare a stack in each precision; parameters and rows are float32 numbers in all of them."""
    got = {}
    for dtype in within:
        context, (x, y) = _context(dtype), _rows(dtype)
        batch, parameters = context.batch(x), _stack(head, len(cases), dtype)
        got[dtype] = _engine(head, parameters, cases, context, batch, y)
    names = reference.TRAINED[head]
    kappas = _kappa(cases, len(y), torch.float64)
    for c, case in enumerate(cases):
        own = {name: value[c] for name, value in parameters.items()}
        kappa = None if kappas is None else kappas[:, c]
        value, slopes = _expected(head, own, case, kappa, context, batch, y)
        sizes = {name: slopes[name].abs().max() for name in names}
        for dtype, (values, gradients) in got.items():
            assert set(gradients) == set(names), f"got {set(gradients)}, expected {set(names)}"
            what = f"{head} × {case[0]} {case[1]}, {c + 1} of {len(cases)}, {dtype}"
            assert_relative(values[c], value, within[dtype], f"loss of {what}")
            for name in names:
                size = max(sizes[name], sizes[PARTNERS.get((head, name), name)])
                allowed = within[dtype] * float(size)
                assert_close(gradients[name][c], slopes[name], allowed, f"∂L/∂{name} of {what}")


@pytest.mark.parametrize("loss", LOSS_CASES)
@pytest.mark.parametrize("head", HEAD_CASES)
def test_a_head_and_loss_alone(head: str, loss: str) -> None:
    """Reference: float64 autograd; float32 to 1e-5 of the largest entry, float64 to 1e-10."""
    for settings in LOSS_CASES[loss]:
        _check(head, [(loss, settings)])


@pytest.mark.parametrize("loss", LOSS_CASES)
def test_all_settings_of_a_loss_in_one_stack(loss: str) -> None:
    """Reference: float64 autograd of each configuration by itself; no other loss fills rows."""
    cases = [(loss, settings) for settings in LOSS_CASES[loss] for _ in range(2)]
    _check("linear", cases, within={torch.float32: 1e-5})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head", HEAD_CASES)
def test_a_head_with_every_loss_of_a_kernel_in_one_stack(head: str, kernel: str) -> None:
    """Reference: float64 autograd of each configuration; neutral rows beside all others."""
    _check(head, ALIKE[kernel])


def _logits(rows: int, *, spread: float = 2.0, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Logits [B, K] in float64, and labels that come by all classes."""
    generator = torch.Generator().manual_seed(seed)
    z = spread * torch.randn(rows, len(COUNTS), generator=generator, dtype=torch.float64)
    return z, torch.arange(rows) % len(COUNTS)


def _kernel(
    cases: list[Case], z: Tensor, y: Tensor, counts: tuple[float, ...] = COUNTS, **inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """What the cases' kernel makes of logits [B, C, K], of which it gets a copy; all configurations
    have the same teacher [B, K]."""
    if "teacher" in inputs:
        inputs["teacher"] = inputs["teacher"][:, None]
    n = np.array(counts, np.float64)
    tables = [LOSSES[loss](n, settings, Moment(**MOMENT)) for loss, settings in cases]
    rows = LossRows.stack(tables, len(counts), dtype=z.dtype)
    return KERNELS[LOSSES[cases[0][0]].kernel](z.detach().clone(), y, rows, **inputs)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_factors_and_weights_of_rows(kernel: str, weighted: bool) -> None:
    """Reference: float64 autograd with the factor κ of each row and, instead of 1/B, its weight."""
    cases = ALIKE[kernel]
    z, y = _logits(30)
    generator = torch.Generator().manual_seed(3)
    kappa = 3 * torch.rand(30, len(cases), generator=generator, dtype=torch.float64)
    teacher, _ = _logits(30, seed=4)
    inputs = {"kappa": kappa, "teacher": teacher}
    if weighted:
        inputs["row_weight"] = torch.rand(30, generator=generator, dtype=torch.float64)
    got, gradient = _kernel(cases, z[:, None].repeat(1, len(cases), 1), y, **inputs)
    n = torch.tensor(COUNTS, dtype=torch.float64)
    for c, (loss, settings) in enumerate(cases):
        own = z.clone().requires_grad_()
        of_rows = {**inputs, "kappa": kappa[:, c]}
        value = reference.loss(loss, own, y, settings, n, **MOMENT, **of_rows)
        (slope,) = torch.autograd.grad(value, own)
        assert_relative(got[c], value, 1e-10, f"loss of {loss} {settings}")
        assert_relative(gradient[:, c], slope, 1e-10, f"gradient of {loss} {settings}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_classes_one_row_and_equal_counts(kernel: str) -> None:
    """Reference: float64 autograd at K = 2, B = 1, with equal counts and with one sample."""
    for counts in ((5, 5), (9, 1), (1, 1)):
        z = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
        teacher = torch.tensor([[-0.3, 0.9]], dtype=torch.float64)
        for y in (torch.tensor([0]), torch.tensor([1])):
            got, gradient = _kernel(
                ALIKE[kernel],
                z[:, None].repeat(1, len(ALIKE[kernel]), 1),
                y,
                counts,
                teacher=teacher,
            )
            for c, (loss, settings) in enumerate(ALIKE[kernel]):
                own, n = z.clone().requires_grad_(), torch.tensor(counts, dtype=torch.float64)
                value = reference.loss(loss, own, y, settings, n, **MOMENT, teacher=teacher)
                (slope,) = torch.autograd.grad(value, own)
                what = f"{loss} {settings} with counts {counts}, y = {int(y)}"
                assert_close(got[c], value, 1e-10, f"loss of {what}")
                assert_close(gradient[0, c], slope[0], 1e-10, f"gradient of {what}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_equal_logits(kernel: str) -> None:
    """Reference: float64 autograd where all logits are the same, and no class is the largest."""
    cases, y = ALIKE[kernel], torch.arange(14) % len(COUNTS)
    z = torch.full((14, len(COUNTS)), 1.25, dtype=torch.float64)
    got, gradient = _kernel(cases, z[:, None].repeat(1, len(cases), 1), y, teacher=2 * z)
    for c, (loss, settings) in enumerate(cases):
        own, n = z.clone().requires_grad_(), torch.tensor(COUNTS, dtype=torch.float64)
        value = reference.loss(loss, own, y, settings, n, **MOMENT, teacher=2 * z)
        (slope,) = torch.autograd.grad(value, own)
        assert_relative(got[c], value, 1e-10, f"loss of {loss} {settings}")
        assert_relative(gradient[:, c], slope, 1e-10, f"gradient of {loss} {settings}")


def test_losses_that_pytorch_and_torchvision_have() -> None:
    """Reference: cross_entropy, binary_cross_entropy, sigmoid_focal_loss and kl_div."""
    z, y = _logits(42)
    z0, _ = _logits(42, seed=8)
    hot = functional.one_hot(y, len(COUNTS)).double()
    inverse = torch.tensor([1 / n for n in COUNTS], dtype=torch.float64)
    effective = torch.tensor([1 / (1 - 0.99**n) for n in COUNTS], dtype=torch.float64)
    effective *= len(COUNTS) / effective.sum()
    of_rows = effective[y][:, None].expand(-1, len(COUNTS))
    nearer = functional.kl_div(
        torch.log_softmax(z / 3, 1), torch.softmax(z0 / 3, 1), reduction="batchmean"
    )
    groups = "many+medium+few"
    focal = sigmoid_focal_loss(z, hot, alpha=-1, gamma=2.0, reduction="none")
    expected: list[tuple[str, dict[str, Any], Tensor]] = [
        ("ce", {}, functional.cross_entropy(z, y)),
        ("los", {"smoothing": 0.3}, functional.cross_entropy(z, y, label_smoothing=0.3)),
        ("weighted", {"rho": 1.0}, functional.cross_entropy(z, y, weight=inverse)),
        (
            "weighted",
            {"rho": 1.0, "normalise": "batch"},
            functional.cross_entropy(z, y, reduction="none") @ inverse[y] * 7 / inverse.sum() / 42,
        ),
        ("cb_bce", {"beta": 0.99}, functional.binary_cross_entropy(z.softmax(1), hot, of_rows)),
        ("sigmoid_focal", {"gamma": 2.0, "beta": 0.0}, focal.sum() / 42),
        ("sigmoid_focal", {"gamma": 2.0, "beta": 0.99}, (focal * of_rows).sum() / 42),
        (
            "sigmoid_focal",
            {"gamma": 0.0, "beta": 0.0},
            functional.binary_cross_entropy_with_logits(z, hot, reduction="sum") / 42,
        ),
        (
            "distil",
            {"distil_weight": 0.7, "temperature": 3.0, "distil_groups": groups},
            functional.cross_entropy(z, y) + 0.7 * 9 * nearer,
        ),
    ]
    for dtype, within in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        for loss, settings, value in expected:
            got, _ = _kernel([(loss, settings)], z[:, None].to(dtype), y, teacher=z0.to(dtype))
            assert_relative(got[0], value, within, f"{loss} {settings}, {dtype}")


def test_distillation_alone_pays_for_itself() -> None:
    """Reference: the same losses without it beside them; and no z⁰ where nobody distils."""
    z, y = _logits(21)
    teacher, _ = _logits(21, seed=6)
    cases: list[Case] = [("ce", {}), ("distil", {"distil_weight": 1.0}), ("los", {})]
    stacked = z[:, None].repeat(1, 3, 1)
    got, gradient = _kernel(cases, stacked, y, teacher=teacher)
    for c in (0, 2):
        alone, slope = _kernel([cases[c]], stacked[:, :1], y)
        assert_close(got[c], alone[0], 1e-12, cases[c][0])
        assert_close(gradient[:, c], slope[:, 0], 1e-12, cases[c][0])
    without, _ = _kernel([("distil", {"distil_weight": 0.0})], stacked[:, :1], y)
    assert_close(without[0], got[0], 1e-12, "distil at α = 0")
    assert got[1] > got[0], f"got {got}: the divergence is positive"


@pytest.mark.parametrize(("loss", "settings"), EVERY)
def test_a_loss_on_confident_and_on_wrong_logits(loss: str, settings: dict[str, Any]) -> None:
    """Reference: float64 autograd on logits up to ±40, in float64 to 1e-9 and float32 to 1e-5.

    Every row by itself, so that a row whose loss is nearly nothing counts like any other; what lies
    below float32's rounding of the logits themselves is let pass.
    """
    n = torch.tensor(COUNTS, dtype=torch.float64)
    z, y = _logits(30, spread=1.0)
    z = (z * torch.linspace(0.1, 16, 30, dtype=torch.float64)[:, None]).float().double()
    teacher = _logits(30, seed=5)[0].float().double()
    for i in range(30):
        row, label, taught = z[i : i + 1], y[i : i + 1], teacher[i : i + 1]
        exact = row.clone().requires_grad_()
        value = reference.loss(loss, exact, label, settings, n, **MOMENT, teacher=taught)
        (slope,) = torch.autograd.grad(value, exact)
        for dtype, within, floor in ((torch.float64, 1e-9, 1e-14), (torch.float32, 1e-5, 5e-6)):
            inputs = row[:, None].to(dtype), label
            got, gradient = _kernel([(loss, settings)], *inputs, teacher=taught.to(dtype))
            for name, a, b in (("loss", got[0], value), ("gradient", gradient[0, 0], slope[0])):
                size = b.detach().abs().max()
                gap = (a.double() - b.detach()).abs().max()
                assert gap <= max(within * size, floor), (
                    f"{name} of {loss} {settings}, row {i}, {dtype}: got {a}, expected {b.detach()}"
                )


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if not loss.weighs_rows])
def test_gradients_of_convex_losses_are_monotone(loss: str) -> None:
    """Reference: ⟨∇L(a) − ∇L(b), a − b⟩ ≥ 0 for each of 4,000 rows, which convexity is; a loss that
    is not called convex breaks it. Not for one that weighs rows: its gradient is of no function."""
    generator = torch.Generator().manual_seed(7)
    n, classes = 4000, len(COUNTS)
    ends = [4 * torch.randn(n, 1, classes, generator=generator, dtype=torch.float64) for _ in "ab"]
    y = torch.arange(n) % classes
    teacher = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    expected, below = True, True
    for settings in LOSS_CASES.get(loss) or settings_to_check(LOSSES[loss].settings):
        a, b = (_kernel([(loss, settings)], z, y, teacher=teacher)[1][:, 0] for z in ends)
        along = ((a - b) * (ends[0] - ends[1])[:, 0]).sum(1)
        holds, convex = bool((along >= -1e-12).all()), LOSSES[loss].convex_at(settings)
        assert holds or not convex, f"{loss} at {settings} is not convex"
        expected, below = expected and convex, below and holds
    assert below == expected, f"{loss} looks convex: {below}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_logits_beyond_the_exponential(kernel: str) -> None:
    """Reference: float64 autograd of the plainest loss, at gaps that underflow and overflow
    float32; all others must be finite."""
    z = torch.tensor([[300.0, 0, -300, 5, 0, 0, 0], [-300, 0, 300, 5, 0, 0, 0]])
    y, cases = torch.tensor([0, 0]), ALIKE[kernel]
    every = _kernel(cases, z[:, None].repeat(1, len(cases), 1), y, teacher=z / 100)
    for values in every:
        assert bool(values.isfinite().all()), f"got {values}"
    plain: dict[str, Case] = {
        "family": ("ce", {}),
        "softmax_bce": ("cb_bce", {"beta": 0.0}),
        "sigmoid_focal": ("sigmoid_focal", {"gamma": 0.0, "beta": 0.0}),
        "dot_regression": ("dot_regression", {"scale": 1.0}),
        "lade": ("lade", {"alpha": 0.5, "penalty": 0.1}),
        "clouded": ("gcl", {"margin": 0.1, "scale": 5.0, "gamma": 0.0}),
    }
    loss, settings = plain[kernel]
    exact, n = z.double().requires_grad_(), torch.tensor(COUNTS, dtype=torch.float64)
    value = reference.loss(loss, exact, y, settings, n)
    (slope,) = torch.autograd.grad(value, exact)
    got, gradient = _kernel([plain[kernel]], z[:, None], y)
    assert_relative(got[0], value, 1e-6, loss)
    assert_relative(gradient[:, 0], slope, 1e-6, f"slope of {loss}")
