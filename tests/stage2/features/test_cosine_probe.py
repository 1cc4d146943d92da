"""DisAlign on the logits of a cosine classifier: the bank's own, or a cosine probe [METHODS §3]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import normalize

from featbank import Bank, write_bank
from stage1.backbones.cosine import CosineClassifier
from stage2 import LongTailClassifier, Recipe, sweep
from stage2.export.exporting import export_head
from stage2.export.headfile import LATER, load_head
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.features.probe import Probe, cosine_probe, is_cosine, probe_for, probes_of
from tests.stage2 import reference
from tests.stage2.compare import assert_close, assert_relative
from tests.stage2.synthetic import Problem, group_stream, problem

SHORT = {"epochs": 4, "batch_size": 32}
COSINE = {"z0": "cosine", "z0_scale": 9.0, "feature_scale": "none", **SHORT}


def bank_of(made: Problem, path: Path, *, classifier: Any = None, unit: float = 0.0) -> Bank:
    """The problem as a bank; with features of the length `unit` where it is not 0."""
    features: dict[str, Any] = {}
    for (split, view), x in made.x.items():
        rows = unit * x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x
        features.setdefault(split, {})[view] = rows.astype(np.float32)
    write_bank(path, features, made.y, classifier=classifier)
    return Bank(path)


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, scale: float) -> float:
    """The mean cross-entropy of s·⟨w_k/‖w_k‖, x/‖x‖⟩, row by row in float64."""
    unit = [row / np.linalg.norm(row) for row in weight]
    total = 0.0
    for row, label in zip(x.astype(np.float64), y, strict=True):
        z = np.array([scale * float(w @ row) / np.linalg.norm(row) for w in unit])
        total += np.log(np.exp(z).sum()) - z[label]
    return total / len(y)


@pytest.mark.parametrize("scale", [4.0, 16.0])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_probe_is_the_optimum(scale: float, copies: int, tmp_path: Path) -> None:
    """Reference: the objective written out in float64, and SciPy's L-BFGS-B on it from random
    weights: no start finds a lower value, and all find the same."""
    made = problem((20, 11, 6, 3), dim=4, spread=1.5)
    x, y = made.x["train", "instance"], made.y["train"]
    some = x if copies == 1 else np.stack([x, x + 0.3 * np.sin(x)])
    write_bank(tmp_path / "b.h5", {"train": {"instance": some}, "test": {"instance": x}},
               {"train": y, "test": y})  # fmt: skip
    with Bank(tmp_path / "b.h5") as bank:
        weight, bias = cosine_probe(load_view(bank, "instance"), scale)
    assert not bias.any()
    assert_close(weight.norm(dim=1), np.full(4, scale), 1e-4, "‖w_k‖ = s")
    rows, labels = some.reshape(-1, 4), np.tile(y, copies)
    got = objective(rows, labels, weight.double().numpy(), scale)
    rng = np.random.default_rng(0)
    for _ in range(3):
        found = minimize(
            lambda w: objective(rows, labels, w.reshape(4, 4), scale), rng.normal(size=16)
        )
        assert got < found.fun + 1e-6, f"SciPy finds {found.fun}, the probe has {got}"
        assert got > found.fun - 1e-4, f"SciPy stops at {found.fun}, the probe has {got}"


def test_streamed_features_and_an_empty_class(tmp_path: Path) -> None:
    """Reference: the probe of the same features in memory; a class without rows is never the
    nearest to a training row."""
    made = problem((3000, 1500, 600, 200, 0), dim=64)
    with bank_of(made, tmp_path / "b.h5") as bank:
        streamed = load_view(bank, "instance", memory=2_000_000)
        assert not hasattr(streamed.train, "x"), "the features are in memory"
        (got, _), (expected, _) = (
            cosine_probe(data, 8.0) for data in (streamed, load_view(bank, "instance"))
        )
    assert_close(got, expected, 1e-3, "weight")
    z = normalize(torch.from_numpy(made.x["train", "instance"]), dim=1) @ got.t()
    assert not (z.argmax(1) == 4).any()


def test_a_probe_that_stops_short_says_so(
    small: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: three iterations are too few."""
    monkeypatch.setattr("stage2.features.probe.COSINE_ITERATIONS", 3)
    with bank_of(small, tmp_path / "b.h5") as bank:
        data = load_view(bank, "instance")
        with pytest.warns(UserWarning, match=r"z0_scale=9 stopped short .* Lower z0_scale\."):
            cosine_probe(data, 9.0)


