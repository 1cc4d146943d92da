"""Heads: logits, starts, and what needs no training, against `reference.py` [METHODS §3]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from featbank import errors
from stage2.methods.heads import HEADS, Batch, Context, Head, Parameters, TrainedHead, algebra
from stage2.methods.neighbors import class_distances
from tests.stage2 import reference
from tests.stage2.cases import HEAD_CASES
from tests.stage2.compare import assert_close, assert_relative, difference
from tests.stage2.synthetic import Problem, problem


def stacked(head: str, cases: list[dict[str, Any]], context: Context) -> dict[str, Tensor]:
    """A head's start, stacked over settings."""
    return HEADS[head].init([{"seed": c, **s} for c, s in enumerate(cases)], context)


def batch_of(made: Problem) -> Batch:
    """The test split: rows the heads have not seen."""
    context = made.view().context
    return context.batch(made.view().evaluated["test"].x)


def trained(head: str) -> TrainedHead:
    """The trained head of that name."""
    found = HEADS[head]
    assert isinstance(found, TrainedHead)
    return found


def moved(head: str, cases: list[dict[str, Any]], context: Context, seed: int = 0) -> Parameters:
    """A head's start with what it trains moved at random."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        if name in reference.TRAINED[head]
        else value
        for name, value in stacked(head, cases, context).items()
    }


@pytest.mark.parametrize("head", HEAD_CASES)
def test_logits_of_trained_heads(head: str, small: Problem) -> None:
    """Reference: METHODS §3 in float64, for a stack of starts moved at random."""
    context, batch, data = small.view().context, batch_of(small), small.double()
    cases = HEAD_CASES[head] * 2
    parameters = moved(head, cases, context)
    z = HEADS[head].logits(parameters, batch)
    assert z.shape == (len(batch.x), len(cases), 6), f"got {tuple(z.shape)}, expected [B, C, K]"
    for c in range(len(cases)):
        own = {name: value[c].double() for name, value in parameters.items()}
        expected = reference.logits(head, own, batch.x.double(), data["w0"], data["b0"])
        assert_relative(z[:, c], expected, 1e-5, f"logits of {head} {cases[c]}")


def test_starts(small: Problem) -> None:
    """Reference: METHODS §3, column init."""
    context = small.view().context
    w0, b0 = small.w0, small.b0
    linear = stacked("linear", HEAD_CASES["linear"], context)
    assert_close(linear["weight"][1], w0, 0.0, "linear from stage 1")
    assert_close(linear["bias"][1], b0, 0.0, "linear from stage 1")
    assert difference(linear["weight"][0], w0) > 0.01
    cosine = stacked("cosine", HEAD_CASES["cosine"], context)
    assert_close(cosine["weight"][1], w0, 0.0, "cosine from stage 1")
    assert_close(cosine["scale"].flatten(), [16, 5], 0.0, "s")
    assert_close(stacked("lws", [{}], context)["scale"], np.ones((1, 6)), 0.0, "s of lws")
    mislas = stacked("mislas", HEAD_CASES["mislas"], context)
    for c, r in enumerate(case["retention"] for case in HEAD_CASES["mislas"]):
        assert_close(mislas["weight"][c], r * w0, 1e-7, f"W of mislas, ΔW = 0, r = {r}")
        assert_close(mislas["bias"][c], r * b0, 1e-7, f"b of mislas, r = {r}")
        assert_close(mislas["scale"][c], np.ones(6), 0.0, "s of mislas")
    disalign = stacked("disalign", HEAD_CASES["disalign"], context)
    for name in ("alpha", "beta", "v", "c"):
        zero = np.zeros_like(disalign[name][0])
        assert_close(disalign[name][0], zero, 0.0, f"{name} at identity")
    assert_close(disalign["alpha"][1], np.ones(6), 0.0, "α as released")
    assert_close(disalign["v"][1], np.full(8, 0.1), 1e-8, "v as released")
    assert_close(disalign["beta"][1], np.zeros(6), 0.0, "β as released")


def test_mislas_says_where_nothing_would_train() -> None:
    """Reference: the sentences; with W = 0 for good all logits stay 0, whatever s."""
    usual = {s.name: s.default for s in HEADS["mislas"].settings}
    assert HEADS["mislas"].problem(usual, 8) is None
    for frozen, message in (
        ({"delta_lr": 0.0, "scale_lr": 0.0}, r"nothing to train .* above 0\.$"),
        ({"delta_lr": 0.0, "retention": 0.0}, r"W = 0 for good .* above 0\.$"),
    ):
        with pytest.raises(errors.ConfigError, match=message):
            HEADS["mislas"].check({**usual, **frozen}, 8)
        for name in frozen:
            assert HEADS["mislas"].problem({**usual, **frozen, name: 0.5}, 8) is None


@pytest.mark.parametrize("head", ["lws", "mislas", "disalign", "marc"])
def test_calibrating_heads_begin_at_the_stage1_logits(head: str, small: Problem) -> None:
    """Reference: z⁰ = W₀x + b₀ in float64."""
    context, batch, data = small.view().context, batch_of(small), small.double()
    case = {**HEAD_CASES[head][0]}
    z = HEADS[head].logits(stacked(head, [case], context), batch)[:, 0]
    assert_relative(z, batch.x.double() @ data["w0"].T + data["b0"], 1e-6, f"start of {head}")


def test_fresh_weights_are_uniform_and_follow_the_seed() -> None:
    """Reference: U(±1/√D) as torch.nn.Linear; SciPy's Kolmogorov–Smirnov test."""
    context = problem((5,) * 40, dim=50).view().context
    settings = [{"seed": s, "init": "fresh"} for s in (0, 1, 0)]
    start = HEADS["linear"].init(settings, context)
    bound = 1 / np.sqrt(50)
    for name in ("weight", "bias"):
        values = start[name][:2].flatten().numpy()
        p = stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue
        assert p > 1e-3, f"{name}: p = {p:.2g}"
        assert torch.equal(start[name][0], start[name][2]), "one seed, two starts"
        assert difference(start[name][0], start[name][1]) > 0.1 * bound, "two seeds, one start"
    unit = HEADS["cosine"].init(
        [{**s, "scale": 16.0, "learn_scale": False} for s in settings], context
    )
    assert_close(unit["weight"].norm(dim=2), np.ones((3, 40)), 1e-6, "row lengths of cosine")


