"""Exported heads: modules that say what the engine says, files that tell all and hide nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import save_file

import stage2
from featbank import errors
from stage2.engine.outcome import Outcome
from stage2.engine.tally import Tally
from stage2.export import modules
from stage2.export.facts import HeadFacts
from stage2.export.forms import AveragedHeads, HeadModule
from stage2.export.headfile import load_head, save_head
from stage2.export.onnxfile import save_onnx
from stage2.methods.heads import HEADS, Head
from stage2.methods.recipe import Recipe
from tests.stage2.synthetic import Problem, problem, run

SHORT = {"epochs": 3, "batch_size": 32, "lr": 0.05}
RECIPES = [
    *(Recipe("ce", head=name, **SHORT) for name, head in HEADS.items() if head.trained),
    *(Recipe(name) for name, head in HEADS.items() if not head.trained),
    *(
        Recipe(name, transform=transform, metric=metric)
        for name in ("ncm", "knn")
        for transform in ("un", "l2n", "cl2n")
        for metric in ("l2", "cosine")
    ),
    Recipe("knn", vote="uniform", class_weight="balanced", k=500),
    Recipe("tde", heads=4, **SHORT),
    Recipe("tau_norm", keep_bias=True),
    Recipe("ridge", calibration="vector"),
    Recipe("lws", calibration="temperature", **SHORT),
    Recipe("ce", head="disalign", calibration="vector", **SHORT),
    *(
        Recipe("ce", head="disalign", form=form, confidence=sigma, **{**SHORT, "lr": lr})
        for form in ("eq6", "eq5")
        for sigma, lr in (("learned", 1.0), ("off", 0.05))  # at 0.05 σ is constant but for 1e-3
    ),
    Recipe("mislas", retention=0.3, view="instance", **SHORT),
    Recipe("crt", view="instance+balanced", **SHORT),
    Recipe("cosine", view="instance+balanced", average="logits", calibration="vector", **SHORT),
    Recipe("ncm", view="instance+balanced"),
    Recipe("crt", view="instance+balanced", view_weights="1+0.25", **SHORT),
    Recipe("ncm", view="instance+balanced", view_weights="2+3", average="logits"),
    Recipe("ce", generator="tailcalib", **SHORT),
    Recipe("crt", generator="dc", tail="few", calibration="vector", **SHORT),
]
"""Every head, every way of comparing, calibrations, averages and spaces of generators."""


def named(recipe: Recipe) -> str:
    """A recipe in the name of a test, by its head."""
    return f"{recipe.head}-{recipe.id}"


def exported(recipe: Recipe, made: Problem, *, epoch: str = "last") -> tuple[Any, Outcome]:
    """A trained recipe as a module, and what the engine says of it."""
    (outcome,) = run([recipe], made).values()
    parameters = outcome.parameters if epoch == "last" else outcome.selected
    contexts = [made.view(view).context for view in recipe.views]
    return modules.head_module(recipe, parameters, contexts, [None] * len(contexts)), outcome


def features(recipe: Recipe, made: Problem, split: str = "test") -> Any:
    """What a module takes: a tensor, or a tuple of several views."""
    found = tuple(torch.from_numpy(made.x[split, view]) for view in recipe.views)
    return found if len(found) > 1 else found[0]


def facts_of(recipe: Recipe, made: Problem) -> HeadFacts:
    """What a file tells."""
    return HeadFacts(
        class_names=[f"class {k}" for k in range(len(made.w0))],
        views=list(recipe.views),
        dim=made.w0.shape[1],
        bank="ab" * 32,
        recipe={"id": recipe.id, "name": recipe.name, "settings": recipe.settings},
        seed=recipe.seed,
        epoch="last",
        metrics={"test": {"top1": 50.0, "few": None}},
        groups={"many": "n > 100"},
        version="0.1.0",
    )


@pytest.fixture(scope="module")
def made() -> Problem:
    """Many / medium / few, and a class without a training row."""
    return problem((120, 36, 20, 12, 4, 0))


@pytest.mark.parametrize(
    ("recipe", "epoch"),
    [(r, epoch) for r in RECIPES for epoch in (("last", "selected") if r.stepped else ("last",))],
    ids=lambda value: value if isinstance(value, str) else named(value),
)
def test_a_module_says_what_the_engine_says(recipe: Recipe, epoch: str, made: Problem) -> None:
    """Reference: the engine's own measurements of the same rows, which read the logits: right or
    wrong by row, NLL, Brier, calibration error."""
    if HEADS[recipe.head].uses_counts:
        made = problem()
    module, outcome = exported(recipe, made, epoch=epoch)
    labels = torch.from_numpy(made.y["test"])
    tally = Tally(labels, len(made.w0), 1, made.counts)
    with torch.no_grad():
        tally.add(module(features(recipe, made))[:, None].clone())
    (found,) = tally.evaluations()
    expected = outcome.evaluations["test", epoch]
    assert (found.correct == expected.correct).all()
    for name, value in expected.metrics.items():
        if value is not None:
            assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_a_file_gives_the_module_back(recipe: Recipe, made: Problem, tmp_path: Path) -> None:
    """Bit by bit, with all that is told of it; twice the same bytes."""
    made = problem() if HEADS[recipe.head].uses_counts else made
    module, _ = exported(recipe, made)
    path, facts = tmp_path / "head.safetensors", facts_of(recipe, made)
    save_head(path, module, facts)
    loaded = stage2.load_head(path)
    x = features(recipe, made)
    assert torch.equal(loaded(x), module(x))
    assert loaded.facts == facts
    before = path.read_bytes()
    save_head(path, loaded, loaded.facts)
    assert path.read_bytes() == before
    save_head(path, module, replace(facts, background=0))
    assert stage2.load_head(path).facts.background == 0


def test_a_linear_head_is_w_and_b(made: Problem, tmp_path: Path) -> None:
    """Reference: NumPy on the tensors as they lie in the file, without featbank."""
    recipe = Recipe("lws", calibration="temperature", **SHORT)
    module, _ = exported(recipe, made)
    save_head(tmp_path / "h.safetensors", module, facts_of(recipe, made))
    tensors = load_file(tmp_path / "h.safetensors")
    assert set(tensors) == {"weight", "bias", "empty"}
    x = made.x["test", "instance"]
    expected = x.astype(np.float64) @ tensors["weight"].T + tensors["bias"]
    assert np.abs(expected - module(torch.from_numpy(x)).detach().numpy()).max() < 1e-5
    with safe_open(tmp_path / "h.safetensors", "np") as file:
        told = json.loads(file.metadata()["featbank-head"])
    assert told["class_names"][1] == "class 1"
    assert told["recipe"]["settings"]["head"] == "lws"


@pytest.mark.parametrize("recipe", RECIPES, ids=named)
def test_gradients_reach_the_features(recipe: Recipe, made: Problem) -> None:
    """Reference: finite differences in float64 (`torch.autograd.gradcheck`)."""
    made = problem() if HEADS[recipe.head].uses_counts else made
    module = exported(recipe, made)[0].double()
    x = features(recipe, made)
    some = [v[:3].double().requires_grad_() for v in (x if isinstance(x, tuple) else (x,))]
    assert torch.autograd.gradcheck(
        lambda *xs: module(xs if len(xs) > 1 else xs[0]), some, atol=1e-4, rtol=1e-3
    )


def test_a_head_can_be_fine_tuned(made: Problem) -> None:
    """Its weights are parameters; what it compares with is not."""
    linear, neighbours = (exported(Recipe(name), made)[0] for name in ("ridge", "knn"))
    assert {name for name, _ in linear.named_parameters()} == {"form.weight", "form.bias"}
    assert not list(neighbours.parameters())


def test_every_head_has_a_form() -> None:
    """Reference: the registry: the recipes above have each of them, and each has a module."""
    assert set(HEADS) == {recipe.head for recipe in RECIPES}


def test_what_has_no_form_is_refused(made: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head or a generator's space that somebody added is told in one line."""
    monkeypatch.setattr(type(HEADS["ridge"]), "form", Head.form)
    with pytest.raises(errors.ConfigError, match="Head 'ridge' of recipe 'ridge' has no form"):
        exported(Recipe("ridge"), made)


