"""Heads on text against their papers' formulas, in float64 and row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from featbank import errors
from featbank.settings import resolved
from stage2.methods.heads import HEADS, Context, TextClassifier, TrainedHead, trained_head
from stage2.methods.heads.interface import Parameters
from stage2.methods.optimisers import SGD, AdamW
from tests.stage2.compare import array, assert_close, assert_relative

SPACE = Path(__file__).parents[3].parent / "shared" / "data" / "cifar100lt-conse-minilm.npz"
COUNTS = (30, 12, 6, 3)
DIM, LENGTH, SCALE = 9, 10.6, 20.0


class Data:
    """Rows of one length around class means, and text embeddings near these."""

    def __init__(self, counts: tuple[int, ...] = COUNTS, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        means = rng.normal(0, 1, (len(counts), DIM))
        self.counts = np.array(counts, np.float64)
        self.y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        self.x = self._rows(means[self.y] + rng.normal(0, 1, (len(self.y), DIM)))
        self.test = self._rows(rng.normal(0, 1, (17, DIM)))
        self.t = self._rows(means + rng.normal(0, 0.7, means.shape)) / LENGTH
        self.w0, self.b0 = rng.normal(0, 1, means.shape), rng.normal(0, 1, len(counts))

    @staticmethod
    def _rows(x: np.ndarray) -> np.ndarray:
        rows = LENGTH * x / np.linalg.norm(x, axis=1, keepdims=True)
        return rows.astype(np.float32).astype(np.float64)

    def text(self, x: np.ndarray) -> np.ndarray:
        """s·⟨t_k, x/‖x‖⟩."""
        return SCALE * (x / np.linalg.norm(x, axis=1, keepdims=True)) @ self.t.T

    def context(self, block: int | None = None) -> Context:
        """As heads see it, rows in blocks."""
        x, y = torch.from_numpy(self.x).float(), torch.from_numpy(self.y)
        size = block or len(x)
        return Context(
            self.counts,
            DIM,
            x.device,
            lambda: zip(x.split(size), y.split(size), strict=True),
            torch.from_numpy(self.w0).float(),
            torch.from_numpy(self.b0).float(),
            text=TextClassifier(torch.from_numpy(self.t * SCALE / LENGTH).float(), SCALE),
        )


def settings(name: str, **given: Any) -> dict[str, Any]:
    return {**resolved(HEADS[name].settings, given, name), "seed": 0}


def centred(z: np.ndarray) -> np.ndarray:
    """Logits [B, K] without a term common to all classes."""
    return z - z.mean(1, keepdims=True)


def logits(name: str, data: Data, *cases: Mapping[str, Any]) -> np.ndarray:
    """Logits [B, C, K] of the test rows, as the head is used."""
    context, head = data.context(), HEADS[name]
    start = head.init([settings(name, **case) for case in cases], context)
    return array(head.evaluate(start, context.batch(torch.from_numpy(data.test).float())))


def zero_shot(data: Data, x: np.ndarray) -> np.ndarray:
    return data.text(x)


def tip_adapter(
    data: Data, x: np.ndarray, *, alpha: float, beta: float, class_weight: str
) -> np.ndarray:
    z = data.text(x)
    for row, at in enumerate(x):
        for own, k in zip(data.x, data.y, strict=True):
            cosine = at @ own / (np.linalg.norm(at) * np.linalg.norm(own))
            weight = len(data.y) / (len(data.t) * data.counts[k])
            z[row, k] += (
                alpha * np.exp(-beta * (1 - cosine)) * (weight if class_weight == "balanced" else 1)
            )
    return z


def gda_text(data: Data, x: np.ndarray, *, alpha: float) -> np.ndarray:
    """The formula of the paper with a D×D inverse; equal priors."""
    means = np.stack([data.x[data.y == k].mean(0) for k in range(len(data.t))])
    centred = data.x - means[data.y]
    rows, dim = centred.shape
    covariance = centred.T @ centred / (rows - 1)
    precision = dim * np.linalg.inv((rows - 1) * covariance + np.trace(covariance) * np.eye(dim))
    b = -0.5 * np.einsum("kd,de,ke->k", means, precision, means)
    return data.text(x) + alpha * (x @ precision @ means.T + b)


def gla(
    data: Data, x: np.ndarray, *, tau: float, temperature: float, text_scale: float | None
) -> np.ndarray:
    """The estimate of q and a by SciPy, on the rows of the classes at equal weight."""
    z, classes = data.text(data.x), len(data.t)
    own = np.arange(len(z)), data.y

    def risk(point: np.ndarray) -> float:
        a = point[0] if text_scale is None else text_scale
        losses = -log_softmax(a * z + point[1:], axis=1)[own]
        return float(np.mean([losses[data.y == k].mean() for k in range(classes)]))

    best = minimize(risk, np.r_[1.0, np.zeros(classes)], method="BFGS", options={"gtol": 1e-8}).x
    a = best[0] if text_scale is None else text_scale
    shift = best[1:] - best[1:].mean()
    probe = x @ data.w0.T + data.b0 - tau * np.log(data.counts / data.counts.sum())
    return probe / temperature + a * data.text(x) + shift


CASES: list[tuple[Callable[..., np.ndarray], list[dict[str, Any]], float]] = [
    (zero_shot, [{}], 1e-5),
    (
        tip_adapter,
        [
            {"alpha": 1.0, "beta": 5.5, "class_weight": "none"},
            {"alpha": 2.5, "beta": 5.5, "class_weight": "balanced"},
            {"alpha": 0.3, "beta": 30.0, "class_weight": "none"},
            {"alpha": 3.0, "beta": 0.0, "class_weight": "balanced"},
            {"alpha": 0.0, "beta": 1.0, "class_weight": "none"},
        ],
        1e-5,
    ),
    (gda_text, [{"alpha": a} for a in (0.0, 0.01, 1.0, 100.0)], 1e-5),
    (
        gla,
        [
            {"tau": 1.0, "temperature": 1.0, "text_scale": None},
            {"tau": 0.0, "temperature": 2.0, "text_scale": None},
            {"tau": 1.5, "temperature": 1.0, "text_scale": 0.3},
        ],
        2e-3,
    ),
]


@pytest.mark.parametrize(
    ("formula", "cases", "within"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
@pytest.mark.parametrize("counts", [COUNTS, (3, 2, 2), (1, 1)], ids=str)
def test_heads_without_training(
    formula: Callable[..., np.ndarray],
    cases: list[dict[str, Any]],
    within: float,
    counts: tuple[int, ...],
) -> None:
    """Reference: the formulas above, for a stack of settings; more features than rows as well."""
    if formula is gla and counts != COUNTS:
        pytest.skip("text without an error has no finite scale")
    if formula is gda_text and max(counts) == 1:
        pytest.skip("no variance within a class: the paper's inverse is of 0")
    data = Data(counts)
    z = logits(formula.__name__, data, *cases)
    for c, case in enumerate(cases):
        assert_relative(
            centred(z[:, c]), centred(formula(data, data.test, **case)), within, str(case)
        )


@pytest.mark.skipif(not SPACE.exists(), reason="the shared image–text space is not here")
def test_zero_shot_on_a_real_space() -> None:
    """Reference: 13.4 % of the test rows, as the notes on the shared data say."""
    with np.load(SPACE) as data:
        x, y, t = (data[name] for name in ("x_test", "y_test", "text_features"))
    text = TextClassifier(torch.nn.functional.normalize(torch.from_numpy(t), dim=1), 1.0)
    context = replace(Data().context(), text=text)
    head = HEADS["zero_shot"]
    z = head.logits(
        head.init([settings("zero_shot")], context), context.batch(torch.tensor(x).float())
    )
    assert 100 * (array(z[:, 0]).argmax(1) == y).mean() == pytest.approx(13.4, abs=0.1)


def test_zero_shot_reads_no_training_row() -> None:
    """Reference: rows that fail where they are read."""
    data = Data()
    context = replace(data.context(), blocks=lambda: pytest.fail("a training row is read"))
    HEADS["zero_shot"].init([settings("zero_shot")], context)


@pytest.mark.parametrize("name", ["tip_adapter", "gda_text", "clap", "gla"])
def test_rows_in_blocks_count_as_in_one(name: str) -> None:
    """Reference: the same rows at once."""
    data = Data()
    x = torch.from_numpy(data.test).float()
    found = [
        HEADS[name].logits(HEADS[name].init([settings(name)], context), context.batch(x))
        for context in (data.context(), data.context(block=7))
    ]
    assert_relative(found[1], found[0], 1e-5)


def test_text_alone_decides_on_a_class_without_rows() -> None:
    """Reference: the logits of text, at which an empty cache and GDA leave the class; CLAP holds it
    there by λ = 1."""
    data = Data((30, 12, 0, 3))
    x = data.test
    z = logits("tip_adapter", data, {"alpha": 5.0})[:, 0]
    assert_close(z[:, 2], data.text(x)[:, 2], 1e-4)
    z = logits("gda_text", data, {"alpha": 5.0})[:, 0]
    assert np.isfinite(z).all()
    assert_close(z[:, 2], data.text(x)[:, 2], 1e-4)
    weight = trained_head("clap").decay_weights([settings("clap")], data.context())["weight"]
    assert float(weight[0, 2, 0]) == pytest.approx(2 / 4)
    with pytest.raises(errors.EmptyClass, match="'gla'"):
        logits("gla", data, {})


def test_text_that_makes_no_error_leaves_the_estimate_finite() -> None:
    """Reference: the ridge, which bounds the scale of separable logits."""
    data = Data()
    data.x = LENGTH * data.t[data.y]
    start = HEADS["gla"].init([settings("gla")], data.context())
    assert all(bool(p.isfinite().all()) for p in start.values())
    assert float(start["weight"].abs().max()) < 1e3


def double(parameters: Parameters) -> dict[str, np.ndarray]:
    """Parameters of the first configuration, float64."""
    return {name: array(value[0]) for name, value in parameters.items()}


def moved(head: TrainedHead, name: str, data: Data, **given: Any) -> Parameters:
    """A start with what it trains moved."""
    start = head.init([settings(name, **given)], data.context())
    generator = torch.Generator().manual_seed(1)
    still = ("alpha",) if name == "wise_ft" else ("scale",)
    return {
        key: p if key in still else p + 0.1 * torch.randn(p.shape, generator=generator)
        for key, p in start.items()
    }


@pytest.mark.parametrize("name", ["wise_ft", "lp_plus", "clap"])
def test_trained_heads_start_as_zero_shot(name: str) -> None:
    """Reference: the logits of text, before the first step and as used."""
    data, head = Data(), trained_head(name)
    context = data.context()
    start = head.init([settings(name)] * 2, context)
    batch = context.batch(torch.from_numpy(data.test).float())
    for z in (head.logits(start, batch), head.evaluate(start, batch)):
        for c in range(2):
            assert_relative(z[:, c], data.text(data.test), 1e-5)


def wise_ft(data: Data, p: Mapping[str, np.ndarray], alpha: float) -> np.ndarray:
    trained = data.test @ p["weight"].T + p["bias"]
    return (1 - alpha) * data.text(data.test) + alpha * trained


def lp_plus(data: Data, p: Mapping[str, np.ndarray]) -> np.ndarray:
    return data.test @ p["weight"].T + p["bias"] + (1 + p["alpha"]) * data.text(data.test)


def clap(data: Data, p: Mapping[str, np.ndarray]) -> np.ndarray:
    w, x = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (p["weight"], data.test))
    return SCALE * x @ w.T


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_ft_averages_with_text_when_used(alpha: float) -> None:
    """Reference: the average of the two classifiers' logits; training sees W alone."""
    data, head = Data(), trained_head("wise_ft")
    p, context = moved(head, "wise_ft", data, alpha=alpha), data.context()
    batch = context.batch(torch.from_numpy(data.test).float())
    assert_relative(head.logits(p, batch)[:, 0], wise_ft(data, double(p), 1.0), 1e-5)
    assert_relative(head.evaluate(p, batch)[:, 0], wise_ft(data, double(p), alpha), 1e-5)
    mixed = (1 - alpha) * SCALE / LENGTH * data.t + alpha * double(p)["weight"]
    assert_relative(head.weight_norm(p, context)[0], np.linalg.norm(mixed, axis=1), 1e-5)
    shares = np.log(data.counts / data.counts.sum())
    assert_close(head.log_prior({"alpha": alpha}, shares), alpha * shares, 1e-12)


