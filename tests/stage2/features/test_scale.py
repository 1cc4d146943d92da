"""Scaled features: results do not depend on the unit of the features, and heads take them raw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from featbank import Bank, errors, write_bank
from stage2 import LongTailClassifier, Recipe, load_head, sweep
from stage2.engine.plan import BatchStream, Shape
from stage2.engine.rows import MemoryRows
from stage2.engine.streamed import StreamedRows
from stage2.export.exporting import export_head
from stage2.features.loading import load_view
from stage2.features.scale import PUBLISHED_NORM, measured, scaling_of
from stage2.methods.heads import HEADS
from stage2.methods.presets import PRESETS
from tests.conftest import Run, Toy

Make = Callable[..., Toy]

SHORT = {"epochs": 3, "lr": 0.05, "batch_size": 32}


def bank_of(
    toy: Toy, path: Path, *, times: float = 1.0, classifier: bool = True, **options: Any
) -> Path:
    """The toy's bank with its features multiplied, and W₀ divided, by a factor."""
    features = {
        split: {view: (x.astype(np.float64) * times).astype(np.float32) for view, x in of.items()}
        for split, of in toy.features.items()
    }
    weight, bias = toy.classifier
    start = {"instance": ((weight / times).astype(np.float32), bias)} if classifier else None
    write_bank(path, features, toy.labels, classifier=start, **options)
    return path


def norm_of(x: Any) -> float:
    """Root mean square norm of rows [n, D]."""
    return float(np.sqrt(np.square(np.asarray(x, np.float64)).sum(1).mean()))


def at_most(name: str, most: int, **settings: Any) -> Recipe:
    """A preset on the view of every bank, with at most so many epochs."""
    settings = {"view": "instance", **settings}
    own = Recipe(name, **settings).settings
    return Recipe(
        name, **settings, **({"epochs": min(most, own["epochs"])} if "epochs" in own else {})
    )


_OF = {name: HEADS[preset.settings["head"]] for name, preset in PRESETS.items()}

EVERYTHING = [
    *((name, {}) for name in PRESETS if not _OF[name].takes_tokens and not _OF[name].needs_text),
    *((name, {"metric": "l2", "transform": t}) for name in ("knn", "ncm") for t in ("un", "cl2n")),
    ("ridge", {"l2": 100.0}),
    ("lda", {"prior": "counts", "shrinkage": 0.0}),
    *(
        ("ce", {"generator": name, **({"beta_step": 0.0} if name == "afg" else {})})
        for name in ("afg", "dc", "tailcalib", "gaussian", "smote", "mixup", "remix", "batchnorm")
    ),
    *((name, {"optimiser": "lbfgs"}) for name in ("crt", "balanced_softmax", "lws")),
    ("ce", {"optimiser": "adamw", "lr": 0.01}),
    ("ce", {"head": "linear", "max_norm": 0.5}),
    ("crt", {"calibration": "vector"}),
]
"""Every preset but those of tokens and those on text, whose scale is fixed; every generator,
optimiser and way of comparing."""


@pytest.mark.parametrize("classifier", [True, False], ids=["W0", "probe"])
def test_results_do_not_depend_on_the_unit(
    make_toy: Make, tmp_path: Path, classifier: bool
) -> None:
    """Features times 0.01, 1/3, 7.7 and 100 give the table of the features as they are. (Not ECE:
    of a hundred rows, one on the border of two bins moves it.)"""
    toy = make_toy(splits=("train", "train_balanced", "val", "test"))
    recipes = [at_most(name, 3, **settings, feature_scale="auto") for name, settings in EVERYTHING]
    tables = {}
    for times in (1.0, 0.01, 1 / 3, 7.7, 100.0):
        path = bank_of(
            toy, tmp_path / f"{times}.h5", times=times, classifier=classifier, seen={"val": False}
        )
        tables[times] = {
            (o.recipe.id, *place): e.metrics
            for o in sweep(path, recipes, device="cpu").outcomes
            for place, e in o.evaluations.items()
        }
    usual = tables.pop(1.0)
    assert len({key[0] for key in usual}) == len(set(recipes))
    for times, table in tables.items():
        for key, metrics in usual.items():
            for name in ("top1", "macro", "few", "brier"):
                assert table[key][name] == pytest.approx(metrics[name], abs=0.1), (times, key, name)
            assert table[key]["nll"] == pytest.approx(metrics["nll"], rel=1e-3), (times, key)