def test_which_classifiers_are_cosines(tmp_path: Path) -> None:
    """Reference: what `CosineClassifier` takes and has, as extraction writes it, in float16 too;
    its logits are W₀x, so that nothing is trained. Not a linear one, one with a bias, or one of
    features that differ in length."""
    torch.manual_seed(0)
    head = CosineClassifier(8, 6, scale=30.0)
    x = head.scaled(torch.randn(50, 8)).numpy()
    weight, bias = head.scaled(head.weight.detach()).numpy(), np.zeros(6, np.float32)
    assert is_cosine(weight, bias, x)
    assert is_cosine(weight, bias, np.vstack([x, np.zeros((1, 8))]).astype(np.float16))
    assert not is_cosine(weight, bias + 0.1, x)
    assert not is_cosine(weight * np.linspace(1, 1.2, 6)[:, None], bias, x)
    assert not is_cosine(weight, bias, x * np.linspace(1, 2, 50)[:, None])
    assert not is_cosine(0 * weight, bias, x)
    made = problem(dim=8)
    recipes = [Recipe("disalign", z0=z0, **SHORT) for z0 in ("linear", "cosine")]
    with bank_of(made, tmp_path / "c.h5", classifier={"instance": (weight, bias)}, unit=2) as bank:
        assert probes_of(bank, recipes) == []
        swept = sweep(bank, recipes, device="cpu")
        linear, cosine = swept.outcomes
        for name, values in linear.parameters.items():
            assert torch.equal(cosine.parameters[name], values), name
    assert "probe" not in swept.board.protocol
    with bank_of(made, tmp_path / "l.h5", classifier={"instance": (made.w0, made.b0)}) as bank:
        assert probes_of(bank, recipes) == [Probe("instance", 16.0)]
    with bank_of(made, tmp_path / "n.h5") as bank:
        assert probes_of(bank, recipes) == [Probe("instance"), Probe("instance", 16.0)]
        assert probe_for(bank, "instance", 5.0, "auto") == Probe("instance", 5.0)
        standardised = Probe("instance", 5.0, "standardise")
        assert probe_for(bank, "instance", 5.0, "standardise") == standardised


@pytest.mark.parametrize("linear", [True, False], ids=["W0", "no classifier"])
@pytest.mark.parametrize("feature_scale", ["none", "auto", "standardise"])
def test_it_trains_as_the_reference(
    linear: bool, feature_scale: str, small: Problem, tmp_path: Path
) -> None:
    """Reference: the float64 loop on scaled features with z⁰ = s·cos(x, w_k) for the probe's w_k;
    beside recipes of the linear z⁰, whose results are those without company."""
    recipes = [
        Recipe("disalign", **{**COSINE, "feature_scale": feature_scale, "form": form, **more})
        for form in ("eq6", "eq5")
        for more in ({}, {"confidence": "off"}, {"init": "released", "loss": "distil"})
    ]
    plain = [Recipe("disalign", feature_scale=feature_scale, **SHORT), Recipe("crt", **SHORT)]
    classifier = {"instance": (small.w0, small.b0)} if linear else None
    with bank_of(small, tmp_path / "b.h5", classifier=classifier) as bank:
        swept = sweep(bank, [*plain, *recipes], device="cpu")
        alone = {o.recipe: o for o in sweep(bank, plain, device="cpu").outcomes}
        groups = {r: g for g in plan_bank(bank, recipes) for r in g.recipes}
    got = {o.recipe: o for o in swept.outcomes}
    choice = "standardise" if feature_scale == "standardise" else "none"
    weight = swept.probes[Probe("instance", 9.0, choice)][0]
    x, data = small.x["train", "instance"].astype(np.float64), small.double()
    if feature_scale == "standardise":
        x = (x - x.mean(0)) / x.std(0)
    data["x"] = torch.from_numpy(10.6 * x / np.sqrt(np.square(x).sum(1).mean()))
    if feature_scale == "none":
        data["x"] = torch.from_numpy(small.x["train", "instance"]).double()
    data["w0"], data["b0"] = weight.double(), torch.zeros(6, dtype=torch.float64)
    for recipe in recipes:
        s = {**recipe.settings, **recipe.part("loss")}
        start = {name: torch.zeros(6) for name in ("alpha", "beta")}
        if recipe.settings["confidence"] != "off":
            start |= {"v": torch.zeros(8), "c": torch.zeros(1)}
        if recipe.settings["form"] == "eq5":
            start |= {"alpha": torch.ones(6), "identity": torch.ones(1)}
        if recipe.settings["init"] == "released":
            at_start = _start(recipe, small)
            start |= {name: values[0] for name, values in at_start.items()}
        stream = group_stream(groups[recipe].stream, torch.from_numpy(small.y["train"]))
        expected = reference.train("disalign", s, start, stream, **data)
        for name, value in expected.items():
            assert_close(got[recipe].parameters[name], value, 3e-4, f"{name} of {recipe}")
    for recipe, outcome in alone.items():
        for name, value in outcome.parameters.items():
            assert torch.equal(got[recipe].parameters[name], value), f"{name} of {recipe}"


