"""Configurations that see features of their own, against float64 autograd of each by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stage2.engine.kernel import KERNELS, LossRows
from stage2.methods.family import LossParameters, Moment
from stage2.methods.heads import HEADS, Batch, Context, Parameters, TrainedHead, algebra
from stage2.methods.losses import LOSSES
from stage2.methods.precision import precision, product
from stage2.methods.precisions import PRECISIONS
from tests.stage2 import reference
from tests.stage2.cases import HEAD_CASES, MOMENT
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import problem

COUNTS = (60, 31, 17, 9, 5, 3, 1)
BITS = {"fp32": 24, "tf32": 11, "bf16": 8}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
EDGES = {
    "usual": (COUNTS, 6, 40),
    "two classes, one feature": ((9, 3), 1, 12),
    "an empty class": ((7, 0, 4), 2, 11),
    "one row": ((5, 4), 4, 1),
}
"""Training counts, D and B."""


def _trained(head: str) -> TrainedHead:
    found = HEADS[head]
    assert isinstance(found, TrainedHead)
    return found


def _context(counts: tuple[int, ...], dim: int) -> Context:
    return problem(counts, dim=dim, seed=3).view().context


def _as(context: Context, dtype: torch.dtype) -> Context:
    return context.double() if dtype == torch.float64 else context


def _cases(head: str, dim: int) -> list[dict[str, Any]]:
    """Three configurations at least."""
    parts = {"heads": 1} if head == "tde" and dim == 1 else {}
    return [{**case, **parts} for case in HEAD_CASES[head] * 3]


def _moved(head: str, cases: list[dict[str, Any]], context: Context) -> Parameters:
    """A stack of starts, moved at random."""
    generator = torch.Generator().manual_seed(5)
    start = HEADS[head].init([{"seed": c, **case} for c, case in enumerate(cases)], context)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in start.items()
    }


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _expected(
    head: str, own: Parameters, x: Tensor, grad: Tensor, context: Context
) -> tuple[Tensor, Parameters]:
    """Logits [B, K] of one configuration and the gradients of Σ G·z, by autograd."""
    context = context.double()
    assert context.weight0 is not None
    assert context.bias0 is not None
    p = {name: value.double().requires_grad_() for name, value in own.items()}
    z = reference.logits(head, p, x.double(), context.weight0, context.bias0)
    names = reference.TRAINED[head]
    slopes = torch.autograd.grad((z * grad.double()).sum(), [p[name] for name in names])
    return z.detach(), dict(zip(names, slopes, strict=True))


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("head", HEAD_CASES)
def test_logits_and_gradients(head: str, edge: str) -> None:
    """Reference: METHODS §3 in float64 and its autograd; float32 to 1e-5, float64 to 1e-10."""
    counts, dim, rows = EDGES[edge]
    context, cases = _context(counts, dim), _cases(head, dim)
    parameters = _moved(head, cases, context)
    x = _random(rows, len(cases), dim)
    grad = _random(rows, len(cases), len(counts), seed=2)
    for dtype, within in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        stack = {name: value.to(dtype) for name, value in parameters.items()}
        batch = _as(context, dtype).batch(x.to(dtype))
        z = HEADS[head].logits(stack, batch)
        assert z.is_contiguous(), f"logits of {head} in {z.stride()}"
        gradients = _trained(head).gradients(stack, batch, grad.to(dtype))
        for c, case in enumerate(cases):
            own = {name: value[c] for name, value in parameters.items()}
            logits, slopes = _expected(head, own, x[:, c], grad[:, c], context)
            what = f"{head} {case}, {c + 1} of {len(cases)}, {dtype}"
            assert_relative(z[:, c], logits, within, f"logits of {what}")
            assert set(gradients) == set(slopes), f"got {set(gradients)}"
            size = max(float(slope.abs().max()) for slope in slopes.values())
            for name, slope in slopes.items():
                assert_close(gradients[name][c], slope, within * size, f"∂L/∂{name} of {what}")


@pytest.mark.parametrize("head", HEAD_CASES)
def test_the_same_features_for_all(head: str) -> None:
    """Reference: the features shared, [B, D]."""
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, x = _moved(head, cases, context), _random(20, 6)
    grad, y = _random(20, len(cases), len(COUNTS), seed=2), torch.arange(20) % len(COUNTS)
    own = x[:, None].expand(-1, len(cases), -1)

    def found(batch: Batch) -> Parameters:
        z = HEADS[head].logits(parameters, batch)
        return {
            "logits": z,
            "evaluation": HEADS[head].evaluate(parameters, batch),
            "cosines": _trained(head).cosine(parameters, batch, z, y),
            **_trained(head).gradients(parameters, batch, grad),
        }

    expected = found(context.batch(x))
    for layout in (own, own.contiguous(), own.transpose(0, 1).contiguous().transpose(0, 1)):
        for name, value in found(context.batch(layout)).items():
            assert_relative(value, expected[name], 1e-5, f"{name} of {head}, {layout.stride()}")


@pytest.mark.parametrize("head", HEAD_CASES)
def test_one_configuration(head: str) -> None:
    """Reference: METHODS §3 in float64; C = 1, where [B, 1, D] could be taken for shared."""
    context, x = _context(COUNTS, 6), _random(9, 1, 6)
    parameters = _moved(head, HEAD_CASES[head][:1], context)
    z = HEADS[head].logits(parameters, context.batch(x))
    own = {name: value[0] for name, value in parameters.items()}
    expected, _ = _expected(head, own, x[:, 0], torch.zeros(9, len(COUNTS)), context)
    assert_relative(z[:, 0], expected, 1e-5, f"logits of {head}")


@pytest.mark.parametrize("head", HEAD_CASES)
def test_cosine_to_the_own_class(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: ⟨x, w_y⟩/(‖x‖‖w_y‖) in float64, in one block of rows and in many."""
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, x = _moved(head, cases, context), _random(30, len(cases), 6)
    y = torch.arange(30) % len(COUNTS)
    batch = context.batch(x)
    w0 = context.double().weight0
    assert w0 is not None
    for size in (1 << 20, 300, 1):
        monkeypatch.setattr(algebra, "GATHER_BYTES", size)
        z = HEADS[head].logits(parameters, batch)
        got = _trained(head).cosine(parameters, batch, z, y)
        assert got.shape == (30, len(cases)), f"got {tuple(got.shape)}, expected [B, C]"
        for c, case in enumerate(cases):
            own = {name: value[c].double() for name, value in parameters.items()}
            expected = reference.own_cosine(head, own, x[:, c].double(), y, w0)
            assert_close(got[:, c], expected, 1e-5, f"cosine of {head} {case}")