def test_folds_do_not_depend_on_the_unit(make_toy: Make, tmp_path: Path) -> None:
    """The probe of each fold is one of features as they are, scaled as all of train is."""
    toy = make_toy()
    recipes = [
        Recipe(name, feature_scale=choice, **(SHORT if name == "crt" else {}))
        for name in ("crt", "logit_adjust", "knn")
        for choice in ("auto", "standardise")
    ]
    tables = []
    for times in (1.0, 7.7):
        path = bank_of(toy, tmp_path / f"{times}.h5", times=times, classifier=False)
        outcomes = sweep(path, recipes, device="cpu", folds=3, select_on="3-fold").outcomes
        tables.append(
            {(o.recipe, *at): e.metrics for o in outcomes for at, e in o.evaluations.items()}
        )
    assert any("3-fold" in key for key in tables[0])
    for key, metrics in tables[0].items():
        for name in ("macro", "brier"):
            assert tables[1][key][name] == pytest.approx(metrics[name], abs=0.1), key
        assert tables[1][key]["nll"] == pytest.approx(metrics["nll"], rel=1e-3), key


def test_a_rate_is_in_units_of_the_features(make_toy: Make, tmp_path: Path) -> None:
    """Under ``none`` the same factor changes the table: what ``auto`` is for."""
    toy = make_toy()
    recipe = at_most("crt", 10, feature_scale="none")
    macros = []
    for times in (0.01, 1.0):
        path = bank_of(toy, tmp_path / f"{times}.h5", times=times)
        (outcome,) = sweep(path, [recipe]).outcomes
        macros.append(outcome.evaluations["test", "last"].metrics["macro"])
    assert abs(macros[0] - macros[1]) > 5


@pytest.mark.parametrize(
    ("classifier", "seen", "default"),
    [(True, None, "none"), (False, None, "auto"), (False, True, "none"), (False, False, "auto")],
)
def test_the_default_is_the_banks(
    make_toy: Make, tmp_path: Path, classifier: bool, seen: bool | None, default: str
) -> None:
    """``auto`` where stage 1 was not trained on the features, to the bit; told in the line. A
    setting makes another recipe; without it, the recipe is the one it always was."""
    options = {} if seen is None else {"seen": {"train": seen}}
    path = bank_of(make_toy(), tmp_path / "b.h5", classifier=classifier, **options)
    recipes = [Recipe("crt", **SHORT), *(Recipe("crt", **SHORT, feature_scale=s) for s in
               ("auto", "none"))]  # fmt: skip
    assert len({recipe.hash for recipe in recipes}) == 3
    assert "feature_scale" not in recipes[0].settings
    assert recipes[0] == Recipe("crt", **SHORT, feature_scale=None)
    results = sweep(path, recipes)
    weights = {
        o.recipe.settings.get("feature_scale"): o.parameters["weight"] for o in results.outcomes
    }
    assert torch.equal(weights[None], weights[default])
    assert not torch.equal(weights["auto"], weights["none"])
    lines = {None: sweep(path, recipes[:1]).board.protocol, "both": results.board.protocol}
    words = {"auto": "features scaled to norm 10.6 (auto)", "none": "features as they are"}
    assert f" · {words[default]} · " in lines[None]
    assert "features scaled to norm 10.6 (auto) and as they are" in lines["both"]


def test_recipes_are_the_ones_they_were() -> None:
    """The hash of a preset without the setting is that of all versions before it."""
    assert Recipe("crt").hash.startswith("5e62ee35b627")
    assert Recipe("knn").hash.startswith("9f509bfde17a")