@pytest.mark.parametrize(("name", "formula"), [("lp_plus", lp_plus), ("clap", clap)])
def test_logits_of_trained_heads(name: str, formula: Callable[..., np.ndarray]) -> None:
    """Reference: the formulas above."""
    data, head = Data(), trained_head(name)
    p, context = moved(head, name, data), data.context()
    batch = context.batch(torch.from_numpy(data.test).float())
    assert_relative(head.logits(p, batch)[:, 0], formula(data, double(p)), 1e-5)


@pytest.mark.parametrize("optimiser", [SGD, AdamW])
def test_clap_pulls_each_class_by_what_text_knows_of_it(optimiser: type) -> None:
    """Reference: a step on autograd's gradient of (c/K) Σ_k λ_k‖w_k − t_k‖², float64."""
    data, head, c, lr = Data(), trained_head("clap"), 3.0, 0.05
    context = data.context()
    own = softmax(data.text(data.x), axis=1)[np.arange(len(data.y)), data.y]
    certainty = torch.tensor([own[data.y == k].mean() for k in range(len(data.t))])
    p = moved(head, "clap", data)
    w = torch.from_numpy(double(p)["weight"]).requires_grad_()
    t = torch.from_numpy(data.t)
    (c / len(data.t) * (certainty * (w - t).square().sum(1)).sum()).backward()
    made = {"weight_decay": c, "momentum": 0.0, "nesterov": False}
    made |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    rule = optimiser(
        p,
        [made],
        head.lr_multipliers([settings("clap")]),
        anchors=head.anchors([settings("clap")], context),
        decay_weights=head.decay_weights([settings("clap")], context),
    )
    rule.step({name: torch.zeros_like(value) for name, value in p.items()}, torch.tensor([lr]))
    assert w.grad is not None
    assert_close(p["weight"][0], (w - lr * w.grad).detach(), 1e-6)