TDE_CASES = [
    {"init": init, "heads": heads, "scale": scale, "gamma": gamma, "alpha": alpha}
    for heads in (1, 2, 4, 8)
    for init, scale, gamma, alpha in (
        ("fresh", 16.0, 1 / 32, 3.0),
        ("stage1", 30.0, 0.0, 1.5),
        ("fresh", 4.0, 1.0, 0.0),
    )
]


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_tde_is_evaluated_without_the_mean_direction(heads: int, small: Problem) -> None:
    """Reference: x̂ − α cos(x, d) d̂ part by part in float64, d the mean of the training rows."""
    context, batch, data = small.view().context, batch_of(small), small.double()
    cases = [case for case in TDE_CASES if case["heads"] == heads]
    parameters = moved("tde", cases, context)
    z = HEADS["tde"].logits(parameters, batch)
    evaluated = HEADS["tde"].evaluate(parameters, batch)
    mean = data["x"].mean(0).view(heads, -1)
    for c, case in enumerate(cases):
        own = {name: value[c].double() for name, value in parameters.items()}
        assert_close(own["direction"].norm(dim=1), np.ones(heads), 1e-6, "length of d, by part")
        own["direction"] = mean  # the reference norms it
        for got, alpha in ((z, 0.0), (evaluated, case["alpha"])):
            expected = reference.tde(own, batch.x.double(), alpha=alpha)
            assert_relative(got[:, c], expected, 1e-5, f"{case} at α = {alpha}")
        gap = difference(evaluated[:, c], z[:, c])
        assert (gap > 0.01) == (case["alpha"] > 0), f"{case}: evaluation differs by {gap:.2g}"


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_gradients_of_tde_for_every_number_of_parts(heads: int, small: Problem) -> None:
    """Reference: float64 autograd; γ at its default, at 0 and at 1.

    Parts of one number are left out: at γ = 0 their logits do not depend on W.
    """
    context, batch = small.view().context, batch_of(small)
    cases = [case for case in TDE_CASES if case["heads"] == heads]
    parameters = moved("tde", cases, context)
    grad = torch.randn(len(batch.x), len(cases), 6, generator=torch.Generator().manual_seed(1))
    got = trained("tde").gradients(parameters, batch, grad)["weight"]
    for c, case in enumerate(cases):
        own = {name: value[c].double() for name, value in parameters.items()}
        weight = own["weight"].requires_grad_()
        value = (reference.tde(own, batch.x.double(), alpha=0.0) * grad[:, c]).sum()
        (expected,) = torch.autograd.grad(value, weight)
        assert_relative(got[c], expected, 1e-5, f"∂L/∂W of {case}")


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ("tde", "wise_ft")])
def test_other_heads_are_evaluated_as_they_are_trained(head: str) -> None:
    """Reference: METHODS §3; TDE treats test rows in its own way, WiSE-FT averages with text."""
    assert type(HEADS[head]).evaluate is Head.evaluate, f"{head} has its own evaluation"