@pytest.mark.parametrize("head", HEAD_CASES)
def test_features_and_weights_of_zeros(head: str) -> None:
    """Reference: the limits: nothing is NaN, and the cosine to nothing is 0."""
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, y = _moved(head, cases, context), torch.arange(14) % len(COUNTS)
    flat = {name: torch.zeros_like(value) for name, value in parameters.items()}
    grad = _random(14, len(cases), len(COUNTS))
    x = _random(14, len(cases), 6)
    x[:, 1] = 0
    for stack in (parameters, {**flat, "direction": parameters.get("direction", x)}):
        batch = context.batch(x)
        z = HEADS[head].logits(stack, batch)
        angle = _trained(head).cosine(stack, batch, z, y)
        if head not in ("mlp", "etf"):  # their last layer sees a, not 0
            assert_close(angle[:, 1], np.zeros(14), 0.0, f"cosine of 0, {head}")
        slopes = _trained(head).gradients(stack, batch, grad)
        for name, value in {"logits": z, "cosines": angle, **slopes}.items():
            assert bool(value.isfinite().all()), f"{name} of {head}: got {value}"


def test_stage1_logits_broadcast_over_configurations() -> None:
    """Reference: z⁰ = W₀x + b₀ in float64, row by row; [B, 1, K] of shared features, known or not,
    and [B, C, K] of own ones."""
    context = _context(COUNTS, 6)
    exact = context.double()
    assert exact.weight0 is not None
    assert exact.bias0 is not None
    x, rows = _random(12, 6), torch.tensor([3, 3, 0, 11])
    z0 = torch.stack([exact.weight0 @ row + exact.bias0 for row in x.double()])
    known = z0.float() + 1  # a known one is taken as it is
    for batch, expected in (
        (context.batch(x), z0),
        (context.batch(x, rows), z0[rows]),
        (context.batch(x, z0=known), known),
        (context.batch(x, rows, known), known[rows]),
    ):
        assert_close(batch.z0, expected[:, None], 1e-5, "z⁰ of shared features")
    own = _random(5, 3, 6, seed=4)
    expected = torch.stack([own[:, c].double() @ exact.weight0.T + exact.bias0 for c in range(3)])
    assert_close(context.batch(own).z0, expected.transpose(0, 1), 1e-5, "z⁰ of own features")
    unit = own / own.norm(dim=2, keepdim=True)
    assert_close(context.batch(own).unit, unit, 1e-6, "features of length 1")