@pytest.mark.parametrize("choice", ["auto", "standardise"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_scale_is_that_of_train(
    make_toy: Make, tmp_path: Path, choice: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the formula, by NumPy and scikit-learn, over all copies; W₀x + b₀ stays as it is;
    streamed features are those in memory, bit for bit; other splits are scaled like train."""
    toy = make_toy((300, 200), dim=16, splits=("train", "train_balanced", "test"), views=("a", "b"))
    toy.features["train"] = {
        v: np.stack([x, x + 1]).astype(dtype) for v, x in toy.features["train"].items()
    }
    toy.features["train"]["b"] *= 3
    for split in ("train_balanced", "test"):
        toy.features[split] = {v: x.astype(dtype) for v, x in toy.features[split].items()}
    for of in toy.features.values():
        of["a"][..., 5] = 2  # does not vary
    monkeypatch.setattr("featbank.bank.schema.CHUNK_BYTES", 1 << 10)
    path = toy.write(tmp_path / "b.h5", classifier={v: toy.classifier for v in "ab"}, dtype=dtype)
    monkeypatch.setattr("stage2.engine.streamed.READ_BYTES", 1 << 12)
    with Bank(path) as bank:
        for view in bank.views:
            scaling = scaling_of(bank, view, choice)
            data = load_view(bank, view, train_on="train_balanced", scaling=scaling)
            raw = bank.load_copies("train", view).reshape(-1, 16)
            seen = bank.load("train_balanced", view)[0]
            if choice == "auto":
                expected = seen * (PUBLISHED_NORM / norm_of(raw))
            else:
                scaler = StandardScaler().fit(raw.astype(np.float64))
                varies = scaler.var_ > 1e-9
                scaler.scale_[~varies] = np.sqrt(scaler.var_[varies].mean())
                expected = scaler.transform(seen) * PUBLISHED_NORM / np.sqrt(varies.sum())
            ((x, _),) = data.train.blocks()
            np.testing.assert_allclose(x, expected, rtol=2e-5, atol=2e-5)
            assert data.weight0 is not None
            assert data.bias0 is not None
            weight, bias = bank.classifier(view)  # type: ignore[misc]
            np.testing.assert_allclose(
                x @ data.weight0.t() + data.bias0, seen @ weight.T + bias, rtol=1e-4, atol=1e-4
            )
            whole = load_view(bank, view, scaling=scaling)
            parts = load_view(bank, view, scaling=scaling, memory=60_000)
            assert isinstance(whole.train, MemoryRows)
            assert isinstance(parts.train, StreamedRows)
            streamed = torch.cat([x for x, _ in parts.train.blocks()])
            assert torch.equal(streamed, whole.train.x)
            assert norm_of(streamed) == pytest.approx(PUBLISHED_NORM, rel=1e-5)
            draws = torch.arange(len(streamed))[None]
            (window,) = parts.train.windows(draws, torch.Generator())
            assert torch.equal(window.x[window.rows].sort(1).values, streamed[None].sort(1).values)


def test_a_norm_on_record_is_not_measured_again(
    make_toy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scale, without a pass over the features."""
    path = bank_of(make_toy(), tmp_path / "b.h5", classifier=False)
    with Bank(path) as bank:
        norm = norm_of(bank.load("train")[0])
        monkeypatch.setattr(Bank, "blocks", lambda *a, **o: pytest.fail("features are read"))
        scaling = scaling_of(bank, "instance", "auto")
    assert scaling is not None
    assert float(scaling.factor) == pytest.approx(PUBLISHED_NORM / norm, rel=1e-6)


def test_features_of_zeros_stay_zeros() -> None:
    """And the scale stays finite: there is nothing to measure."""
    x = torch.zeros(4, 3)
    for choice in ("auto", "standardise"):
        scaling = measured(choice, [x.numpy()])
        assert scaling is not None
        assert torch.equal(scaling.apply_(x.clone()), x)
        assert all(v.isfinite().all() for v in scaling.classifier(torch.ones(2, 3), torch.ones(2)))


def test_scales_are_groups_of_their_own() -> None:
    """Recipes of different scales do not share batches; every kind of stream has the scale."""
    shape = Shape(100, 8, 5)
    for recipe in (Recipe("crt"), Recipe("knn"), Recipe("crt", optimiser="lbfgs")):
        settings = {**recipe.settings, "feature_scale": "standardise"}
        streams = {
            BatchStream.of(each, shape) for each in (recipe, Recipe(recipe.name, **settings))
        }
        assert {stream.feature_scale for stream in streams} == {None, "standardise"}


HEAD_RECIPES = [
    *(
        Recipe("ce", head=name, **SHORT)
        for name, head in HEADS.items()
        if head.trained and not head.takes_tokens
    ),
    *(Recipe(name) for name, head in HEADS.items() if not head.trained),
    Recipe("knn", metric="l2", transform="cl2n"),
    Recipe("crt", generator="dc", tail="few", **SHORT),
    Recipe("crt", view="instance+balanced", calibration="vector", **SHORT),
]


@pytest.mark.parametrize("choice", ["auto", "standardise", "unit"])
def test_exported_heads_take_raw_features(make_toy: Make, tmp_path: Path, choice: str) -> None:
    """Reference: the engine's own measurement of each row and its NLL, for every head, several
    views and calibration, from a file that was written and read; heads on text have no other
    scale than ``unit``."""
    toy = make_toy()
    toy.features = {
        s: {"instance": of["instance"] * 9 + 2, "balanced": of["balanced"]}
        for s, of in toy.features.items()
    }
    prompts = np.stack([toy.classifier[0], toy.classifier[0] + 1])
    path = toy.write(tmp_path / "b.h5", seen={"val": False}, text={"instance": (prompts, 20.0)})
    recipes = [
        Recipe(r.name, **{**r.settings, "feature_scale": choice})
        for r in HEAD_RECIPES
        if choice == "unit" or not HEADS[r.head].needs_text
    ]
    outcomes = sweep(path, recipes, results=tmp_path / "r.sqlite").outcomes
    assert len(outcomes) == len(set(recipes))
    with Bank(path) as bank:
        for outcome in outcomes:
            export_head(
                tmp_path / "r.sqlite", outcome.recipe.id, tmp_path / "h.safetensors", epoch="last"
            )
            head = load_head(tmp_path / "h.safetensors")
            views = [torch.from_numpy(bank.load("test", v)[0]) for v in outcome.recipe.views]
            with torch.no_grad():
                z = head(tuple(views) if len(views) > 1 else views[0])
            y = torch.from_numpy(bank.labels("test"))
            expected = outcome.evaluations["test", "last"]
            assert ((z.argmax(1) == y).numpy() == expected.correct).all(), outcome.recipe
            nll = torch.nn.functional.cross_entropy(z.double(), y)
            assert float(nll) == pytest.approx(expected.metrics["nll"], rel=1e-3), outcome.recipe


def test_a_head_that_scales_says_so(make_toy: Make, tmp_path: Path) -> None:
    """By the schema, so that older readers refuse it, unless the scale is in its weights; a scale
    of another shape is refused."""
    from safetensors.torch import load_file

    from stage2.export.headfile import save_head

    path = bank_of(make_toy(), tmp_path / "b.h5", classifier=False)
    recipes = [Recipe("ncm"), Recipe("ncm", feature_scale="none"), Recipe("ridge")]
    sweep(path, recipes, results=tmp_path / "r.sqlite")
    files = [tmp_path / f"{recipe.id}.safetensors" for recipe in recipes]
    for recipe, file, schema in zip(recipes, files, (4, 3, 3), strict=True):
        export_head(tmp_path / "r.sqlite", recipe.id, file)
        assert b'\\"schema\\": %d' % schema in file.read_bytes()
        assert ("input_scale" in load_file(file)) == (schema == 4)
    head = load_head(files[0])
    head.form.input_scale = torch.ones(3)  # type: ignore[union-attr]
    save_head(files[0], head, head.facts)
    with pytest.raises(errors.ConfigError, match="input_scale has shape .3,., not .1,. or .8,."):
        load_head(files[0])


def test_the_estimator_follows_the_rule(make_toy: Make) -> None:
    """Without W₀ features are scaled and their unit does not matter; with it they are not."""
    toy = make_toy()
    x, y = toy.features["train"]["instance"], toy.labels["train"]
    test = toy.features["test"]["instance"]

    def logits(times: float, start: bool = False, **settings: Any) -> np.ndarray:
        model = LongTailClassifier("crt", random_state=0, device="cpu", **SHORT, **settings)
        weight, bias = toy.classifier
        model.fit(x * times, y, *([weight / times, bias] if start else []))
        return model.decision_function(test * times)

    usual = logits(1)
    np.testing.assert_allclose(logits(37.0), usual, atol=1e-3)
    np.testing.assert_array_equal(logits(1, feature_scale="auto"), usual)
    unscaled = logits(1, feature_scale="none")
    assert abs(unscaled - usual).max() > 0.1
    np.testing.assert_array_equal(logits(1, start=True), unscaled)
    np.testing.assert_allclose(logits(37.0, start=True, feature_scale="auto"), usual, atol=1e-3)


def test_both_in_one_table(featbank: Run, make_toy: Make, tmp_path: Path) -> None:
    """``--set feature_scale=auto,none``; a wrong one is told with the choices."""
    bank_of(make_toy(), tmp_path / "b.h5")
    done = featbank("sweep", "b.h5", "--recipe", "crt", "--set", "feature_scale=auto,none")
    assert "feature_scale=auto" in done.stdout
    assert "feature_scale=none" in done.stdout
    done = featbank("sweep", "b.h5", "--recipe", "crt", "--set", "feature_scale=on", code=2)
    assert "must be one of auto, none, standardise, unit, got 'on'" in done.stderr
    assert "feature_scale    not set" in featbank("methods", "crt").stdout