def test_tde_says_where_the_parts_do_not_come_out_even(small: Problem) -> None:
    """Reference: 8 features have no 3 equal parts."""
    case = {**TDE_CASES[0], "heads": 3}
    with pytest.raises(errors.ConfigError, match=r"D=8 .*heads=3 .*divides 8"):
        stacked("tde", [case], small.view().context)
    assert HEADS["tde"].problem(case, 9) is None


def test_starts_of_tde_and_mlp(small: Problem) -> None:
    """Reference: W₀, the settings themselves, U(±1/√in) as torch.nn.Linear (Kolmogorov–Smirnov)."""
    context = small.view().context
    tde = stacked("tde", HEAD_CASES["tde"], context)
    linear = stacked("linear", HEAD_CASES["linear"], context)
    assert_close(tde["weight"], linear["weight"], 0.0, "fresh, and from stage 1")
    for name in ("scale", "gamma", "alpha"):
        assert_close(tde[name][:, 0], [s[name] for s in HEAD_CASES["tde"]], 1e-7, name)
    wide = problem((5,) * 40, dim=50).view().context
    settings = [{"seed": seed, "hidden": 70} for seed in (0, 1, 0)]
    mlp = HEADS["mlp"].init(settings, wide)
    shapes = {name: tuple(value.shape) for name, value in mlp.items()}
    assert shapes == {
        "hidden_weight": (3, 70, 50),
        "hidden_bias": (3, 70),
        "weight": (3, 40, 70),
        "bias": (3, 40),
    }
    for name, value in mlp.items():
        bound = (50 if name.startswith("hidden") else 70) ** -0.5
        uniform = stats.uniform(-bound, 2 * bound)
        p = stats.kstest(value[:2].flatten().numpy(), uniform.cdf).pvalue
        assert p > 1e-3, f"{name}: p = {p:.2g}"
        assert torch.equal(value[0], value[2]), f"{name}: one seed, two starts"
        assert difference(value[0], value[1]) > 0.1 * bound, f"{name}: two seeds, one start"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("head", HEAD_CASES)