def edited(change: Callable[[dict[str, Any], dict[str, Any]], Any], path: Path) -> None:
    """A head file with its tensors and what it tells changed."""
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["featbank-head"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, told)
    save_file(tensors, path, {"featbank-head": json.dumps(told)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.update(schema=10), "has head schema 10, this version reads up to 9"),
        (lambda t, m: m.update(shares=[1.0]), "its shares are not one > 0 for each view"),
        (lambda t, m: m.update(schema=3), "prior is missing"),
        (lambda t, m: m.update(schema=8, members=[0]), "members are not 6 integers"),
        (lambda t, m: m.update(schema=8, members=[3] * 6), "its class groups are none"),
        (
            lambda t, m: m.update(schema=7, members=[0] * 6, groups=dict.fromkeys("abc", "n")),
            "'members' is none of its fields",
        ),
        (lambda t, m: m.update(schema=9, background=6), "its background is class 6 of 6"),
        (lambda t, m: m.update(schema=9, background=-1), "its background is class -1 of 6"),
        (lambda t, m: m.update(schema=9, background="1"), "background is no int"),
        (lambda t, m: m.update(schema=8, background=1), "'background' is none of its fields"),
        (
            lambda t, m: m.update(
                schema=9, background=1, members=[0, 1, 1, 2, 2, 2], groups=dict.fromkeys("abc", "n")
            ),
            "its background is in a class group",
        ),
        (lambda t, m: m.pop("forms"), "forms is missing"),
        (lambda t, m: m.update(forms=[{"form": "os.system"}]), "form 'os.system' is none of"),
        (lambda t, m: m.update(forms=[]), "contradict each other"),
        (lambda t, m: m.update(forms=[3]), "is a broken head"),
        (lambda t, m: m.update(average="logits"), "contradict each other"),
        (lambda t, m: m.update(dim=9), r"weight has shape \(6, 8\), not \(6, 9\)"),
        (lambda t, m: m.update(dim="8"), "dim is no int"),
        (lambda t, m: m.update(class_names=["a"]), r"weight has shape \(6, 8\), not \(1, 8\)"),
        (lambda t, m: m.update(class_names=[1, 2, 3, 4, 5, 6]), "class_names are not all text"),
        (lambda t, m: t.pop("bias"), "bias is missing"),
        (lambda t, m: t.update(more=torch.ones(1)), "more is none of its tensors"),
        (lambda t, m: t.update(bias=t["bias"].double()), "bias is torch.float64"),
        (lambda t, m: t["weight"][0].fill_(torch.nan), "weight is not finite"),
        (lambda t, m: m["forms"][0].update(parts=3), "3 parts do not divide D = 8"),
        (lambda t, m: m["forms"][0].update(parts=True), "parts of form 'affine' is True"),
        (lambda t, m: m["forms"][0].update(power=-1.0), "power of form 'affine' is -1.0"),
        (lambda t, m: m["forms"][0].update(k=3), "form 'affine' has the options"),
    ],
)
def test_attacks(change: Callable[..., None], message: str, made: Problem, tmp_path: Path) -> None:
    """A file from anyone: each defect is one line, and no module is made of it."""
    path, recipe = tmp_path / "h.safetensors", Recipe("ridge")
    save_head(path, exported(recipe, made)[0], facts_of(recipe, made))
    edited(change, path)
    with pytest.raises(errors.ConfigError, match=message) as caught:
        load_head(path)
    assert "\n" not in str(caught.value)