@pytest.mark.parametrize("name", ["wise_ft", "lp_plus", "clap", "zero_shot", "gda_text", "gla"])
def test_forms_are_affine(name: str) -> None:
    """Reference: the logits as used."""
    data, head = Data(), HEADS[name]
    context = data.context()
    p = moved(head, name, data) if isinstance(head, TrainedHead) else None
    p = p or head.init([settings(name)], context)
    form = head.form({key: value[0] for key, value in p.items()}, settings(name), context)
    assert form is not None
    rows = data.test / (np.linalg.norm(data.test, axis=1, keepdims=True) if name == "clap" else 1)
    z = rows @ array(form.tensors["weight"]).T + array(form.tensors["bias"])
    used = head.evaluate(p, context.batch(torch.from_numpy(data.test).float()))[:, 0]
    assert form.form == "affine"
    assert form.options == {"parts": int(name == "clap")}
    assert_relative(z, used, 1e-5)


def test_priors_of_heads_on_text() -> None:
    """Reference: text has no prior of the training rows; what a probe has of it is taken out."""
    shares = np.log(np.array([0.7, 0.2, 0.1]))
    for name in ("zero_shot", "tip_adapter", "gda_text"):
        assert not HEADS[name].log_prior(settings(name), shares).any()
    assert not HEADS["gla"].log_prior(settings("gla"), shares).any()
    half = settings("gla", tau=0.5, temperature=2.0)
    assert_close(HEADS["gla"].log_prior(half, shares), 0.25 * shares, 1e-12)