def test_cosine_to_the_own_class(
    head: str, dtype: torch.dtype, small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: ⟨x, w_y⟩/(‖x‖‖w_y‖) in float64, in one block of rows and in many."""
    context, data = small.view().context, small.double()
    assert context.weight0 is not None
    assert context.bias0 is not None
    made = replace(context, weight0=context.weight0.to(dtype), bias0=context.bias0.to(dtype))
    batch = made.batch(small.view().evaluated["test"].x.to(dtype))
    y = small.view().evaluated["test"].labels
    cases = HEAD_CASES[head] * 2
    parameters = {k: v.to(dtype) for k, v in moved(head, cases, context, seed=2).items()}
    for size in (1 << 20, 300):
        monkeypatch.setattr("stage2.methods.heads.algebra.GATHER_BYTES", size)
        z = HEADS[head].logits(parameters, batch)
        got = trained(head).cosine(parameters, batch, z, y)
        assert got.shape == (len(y), len(cases)), f"got {tuple(got.shape)}, expected [B, C]"
        assert got.dtype == dtype, f"got {got.dtype}"
        for c in range(len(cases)):
            own = {name: value[c].double() for name, value in parameters.items()}
            expected = reference.own_cosine(head, own, batch.x.double(), y, data["w0"])
            within = 1e-5 if dtype == torch.float32 else 1e-12
            assert_close(got[:, c], expected, within, f"cosine of {head} {cases[c]}")
        got.add_(1)  # the caller's own


def test_target_cosines_gather_few_weight_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the bound itself; as many rows of B as it allows, one at least. Three
    configurations with weights of their own, and with features of their own."""
    seen: list[int] = []
    plain = torch.nn.functional.cosine_similarity

    def noted(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        seen.append(weight.shape[1])
        return plain(x, weight, **options)

    monkeypatch.setattr(torch.nn.functional, "cosine_similarity", noted)
    for x, weight in (
        (torch.randn(10, 5), torch.randn(3, 4, 5)),
        (torch.randn(10, 3, 5), torch.randn(1, 4, 5)),
    ):
        for size, expected in ((1 << 20, [10]), (4 * 4 * 3 * 5, [4, 4, 2]), (1, [1] * 10)):
            seen.clear()
            monkeypatch.setattr(algebra, "GATHER_BYTES", size)
            algebra.target_cosines(x, weight, torch.arange(10) % 4)
            assert seen == expected, f"{size} bytes: got {seen}, expected {expected}"


@pytest.mark.parametrize("head", HEAD_CASES)
def test_a_cosine_is_never_beyond_1(head: str) -> None:
    """Reference: rows along their own weight, whose cosine rounding would put above 1."""
    made = problem((40,) * 30, dim=6)
    context = made.view().context
    stage1 = {"init": "stage1"} if head in ("linear", "cosine", "tde") else {}
    parameters = stacked(head, [{**case, **stage1} for case in HEAD_CASES[head]], context)
    y = torch.arange(1000) % 30
    x = torch.from_numpy(made.w0)[y] * torch.logspace(-3, 3, 1000)[:, None]
    batch = context.batch(x)
    got = trained(head).cosine(parameters, batch, HEADS[head].logits(parameters, batch), y)
    assert float(got.abs().max()) <= 1, f"{head}: got {float(got.abs().max())}"


def test_the_cosine_head_has_angles_at_scale_0(small: Problem) -> None:
    """Reference: all logits are 0, which says nothing of angles: 0, not NaN."""
    context, batch = small.view().context, batch_of(small)
    parameters = stacked("cosine", HEAD_CASES["cosine"], context)
    parameters["scale"].zero_()
    y = small.view().evaluated["test"].labels
    got = trained("cosine").cosine(parameters, batch, HEADS["cosine"].logits(parameters, batch), y)
    assert_close(got, np.zeros((len(y), 2)), 0.0, "cosine at s = 0")


@pytest.mark.parametrize("head", HEADS)
def test_a_stack_shares_the_settings_that_decide_shapes(head: str, small: Problem) -> None:
    """Reference: the shapes of the parameters at each setting's default and at another value."""
    defaults = {s.name: s.default for s in HEADS[head].settings}
    assert set(HEADS[head].shared) <= set(defaults), f"got {HEADS[head].shared}"
    context = small.view().context

    def shapes(**changed: Any) -> dict[str, tuple[int, ...]]:
        start = HEADS[head].init([{**defaults, "seed": 0, **changed}], context)
        return {name: tuple(value.shape) for name, value in start.items()}

    for setting in HEADS[head].settings:
        if setting.type is int:
            changed = shapes() != shapes(**{setting.name: 1})
            assert changed <= (setting.name in HEADS[head].shared), f"{setting.name} of {head}"


@pytest.mark.parametrize("head", HEAD_CASES)
def test_convex_heads_are_those_affine_in_their_parameters(head: str, small: Problem) -> None:
    """Reference: the logits halfway between two points are halfway between their logits."""
    context, batch = small.view().context, batch_of(small)
    a, b = (moved(head, HEAD_CASES[head], context, seed) for seed in (3, 4))
    half = {name: (a[name] + b[name]) / 2 for name in a}
    ends = [HEADS[head].logits(parameters, batch) for parameters in (a, b, half)]
    gap = difference(ends[2], (ends[0] + ends[1]) / 2)
    assert trained(head).convex == (gap < 1e-4), f"off the chord by {gap:.2g}"
    assert trained(head).convex == (head in ("linear", "lws", "marc"))


@pytest.mark.parametrize("head", HEAD_CASES)
@pytest.mark.parametrize("shape", [((9, 3), 1), ((7, 0, 4), 2), ((1, 1), 4)])
def test_trained_heads_at_the_edge(head: str, shape: tuple[tuple[int, ...], int]) -> None:
    """Reference: METHODS §3 in float64 at K = 2, D = 1, an empty class; a feature of zeros is 0."""
    counts, dim = shape
    made = problem(counts, dim=dim)
    context, data = made.view().context, made.double()
    parts = {"heads": 1} if head == "tde" and dim == 1 else {}
    cases = [{**case, **parts} for case in HEAD_CASES[head]]
    parameters = moved(head, cases, context)
    x, y = made.view().train.x, made.view().train.labels
    z = HEADS[head].logits(parameters, context.batch(x))
    for c in range(len(cases)):
        own = {name: value[c].double() for name, value in parameters.items()}
        expected = reference.logits(head, own, x.double(), data["w0"], data["b0"])
        assert_relative(z[:, c], expected, 1e-5, f"{head} {cases[c]}")
    empty = context.batch(torch.zeros_like(x))
    for name, value in {
        "logits": HEADS[head].logits(parameters, empty),
        "evaluation": HEADS[head].evaluate(parameters, empty),
        **trained(head).gradients(parameters, empty, torch.ones_like(z)),
    }.items():
        assert bool(value.isfinite().all()), f"{name} of {head}: got {value}"
    z = HEADS[head].logits(parameters, empty)
    angle = trained(head).cosine(parameters, empty, z, y)
    if head not in ("mlp", "etf"):  # their last layer sees a, not 0
        assert_close(angle, np.zeros((len(y), len(cases))), 0.0, f"cosine of 0, {head}")
    zero = {k: torch.zeros_like(v) if k == "weight" else v for k, v in parameters.items()}
    batch = context.batch(x)
    for name, value in trained(head).gradients(zero, batch, torch.ones_like(z)).items():
        assert bool(value.isfinite().all()), f"∂L/∂{name} of {head} at W = 0: got {value}"
    angle = trained(head).cosine(zero, batch, HEADS[head].logits(zero, batch), y)
    assert bool(angle.isfinite().all()), f"cosine of {head} at W = 0: got {angle}"


@pytest.mark.parametrize("keep_bias", [False, True])
def test_tau_norm(keep_bias: bool, small: Problem) -> None:
    """Reference: (w_k/‖w_k‖^τ)·x in float64, a whole grid of τ in one stack."""
    cases = [{"tau": tau, "keep_bias": keep_bias} for tau in (0.0, 0.5, 1.0, 1.3, 2.0)]
    batch, data = batch_of(small), small.double()
    z = HEADS["tau_norm"].logits(stacked("tau_norm", cases, small.view().context), batch)
    for c, case in enumerate(cases):
        expected = reference.tau_norm(batch.x.double(), data["w0"], data["b0"], **case)
        assert_relative(z[:, c], expected, 1e-5, f"tau_norm {case}")


def test_logit_adjust(small: Problem) -> None:
    """Reference: z⁰ − τ log π in float64; an empty class is named."""
    cases = [{"tau": tau} for tau in (0.0, 0.7, 1.0, 2.0)]
    batch, data = batch_of(small), small.double()
    z = HEADS["logit_adjust"].logits(stacked("logit_adjust", cases, small.view().context), batch)
    for c, case in enumerate(cases):
        x, n = batch.x.double(), data["n"]
        expected = reference.logit_adjust(x, data["w0"], data["b0"], n, **case)
        assert_relative(z[:, c], expected, 1e-5, f"logit_adjust {case}")
    with pytest.raises(errors.EmptyClass, match=r"logit_adjust.*1"):
        stacked("logit_adjust", cases, problem((5, 0, 3)).view().context)


@pytest.mark.parametrize("most", [1 << 13, 17])
def test_p2p_and_logn(most: int, small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the mean posterior and the statistics of all training logits in float64, whole and
    in blocks; an empty class has a prior of its own."""
    monkeypatch.setattr("stage2.methods.heads.moments.BLOCK_ROWS", most)
    cases: dict[str, list[dict[str, Any]]] = {
        "p2p": [{"tau": tau} for tau in (0.0, 0.7, 1.0, 2.0)],
        "logn": [{"offset": offset} for offset in ("none", "minimum")],
    }
    for made in (small, problem((30, 0, 9))):
        batch, data = batch_of(made), made.double()
        for head, settings in cases.items():
            z = HEADS[head].logits(stacked(head, settings, made.view().context), batch)
            for c, case in enumerate(settings):
                formula = getattr(reference, head)
                expected = formula(batch.x.double(), data["w0"], data["b0"], data["x"], **case)
                assert_relative(z[:, c], expected, 1e-5, f"{head} {case}")


def test_constant_logits_are_normalised_to_finite_ones() -> None:
    """Reference: the released smallest variance, next to which only rounding is left."""
    made = problem((9, 4))
    context = replace(made.view().context, weight0=torch.zeros(2, 8))
    z = HEADS["logn"].logits(
        stacked("logn", [{"offset": "none"}], context), context.batch(batch_of(made).x)
    )
    assert_close(z, np.zeros(z.shape), 0.1, "constant logits")


def test_ncm(small: Problem) -> None:
    """Reference: class means by a loop, squared distance and cosine, in float64."""
    cases = [{"transform": t, "metric": m} for t in ("un", "l2n", "cl2n") for m in ("l2", "cosine")]
    context, batch, data = small.view().context, batch_of(small), small.double()
    z = HEADS["ncm"].logits(stacked("ncm", cases, context), batch)
    for c, case in enumerate(cases):
        expected = reference.ncm(batch.x.double(), data["x"], data["y"], **case)
        assert_relative(z[:, c], expected, 1e-5, f"ncm {case}")


def test_ncm_never_names_an_empty_class() -> None:
    """Reference: by definition; the mean of nothing (0) would often be nearest."""
    made = problem((30, 0, 10), test=20)
    cases = [{"transform": t, "metric": m} for t in ("un", "cl2n") for m in ("l2", "cosine")]
    z = HEADS["ncm"].logits(stacked("ncm", cases, made.view().context), batch_of(made))
    assert not bool((z.argmax(2) == 1).any()), "an empty class was named"


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_class_distances(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: NumPy in float64, in one block and in many."""
    rng = np.random.default_rng(0)
    x, means = rng.normal(size=(37, 5)), rng.normal(size=(4, 5))
    plain = ((x[:, None] - means) ** 2).sum(2) if metric == "l2" else x @ means.T
    arguments = torch.from_numpy(x).float(), torch.from_numpy(means).float(), metric
    assert_close(class_distances(*arguments), plain, 1e-5, metric)
    monkeypatch.setattr("stage2.methods.neighbors.BLOCK_BYTES", 100)
    assert_close(class_distances(*arguments), plain, 1e-5, f"{metric} in blocks")
    assert class_distances(arguments[0][:0], arguments[1], metric).shape == (0, 4)


@pytest.mark.parametrize("name", HEADS)
def test_which_heads_need_the_classifier(name: str, small: Problem) -> None:
    """Reference: METHODS §3; the others work without W₀."""
    settings = {s.name: s.default for s in HEADS[name].settings}
    needs = HEADS[name].needs_classifier(settings)
    calibrating = ("lws", "mislas", "disalign", "marc", "tau_norm", "logit_adjust", "p2p", "logn")
    assert needs or name not in calibrating
    if name in ("linear", "cosine", "tde"):
        assert HEADS[name].needs_classifier({**settings, "init": "stage1"})
    if not needs:
        bare = replace(small.view().context, weight0=None, bias0=None)
        start = HEADS[name].init([{**settings, "seed": 0}], bare)
        z = HEADS[name].logits(start, bare.batch(small.view().train.x))
        assert z.shape == (150, 1, 6)
