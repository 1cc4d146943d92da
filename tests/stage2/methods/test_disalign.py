"""DisAlign's forms and ablations, and both kinds of z⁰, against its eq. 5 and 6 [METHODS §3]."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stage2.methods.heads import HEADS, Context, Parameters, trained_head
from stage2.testing import check_head
from tests.stage2 import reference
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import Problem, problem

HEAD = trained_head("disalign")
STACKS = list(itertools.product(("eq6", "eq5"), ("learned", "off"), ("linear", "cosine")))
"""Settings that configurations of a stack have in common: form, confidence and z⁰."""
WITHIN = {torch.float32: 1e-5, torch.float64: 1e-10}


def _cases(form: str, confidence: str, z0: str) -> list[dict[str, Any]]:
    common = {"form": form, "confidence": confidence, "z0": z0, "z0_scale": 7.0}
    return [
        {"seed": seed, "init": init, "learn": learn, **common}
        for seed, (init, learn) in enumerate(
            itertools.product(("identity", "released"), ("both", "magnitude", "margin"))
        )
    ]


def _context(made: Problem, z0: str, dtype: torch.dtype = torch.float32) -> Context:
    """The view's context with W₀, or with the unit rows of W₀ times 7 on unit features."""
    context = made.view().context
    w0, b0 = (values.double() for values in context.classifier)
    if z0 == "cosine":
        w0, b0 = 7 * w0 / w0.norm(dim=1, keepdim=True), torch.zeros_like(b0)
    return replace(context, weight0=w0.to(dtype), bias0=b0.to(dtype), unit0=z0 == "cosine")


def _moved(cases: list[dict[str, Any]], context: Context) -> Parameters:
    generator = torch.Generator().manual_seed(3)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        if name != "identity"
        else value
        for name, value in HEAD.init(cases, context).items()
    }


@pytest.mark.parametrize(("form", "confidence", "z0"), STACKS)
@pytest.mark.parametrize("own_features", [False, True])
def test_logits_and_gradients(
    own_features: bool, form: str, confidence: str, z0: str, small: Problem
) -> None:
    """Reference: eq. 5 and 6 in float64 and their autograd, of each configuration by itself; on
    shared features, on features of their own, and with z⁰ known beforehand."""
    cases, data = _cases(form, confidence, z0), small.double()
    parameters = _moved(cases, _context(small, z0))
    generator = torch.Generator().manual_seed(4)
    shape = (30, len(cases), 8) if own_features else (30, 8)
    x = torch.randn(shape, generator=generator)
    grad = torch.randn(30, len(cases), 6, generator=generator)
    for dtype, within in WITHIN.items():
        context = _context(small, z0, dtype)
        batches = [context.batch(x.to(dtype))]
        if not own_features:
            known = context.batch(x.to(dtype)).z0[:, 0]
            batches.append(context.batch(x.to(dtype), torch.arange(30), known))
        stack = {name: value.to(dtype) for name, value in parameters.items()}
        for batch, c in itertools.product(batches, range(len(cases))):
            rows = (x[:, c] if own_features else x).double()
            p = {name: value[c].double().requires_grad_() for name, value in parameters.items()}
            expected = reference.logits("disalign", p, rows, data["w0"], data["b0"], cases[c])
            what = f"{cases[c]}, {dtype}"
            z = HEAD.logits(stack, batch)
            assert_relative(z[:, c], expected.detach(), within, f"logits of {what}")
            names = reference.trained_by("disalign", {**cases[c], "learn": "both"})
            got = HEAD.gradients(stack, batch, grad.to(dtype))
            assert set(got) == set(names), f"got {set(got)}"
            value = (expected * grad[:, c].double()).sum()
            slopes = torch.autograd.grad(value, [p[name] for name in names])
            size = max(float(slope.abs().max()) for slope in slopes)
            for name, slope in zip(names, slopes, strict=True):
                assert_close(got[name][c], slope, within * size, f"∂L/∂{name} of {what}")


@pytest.mark.parametrize(("form", "confidence", "z0"), STACKS)
def test_starts(form: str, confidence: str, z0: str, small: Problem) -> None:
    """Reference: by hand. Of eq. 5 α = 1 is the identity and what was released; what is not learned
    is where z = z⁰, whatever ``init``."""
    cases = _cases(form, confidence, z0)
    context = _context(small, z0)
    start = HEAD.init(cases, context)
    assert ("v" in start) == ("c" in start) == (confidence == "learned")
    for c, case in enumerate(cases):
        moved = case["init"] == "released" and case["learn"] != "margin"
        alpha = 1.0 if form == "eq5" or moved else 0.0
        assert_close(start["alpha"][c], np.full(6, alpha), 0.0, f"α of {case}")
        assert_close(start["beta"][c], np.zeros(6), 0.0, f"β of {case}")
        if confidence == "learned":
            v = 0.1 * (case["init"] == "released")
            assert_close(start["v"][c], np.full(8, v), 1e-8, f"v of {case}")
            assert bool(start["c"][c]) == (case["init"] == "released")
        z = HEAD.logits(start, context.batch(small.view().train.x))[:, c]
        z0_rows = context.batch(small.view().train.x).z0[:, 0]
        same = bool(torch.equal(z, z0_rows))
        assert same == (alpha == (form == "eq5")), f"{case} starts at z⁰: {same}"


def test_each_setting_keeps_the_contract() -> None:
    """Reference: `stage2.testing.check_head`, at the settings that a stack shares together."""
    for form, confidence, z0 in STACKS:
        check_head(HEAD, {"form": form, "confidence": confidence, "z0": z0})


@pytest.mark.parametrize("form", ["eq6", "eq5"])
def test_norms_without_a_confidence(form: str, small: Problem) -> None:
    """Reference: ‖(1 + α_k)w_k‖, of eq. 5 ‖α_k w_k‖; with a confidence there is no linear
    classifier."""
    context = small.view().context
    case = {**_cases(form, "off", "linear")[0]}
    parameters = _moved([case], context)
    factor = parameters["alpha"][0] + (form == "eq6")
    expected = np.linalg.norm(factor[:, None].numpy() * small.w0, axis=1)
    got = HEAD.weight_norm(parameters, context)
    assert got is not None
    assert_close(got[0], expected, 1e-6, "norms")
    learned = HEAD.init([{**case, "confidence": "learned"}], context)
    assert HEAD.weight_norm(learned, context) is None


def test_only_disalign_takes_a_cosine() -> None:
    """Reference: the registry and the setting."""
    for name, head in HEADS.items():
        defaults = {setting.name: setting.default for setting in head.settings}
        assert head.cosine_scale(defaults) is None, name
    assert HEAD.cosine_scale({"z0": "cosine", "z0_scale": 20.0}) == 20.0


def test_a_feature_and_a_row_of_zeros() -> None:
    """Reference: the cosine of a zero vector is 0, so that z = σ(0)·β there."""
    made = problem((9, 4, 2), dim=5)
    context = _context(made, "cosine")
    assert context.weight0 is not None
    context.weight0[1] = 0
    case = _cases("eq6", "learned", "cosine")[0]
    parameters = _moved([case], context)
    z = HEAD.logits(parameters, context.batch(torch.zeros(1, 5)))[0, 0]
    expected = torch.sigmoid(parameters["c"][0]) * parameters["beta"][0]
    assert_close(z, expected, 1e-7, "logits of a zero feature")