def _start(recipe: Recipe, made: Problem) -> dict[str, torch.Tensor]:
    from stage2.methods.heads import HEADS

    return HEADS["disalign"].init([recipe.part("head")], made.view().context)


@pytest.mark.parametrize("feature_scale", ["none", "auto", "standardise"])
@pytest.mark.parametrize("confidence", ["learned", "off"])
def test_an_exported_head_has_its_logits(
    confidence: str, feature_scale: str, small: Problem, tmp_path: Path
) -> None:
    """Reference: eq. 6 in float64 on cosines with the probe's w_k, of features as they are in the
    bank; the file says its schema where it has a form that older versions lack."""
    recipe = Recipe(
        "disalign", **{**COSINE, "feature_scale": feature_scale, "confidence": confidence}
    )
    with bank_of(small, tmp_path / "b.h5") as bank:
        swept = sweep(bank, [recipe], results=tmp_path / "r.sqlite", device="cpu")
    path = tmp_path / "h.safetensors"
    exported = export_head(tmp_path / "r.sqlite", recipe.id, path, epoch="last")
    assert max(exported.changed.values()) <= 1
    ((probe, (weight, _)),) = swept.probes.items()
    assert probe.scale == 9
    train = small.x["train", "instance"].astype(np.float64)
    x = small.x["test", "instance"].astype(np.float64)
    if feature_scale == "standardise":
        x, train = ((rows - train.mean(0)) / train.std(0) for rows in (x, train))
    if feature_scale != "none":
        x = 10.6 * x / np.sqrt(np.square(train).sum(1).mean())
    p = {name: value.double() for name, value in swept.outcomes[0].parameters.items()}
    zero = torch.zeros(6, dtype=torch.float64)
    rows = torch.from_numpy(x)
    expected = reference.logits("disalign", p, rows, weight.double(), zero, recipe.settings)
    head = load_head(path)
    with torch.no_grad():
        z = head(torch.from_numpy(small.x["test", "instance"]))
    assert_relative(z, expected, 2e-5, "logits of the file")
    document = path.read_bytes()
    assert (b"gated_cosine" in document) == (confidence == "learned")
    assert (f'schema\\": {LATER["gated_cosine"]}'.encode() in document) == (confidence == "learned")


def test_the_protocol_and_the_plan_say_so(
    featbank: Callable[..., Any], make_toy: Callable[..., Any]
) -> None:
    """Reference: by hand; with a linear classifier in the bank, only z0=cosine is probed."""
    make_toy().write(Path("bank.h5"))
    run = ("--recipe", "disalign", "--set", "epochs=1", "-o", "r.sqlite")
    told = " ".join(featbank("sweep", "bank.h5", *run, "--set", "z0=linear,cosine").stdout.split())
    said = "bank.h5 has no cosine classifier for 'instance': z0=cosine starts from a cosine probe"
    assert said in told, told
    assert "· cosine classifier: cosine probe ·" in told, told
    assert "linear probe" not in told, told
    plain = featbank("sweep", "bank.h5", *run[:-1], "p.sqlite").stdout
    assert "probe" not in plain, plain


def test_the_estimator_has_it_too(small: Problem, tmp_path: Path) -> None:
    """Reference: the sweep of a bank without a classifier, and z⁰ given where it is a cosine."""
    recipe = Recipe("disalign", **COSINE)
    x, y = small.x["train", "instance"], small.y["train"]
    with bank_of(small, tmp_path / "b.h5") as bank:
        swept = sweep(bank, [recipe], device="cpu")
    fitted = LongTailClassifier("disalign", random_state=0, **COSINE).fit(x, y)
    for name, value in swept.outcomes[0].parameters.items():
        assert_close(getattr(fitted.head_.form, name), value, 1e-4, name)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    weight = swept.probes[Probe("instance", 9.0)][0].numpy()
    given = LongTailClassifier("disalign", random_state=0, **COSINE).fit(
        unit, y, coef_init=weight, intercept_init=np.zeros(6)
    )
    assert np.allclose(given.head_.form.weight.numpy(force=True), weight)
