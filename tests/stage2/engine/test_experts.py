"""Recipes over several views: a head on each, outputs averaged [METHODS §7]; and the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import Bank, errors, write_bank
from stage2 import sweep
from stage2.engine.tile import aligned
from stage2.methods.recipe import Recipe
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, run

SHORT = {"epochs": 3, "batch_size": 32}


def _logits(parameters: dict[str, torch.Tensor], x: np.ndarray, view: str = "") -> torch.Tensor:
    rows = torch.from_numpy(x).double()
    weight = parameters[f"{view}weight"].double()
    return rows @ weight.T + parameters[f"{view}bias"].double()


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("optimiser", ["sgd", "lbfgs"])
def test_each_view_trains_as_it_does_alone_and_outputs_are_averaged(
    average: str, optimiser: str, small: Problem
) -> None:
    """Reference: the recipe on each view alone, and the average written out in float64."""
    settings = SHORT if optimiser == "sgd" else {}
    both = Recipe("crt", view="instance+balanced", average=average, optimiser=optimiser, **settings)
    alone = [Recipe("crt", view=v, optimiser=optimiser, **settings) for v in both.views]
    outcomes = run([both, *alone], small)
    outcome = outcomes[both]
    for recipe, view in zip(alone, both.views, strict=True):
        for name, values in outcomes[recipe].parameters.items():
            got = outcome.parameters[f"{view}.{name}"]
            assert_close(got, values, 1e-5, f"{name} on {view}")
    y = torch.from_numpy(small.y["test"])
    z = torch.stack([_logits(outcome.parameters, small.x["test", v], f"{v}.") for v in both.views])
    averages = {
        "probabilities": lambda: torch.softmax(z, 2).mean(0),
        "logits": lambda: torch.softmax(z.mean(0), 1),
    }
    p = averages[average]()
    metrics = outcome.evaluations["test", "last"].metrics
    assert_close(metrics["top1"], 100 * (p.argmax(1) == y).double().mean(), 1e-9, "top-1")
    nll = -p[torch.arange(len(y)), y].log().mean()
    assert_close(metrics["nll"], nll, 1e-5, "NLL")
    loss = np.mean([outcomes[recipe].curves["loss"][-1] for recipe in alone])
    if optimiser == "sgd":
        assert_close(outcome.curves["loss"][-1], loss, 1e-5, "mean loss of the views")


def test_the_selected_epoch_is_that_of_the_average(small: Problem) -> None:
    """Reference: the curve of the averaged outputs; its first best epoch, on val."""
    recipe = Recipe("crt", view="instance+balanced", lr=0.5, epochs=6, batch_size=16)
    (outcome,) = run([recipe], small).values()
    best = int(np.argmax(outcome.curves["val_macro"]))
    assert outcome.selected_epoch == best
    got = outcome.evaluations["val", "selected"].metrics["macro"]
    assert_close(got, outcome.curves["val_macro"][best], 1e-6, "macro of the selected epoch")


def test_blocks_that_are_cut_differently_are_aligned() -> None:
    """Reference: the same rows of both, in order, whole."""
    x = [torch.arange(10.0)[:, None], torch.arange(10.0)[:, None] + 100]
    y = torch.arange(10)
    cuts = [zip(v.split(n), y.split(n), strict=True) for v, n in zip(x, (4, 3), strict=True)]
    blocks = list(aligned(cuts))
    assert [len(a) for a, _ in blocks] == [3, 1, 2, 2, 1, 1]
    for place in (0, 1):
        assert torch.equal(torch.cat([block[place] for block in blocks]), x[place])


def test_a_view_that_is_not_there_is_named(bank: Bank) -> None:
    """Reference: the house's error form."""
    with pytest.raises(errors.ConfigError, match="needs the view 'expert7'"):
        sweep(bank, [Recipe("crt", view="instance+expert7")])


def test_an_average_is_a_setting_of_several_views_only() -> None:
    """Reference: no option that does nothing."""
    assert "average" in Recipe("crt", view="a+b").settings
    with pytest.raises(errors.ConfigError, match="takes no setting 'average'"):
        Recipe("crt", average="logits")


# The oracle --------------------------------------------------------------------------------------


@pytest.fixture
def with_balanced(small: Problem, tmp_path: Path) -> Bank:
    """The small problem with 40 rows of every class as `train_balanced`."""
    rng = np.random.default_rng(1)
    k = len(small.w0)
    y = dict(small.y)
    means = np.stack([small.x["train", "instance"][y["train"] == c].mean(0) for c in range(k)])
    y["train_balanced"] = np.repeat(np.arange(k), 40)
    x = means[y["train_balanced"]] + rng.normal(size=(40 * k, means.shape[1]))
    features = {
        split: {"instance": small.x[split, "instance"]} for split in ("train", "val", "test")
    }
    features["train_balanced"] = {"instance": x.astype(np.float32)}
    write_bank(tmp_path / "balanced.h5", features, y)
    return Bank(tmp_path / "balanced.h5")


def test_the_oracle_learns_from_the_balanced_split(with_balanced: Bank) -> None:
    """Reference: the same recipe on a bank whose train split is that split."""
    with with_balanced as bank:
        plain = {**SHORT, "feature_scale": "none"}  # the scale is always that of train
        (outcome,) = sweep(bank, [Recipe("oracle", **plain)], device="cpu").outcomes
        x, y = bank.load("train_balanced")
        test = bank.load("test")
        groups = bank.groups()
    folder = bank.path.parent
    write_bank(
        folder / "other.h5",
        {"train": {"instance": x}, "test": {"instance": test[0]}},
        {"train": y, "test": test[1]},
    )
    (expected,) = sweep(folder / "other.h5", [Recipe("ce", **plain)], device="cpu").outcomes
    for name, values in expected.parameters.items():
        assert_close(outcome.parameters[name], values, 1e-6, name)
    few = outcome.evaluations["test", "last"]
    assert_close(
        few.metrics["few"], few.per_class[groups["few"]].mean(), 1e-9, "groups of the train split"
    )


def test_a_bank_without_the_balanced_split_says_so(bank: Bank) -> None:
    """Reference: the house's error form."""
    with pytest.raises(errors.ConfigError, match="'oracle' learns from train_balanced.*no rows"):
        sweep(bank, [Recipe("oracle")])


def test_a_group_learns_from_one_split(with_balanced: Bank) -> None:
    """Reference: DESIGN, recipes of a group share their batches; every recipe gets its result."""
    recipes = [Recipe("ce", **SHORT), Recipe("oracle", **SHORT), Recipe("ncm")]
    with with_balanced as bank:
        found = sweep(bank, recipes, device="cpu").outcomes
    assert {outcome.recipe for outcome in found} == set(recipes)