@pytest.mark.parametrize("head", [h for h in HEAD_CASES if _trained(h).reads_z0])
def test_known_stage1_logits(head: str) -> None:
    """Reference: the same without them."""
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, x = _moved(head, cases, context), _random(12, 6)
    rows = torch.tensor([3, 3, 0, 11])
    grad = _random(4, len(cases), len(COUNTS), seed=2)
    plain, known = context.batch(x[rows]), context.batch(x, rows, context.batch(x).z0[:, 0])
    expected = HEADS[head].logits(parameters, plain)
    assert_relative(HEADS[head].logits(parameters, known), expected, 1e-6, "logits")
    slopes = _trained(head).gradients(parameters, plain, grad)
    for name, slope in _trained(head).gradients(parameters, known, grad).items():
        assert_relative(slope, slopes[name], 1e-5, f"∂L/∂{name}")


@pytest.mark.parametrize("head", [name for name in HEAD_CASES if name != "mlp"])
@pytest.mark.parametrize("own", [False, True])
def test_all_configurations_take_one_product(
    head: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: by definition, forwards and backwards; none for those of z⁰ alone."""
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, seen = _moved(head, cases, context), []

    def counted(*factors: Tensor | None) -> Tensor:
        seen.append(len(factors))
        return product(*factors)  # type: ignore[arg-type]

    monkeypatch.setattr(algebra, "product", counted)
    batch = context.batch(_random(8, len(cases), 6) if own else _random(8, 6))
    HEADS[head].logits(parameters, batch)
    forwards = len(seen)
    _trained(head).gradients(parameters, batch, _random(8, len(cases), len(COUNTS)))
    # `disalign` needs its confidence again, `etf` its projection.
    products = {"lws": (0, 0), "marc": (0, 0), "disalign": (1, 2), "etf": (1, 2)}
    expected = products.get(head, (1, 1))
    assert (forwards, len(seen) - forwards) == expected


def _rounded(x: Tensor, bits: int) -> Tensor:
    """Rounded to so many significant bits, in float64."""
    mantissa, exponent = torch.frexp(x.double())
    return torch.ldexp((mantissa * 2**bits).round(), exponent - bits)


def _check_products(name: str, device: str) -> None:
    """`project` and `weight_gradient` at a precision, [C] products each."""
    x, weight = _random(9, 4, 40).to(device), _random(4, 5, 40, seed=2).to(device)
    grad, bias = _random(9, 4, 5, seed=3).to(device), _random(4, 5, seed=4).to(device)
    with precision(name):
        z, shifted = algebra.project(x, weight), algebra.project(x, weight, bias)
        slope = algebra.weight_gradient(grad, x)
    assert z.dtype == slope.dtype == torch.float32
    for c in range(4):
        a, w, g = (_rounded(t, BITS[name]) for t in (x[:, c], weight[c], grad[:, c]))
        assert_close(z[:, c], a @ w.T, 1e-5, f"{name}, configuration {c}")
        assert_close(shifted[:, c], a @ w.T + bias[c], 1e-5, f"{name} with a bias")
        assert_close(slope[c], g.T @ a, 1e-5, f"∂L/∂W at {name}")
        if name != "fp32":
            gap = float((z[:, c] - x[:, c].double() @ weight[c].double().T).abs().max())
            assert gap > 1e-4, f"nothing was rounded: {gap:.2g}"


@pytest.mark.parametrize("name", PRECISIONS)
def test_products_have_factors_of_so_many_bits(name: str) -> None:
    """Reference: factors rounded to that many significant bits with frexp, summed in float64."""
    _check_products(name, "cpu")


@pytest.mark.gpu
@CUDA
@pytest.mark.parametrize("name", ["fp32", "bf16"])  # tensor cores cut off what tf32 rounds
def test_products_on_a_gpu(name: str) -> None:
    """Reference: as above."""
    _check_products(name, "cuda")


@pytest.mark.parametrize("name", ["tf32", "bf16"])
@pytest.mark.parametrize("head", [h for h in HEAD_CASES if h not in ("lws", "marc")])
def test_a_head_at_a_precision(head: str, name: str) -> None:
    """Reference: each configuration alone at that precision, and fp32, which lies near but
    elsewhere."""
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, x = _moved(head, cases, context), _random(20, len(cases), 6)
    grad = _random(20, len(cases), len(COUNTS), seed=2)

    def found(stack: Parameters, batch: Batch, of: Tensor) -> Parameters:
        z = HEADS[head].logits(stack, batch)
        return {"logits": z.transpose(0, 1), **_trained(head).gradients(stack, batch, of)}

    exact = found(parameters, context.batch(x), grad)
    with precision(name):
        got = found(parameters, context.batch(x), grad)
        for c in range(len(cases)):
            own = {key: value[c : c + 1] for key, value in parameters.items()}
            of = grad[:, c : c + 1].contiguous()
            for key, value in found(own, context.batch(x[:, c]), of).items():
                assert_relative(got[key][c], value[0], 1e-4, f"{key} of {head}, {c}")
    for key, value in got.items():
        assert_relative(value, exact[key], 0.05, f"{key} of {head} at {name}")
    assert float((got["logits"] - exact["logits"]).abs().max()) > 1e-5, "nothing was rounded"


DISTILLING = [
    LossParameters(),
    LossParameters(distil=0.7, temperature=3.0),
    LossParameters(smoothing=np.full(7, 0.2)),
    LossParameters(distil=1.5, distil_classes=np.array([1.0, 1, 1, 0, 0, 0, 0])),
    LossParameters(distil=0.2, temperature=0.5, weight=np.arange(1.0, 8.0), by_weights=True),
]


@pytest.mark.parametrize("own", [False, True])
def test_distillation_from_own_teachers(own: bool) -> None:
    """Reference: torch.nn.functional.kl_div and its autograd in float64, above the loss without."""
    y = torch.arange(12) % 7
    z = _random(12, len(DISTILLING), 7).double()
    teacher = 2 * _random(12, len(DISTILLING) if own else 1, 7, seed=2).double()
    kernel = KERNELS["family"]

    def found(rows: list[LossParameters], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        stack = LossRows.stack(rows, 7, dtype=dtype)
        return kernel(z.to(dtype, copy=True), y, stack, teacher=teacher.to(dtype))

    for dtype, within in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        value, gradient = found(DISTILLING, dtype)
        bare = [replace(row, distil=0.0) for row in DISTILLING]
        without, slope = found(bare, torch.float64)
        for c, row in enumerate(DISTILLING):
            student = z[:, c].clone().requires_grad_()
            taught = teacher[:, c if own else 0]
            nearer = functional.kl_div(
                torch.log_softmax(student / row.temperature, 1),
                torch.softmax(taught / row.temperature, 1),
                reduction="none",
            ).sum(1)
            some = (
                torch.ones(12)
                if row.distil_classes is None
                else torch.tensor(row.distil_classes)[y]
            )
            extra = row.distil * row.temperature**2 * (nearer * some).mean()
            (of_extra,) = torch.autograd.grad(extra, student)
            assert_relative(value[c], without[c] + extra.detach(), within, f"{row}, {dtype}")
            expected = slope[:, c] + of_extra
            assert_relative(gradient[:, c], expected, within, f"gradient of {row}, {dtype}")


@pytest.mark.parametrize("head", HEAD_CASES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])])
def test_a_loss_that_distils_through_a_head(head: str, device: str) -> None:
    """Reference: float64 autograd of head and loss, for each configuration on its own features."""
    settings = {"distil_weight": 1.0, "temperature": 2.0, "distil_groups": "many+medium"}
    context, cases = _context(COUNTS, 6), _cases(head, 6)
    parameters, x = _moved(head, cases, context), _random(30, len(cases), 6)
    y = torch.arange(30) % len(COUNTS)
    row = LOSSES["distil"](context.counts, settings, Moment(**MOMENT))
    rows = LossRows.stack([row] * len(cases), len(COUNTS), device=device)
    assert context.weight0 is not None
    assert context.bias0 is not None
    w0, b0 = context.weight0, context.bias0
    there = replace(
        context, device=torch.device(device), weight0=w0.to(device), bias0=b0.to(device)
    )
    stack = {name: value.to(device) for name, value in parameters.items()}
    batch, labels = there.batch(x.to(device)), y.to(device)
    kernel: Callable[..., tuple[Tensor, Tensor]] = KERNELS["family"]
    value, slope = kernel(HEADS[head].logits(stack, batch), labels, rows, teacher=batch.z0)
    gradients = _trained(head).gradients(stack, batch, slope)
    n = torch.tensor(COUNTS, dtype=torch.float64)
    names = reference.TRAINED[head]
    for c, case in enumerate(cases):
        p = {name: own[c].double().requires_grad_() for name, own in parameters.items()}
        own_x = x[:, c].double()
        z = reference.logits(head, p, own_x, w0.double(), b0.double())
        z0 = own_x @ w0.double().T + b0.double()
        loss = reference.loss("distil", z, y, settings, n, **MOMENT, teacher=z0)
        slopes = torch.autograd.grad(loss, [p[name] for name in names])
        assert_relative(value[c], loss.detach(), 1e-5, f"loss of {head} {case}")
        size = max(float(own.abs().max()) for own in slopes)
        for name, own in zip(names, slopes, strict=True):
            assert_close(gradients[name][c], own, 1e-5 * size, f"∂L/∂{name} of {head} {case}")
