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
from stage2.methods.heads import HEADS, Batch, Context
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


@pytest.mark.parametrize("head", HEAD_CASES)
def test_logits_of_trained_heads(head: str, small: Problem) -> None:
    """Reference: METHODS §3 in float64, for a stack of starts moved at random."""
    context, batch, data = small.view().context, batch_of(small), small.double()
    generator = torch.Generator().manual_seed(0)
    cases = HEAD_CASES[head] * 2
    parameters = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in stacked(head, cases, context).items()
    }
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
    mislas = stacked("mislas", [{"delta_lr": 0.1}], context)
    assert_close(mislas["weight"][0], w0, 0.0, "W of mislas, ΔW = 0")
    assert_close(mislas["bias"][0], b0, 0.0, "b of mislas")
    assert_close(mislas["scale"][0], np.ones(6), 0.0, "s of mislas")
    disalign = stacked("disalign", HEAD_CASES["disalign"], context)
    for name in ("alpha", "beta", "v", "c"):
        zero = np.zeros_like(disalign[name][0])
        assert_close(disalign[name][0], zero, 0.0, f"{name} at identity")
    assert_close(disalign["alpha"][1], np.ones(6), 0.0, "α as released")
    assert_close(disalign["v"][1], np.full(8, 0.1), 1e-8, "v as released")
    assert_close(disalign["beta"][1], np.zeros(6), 0.0, "β as released")


@pytest.mark.parametrize("head", ["lws", "mislas", "disalign"])
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
    needs = {"lws", "mislas", "disalign", "tau_norm", "logit_adjust"}
    settings = {s.name: s.default for s in HEADS[name].settings}
    assert HEADS[name].needs_classifier(settings) == (name in needs), f"{name}: {settings}"
    if name in ("linear", "cosine"):
        assert HEADS[name].needs_classifier({**settings, "init": "stage1"})
    if name not in needs:
        bare = replace(small.view().context, weight0=None, bias0=None)
        start = HEADS[name].init([{**settings, "seed": 0}], bare)
        z = HEADS[name].logits(start, bare.batch(small.view().train.x))
        assert z.shape == (150, 1, 6)