def test_labels_of_neighbours_are_classes(made: Problem, tmp_path: Path) -> None:
    """A label outside 0…K−1 would write beside the votes."""
    path, recipe = tmp_path / "h.safetensors", Recipe("knn")
    save_head(path, exported(recipe, made)[0], facts_of(recipe, made))
    edited(lambda t, m: t["labels"].fill_(6), path)
    with pytest.raises(errors.ConfigError, match="labels are not all in 0…5"):
        load_head(path)


def test_no_head_at_all(tmp_path: Path) -> None:
    """Missing, and another kind of file."""
    with pytest.raises(errors.ConfigError, match="no such file"):
        load_head(tmp_path / "gone.safetensors")
    (tmp_path / "h.safetensors").write_bytes(b"PK" * 100)
    with pytest.raises(errors.ConfigError, match="is not a safetensors file"):
        load_head(tmp_path / "h.safetensors")
    for metadata, message in (
        (None, "but not an exported head"),
        ({"featbank-head": "{"}, "is a broken head"),
        ({"featbank-head": "[" * 100_000}, "is a broken head"),
        ({"featbank-head": "[]"}, "is a broken head"),
    ):
        save_file({"weight": torch.ones(1)}, tmp_path / "h.safetensors", metadata)
        with pytest.raises(errors.ConfigError, match=message):
            load_head(tmp_path / "h.safetensors")


ONNX = [recipe for recipe in RECIPES if recipe.generator or "+" in recipe.settings["view"]]
ONNX = [ONNX[1], ONNX[-1], Recipe("knn"), Recipe("tde", heads=4, **SHORT)]


@pytest.mark.parametrize("recipe", ONNX, ids=named)
def test_onnx(recipe: Recipe, made: Problem, tmp_path: Path) -> None:
    """Reference: ONNX Runtime says what the module says, for any number of rows."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    module, _ = exported(recipe, made)
    save_onnx(tmp_path / "h.onnx", module, facts_of(recipe, made))
    x = features(recipe, made)
    given = x if isinstance(x, tuple) else (x,)
    session = runtime.InferenceSession(tmp_path / "h.onnx")
    inputs = zip([i.name for i in session.get_inputs()], given, strict=True)
    (z,) = session.run(["logits"], {name: values.numpy() for name, values in inputs})
    assert np.abs(z - module(x).detach().numpy()).max() < 1e-4
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"])[0] == "class 0"
    assert isinstance(module, HeadModule | AveragedHeads)


def test_onnx_without_the_package(
    made: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the extra's name, and no file."""
    monkeypatch.setattr("stage2.export.onnxfile.find_spec", lambda name: None)
    recipe = Recipe("ridge")
    with pytest.raises(errors.ConfigError, match=r"pip install \"featbank\[onnx\]\""):
        save_onnx(tmp_path / "h.onnx", exported(recipe, made)[0], facts_of(recipe, made))
    assert not list(tmp_path.iterdir())
