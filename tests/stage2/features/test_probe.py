"""Banks without a stage-1 classifier: recipes that need one start from a linear probe."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from featbank import Bank, errors, write_bank
from stage2 import Recipe, sweep
from stage2.features import probes
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.features.probe import DECAY, Probe, fit_linear, linear_probe
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.compare import assert_close
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import Problem, problem

RAW = {"feature_scale": "none"}
SHORT = {"epochs": 2, "batch_size": 32, **RAW}
RECIPES = [
    *(Recipe(name, **SHORT) for name in ("lws", "los", "disalign", "ltwb", "sla", "crt")),
    *(Recipe(name, **RAW) for name in ("tau_norm", "logit_adjust", "ncm")),
    Recipe("glag", **SHORT),  # distillation, on rows with and without a made part
    Recipe("mislas", view="instance+balanced", **SHORT),
    Recipe("logit_adjust", view="instance+balanced", **RAW),
]
"""Heads, losses and generators that read W₀, and some that do not; on features as they are, not
scaled as is the default without a classifier."""


def bare(
    made: Problem, path: Path, *, classifier: Any = None, balanced_split: bool = False
) -> Bank:
    """The problem as a bank with the classifiers given, none by default."""
    features: dict[str, Any] = {}
    for (split, view), rows in made.x.items():
        features.setdefault(split, {})[view] = rows
    labels = dict(made.y)
    if balanced_split:
        features["train_balanced"], labels["train_balanced"] = features["val"], labels["val"]
    names = [f"class {k}" for k in range(len(made.w0))]
    write_bank(path, features, labels, class_names=names, classifier=classifier)
    return Bank(path)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The views whose probes are trained, one entry a training."""
    seen: list[Any] = []

    def counted(data: Any) -> Any:
        seen.append(data)
        return fit_linear(data)

    monkeypatch.setattr(probes, "fit_linear", counted)
    return seen


@pytest.mark.parametrize(("length", "offset"), [(1.0, 0.0), (1.0, 1.0), (30.0, 100.0)])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_probe_is_softmax_regression(
    length: float, offset: float, copies: int, tmp_path: Path
) -> None:
    """Reference: scikit-learn in float64 on the features as they are, of whatever length and mean;
    softmax leaves a constant in b free."""
    made = problem(spread=2.0)
    x = made.x["train", "instance"] * length / 7 + offset
    some = x if copies == 1 else np.stack([x, x + 0.1 * length * np.sin(x)])
    write_bank(
        tmp_path / "b.h5",
        {"train": {"instance": some}, "test": {"instance": x}},
        {"train": made.y["train"], "test": made.y["train"]},
    )
    with Bank(tmp_path / "b.h5") as bank:
        weight, bias = (
            values.double().numpy() for values in linear_probe(load_view(bank, "instance"))
        )
    rows, y = some.reshape(-1, x.shape[1]).astype(np.float64), np.tile(made.y["train"], copies)
    centred = rows - rows.mean(0)
    variance = np.square(centred).sum(1).mean()
    optimum = LogisticRegression(C=1 / (len(y) * DECAY * variance), tol=1e-10, max_iter=20_000)
    optimum.fit(centred, y)
    assert_close(weight * math.sqrt(variance), optimum.coef_ * math.sqrt(variance), 0.02, "weight")
    z = rows @ weight.T + bias
    expected = optimum.decision_function(centred)
    assert_close(z - z.mean(1, keepdims=True), expected, 5e-3, "logits")


def test_a_streamed_bank_has_the_same_probe(tmp_path: Path) -> None:
    """Reference: the probe of the same features in memory."""
    made = problem((3000, 1500, 600, 200, 60), dim=64)
    with bare(made, tmp_path / "b.h5") as bank:
        streamed = load_view(bank, "instance", memory=2_000_000)
        assert not hasattr(streamed.train, "x"), "the features are in memory"
        for got, expected in zip(
            linear_probe(streamed), linear_probe(load_view(bank, "instance")), strict=True
        ):
            assert_close(got, expected, 1e-4, "probe")


def test_a_feature_that_never_varies(tmp_path: Path) -> None:
    """Reference: no feature tells classes apart, so W = 0 and b are the log priors."""
    made = problem((30, 10, 5))
    x = {split: {"instance": np.full((len(y), 4), 2.5, np.float32)} for split, y in made.y.items()}
    write_bank(tmp_path / "b.h5", x, made.y)
    with Bank(tmp_path / "b.h5") as bank:
        weight, bias = linear_probe(load_view(bank, "instance"))
    assert not weight.any(), f"got {weight}"
    assert_close(bias.softmax(0), made.counts / made.counts.sum(), 1e-4, "priors")


def test_recipes_start_from_the_probe(small: Problem, tmp_path: Path, trained: list[Any]) -> None:
    """Reference: the sweep of a bank that has the probe of each view as its classifier; to the last
    bit, and a probe is trained once."""
    with bare(small, tmp_path / "bare.h5") as bank:
        swept = sweep(bank, RECIPES, device="cpu")
    assert len(trained) == 2, f"got {len(trained)} probes"
    assert set(swept.probes) == {Probe("instance"), Probe("balanced")}
    kept = {probe.view: (w.numpy(), b.numpy()) for probe, (w, b) in swept.probes.items()}
    assert not np.allclose(kept["instance"][0], kept["balanced"][0])
    with bare(small, tmp_path / "with.h5", classifier=kept) as bank:
        expected = {o.recipe: o for o in sweep(bank, RECIPES, device="cpu").outcomes}
    assert len(trained) == 2, "a bank with a classifier got a probe"
    for outcome in swept.outcomes:
        for key, evaluation in expected[outcome.recipe].evaluations.items():
            assert outcome.evaluations[key].metrics == evaluation.metrics, outcome.recipe
        for name, values in expected[outcome.recipe].parameters.items():
            assert torch.equal(outcome.parameters[name], values), f"{name} of {outcome.recipe}"


def test_the_oracle_begins_from_the_train_split(small: Problem, tmp_path: Path) -> None:
    """Reference: the probe of recipes that learn from train."""
    with bare(small, tmp_path / "b.h5", balanced_split=True) as bank:
        on_train = sweep(bank, [Recipe("tau_norm")], device="cpu").probes
        oracle = [Recipe("lws", train_on="train_balanced", **SHORT), Recipe("oracle", **SHORT)]
        on_balanced = sweep(bank, oracle, device="cpu").probes
    ((probe, of_balanced),) = on_balanced.items()
    for got, expected in zip(of_balanced, on_train[probe], strict=True):
        assert torch.equal(got, expected)


def test_a_resumed_sweep_has_the_same_table(
    small: Problem, tmp_path: Path, trained: list[Any]
) -> None:
    """Reference: the uninterrupted sweep, to the last bit; a finished one trains no probe, nor does
    one whose recipes need none."""
    path = tmp_path / "part.sqlite"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with bare(small, tmp_path / "b.h5") as bank:
        whole = sweep(bank, RECIPES, results=tmp_path / "whole.sqlite", device="cpu")
        with pytest.raises(KeyboardInterrupt):
            sweep(bank, RECIPES, results=path, device="cpu", progress=stop)
        resumed = sweep(bank, RECIPES, results=path, device="cpu")
        assert resumed.skipped
        assert resumed.outcomes
        assert resumed.board == whole.board
        trained.clear()
        assert sweep(bank, RECIPES, results=path, device="cpu").board == whole.board
        assert sweep(bank, [Recipe("ncm"), Recipe("crt", **SHORT)], device="cpu").probes == {}
        assert not trained


def test_the_protocol_tells(small: Problem, tmp_path: Path) -> None:
    """Reference: by hand; a bank with a classifier, without, and with that of another view. What an
    older version stored of a bank is completed."""
    own = (small.w0, small.b0)
    for classifier, told in (
        (None, "· stage-1 classifier: linear probe ·"),
        ({"instance": own}, ""),
        ({"balanced": own}, "· stage-1 classifier of instance: linear probe ·"),
    ):
        path, results = tmp_path / f"{len(told)}.h5", tmp_path / f"{len(told)}.sqlite"
        with bare(small, path, classifier=classifier) as bank:
            board = sweep(bank, [Recipe("tau_norm")], results=results, device="cpu").board
            assert told in board.protocol, f"got {board.protocol}"
            assert ("probe" in board.protocol) == bool(told), f"got {board.protocol}"
            with closing(sqlite3.connect(results)) as db, db:
                (about,) = db.execute("SELECT about FROM bank").fetchone()
                older = json.dumps({k: v for k, v in json.loads(about).items() if k != "probed"})
            change(results, "UPDATE bank SET about = ?", (older,))
            with Store(results) as store:
                assert "probe" not in Results(store).board.protocol
            again = sweep(bank, [Recipe("tau_norm")], results=results, device="cpu")
            assert again.board == board


def test_a_budget_too_small_for_the_probe(small: Problem, tmp_path: Path) -> None:
    """Reference: ConfigError from the planner; the same recipe with the bank's own classifier, and
    a recipe that needs none, are planned."""
    memory = 12_000
    with bare(small, tmp_path / "bare.h5") as bank:
        plan_bank(bank, [Recipe("ncm")], memory=memory)
        with pytest.raises(errors.ConfigError, match="Raise --memory"):
            plan_bank(bank, [Recipe("logit_adjust")], memory=memory)
    own = {"instance": (small.w0, small.b0)}
    with bare(small, tmp_path / "own.h5", classifier=own) as bank:
        plan_bank(bank, [Recipe("logit_adjust")], memory=memory)


def test_made_features_of_another_space_are_still_refused(small: Problem, tmp_path: Path) -> None:
    """Reference: the sentence; the probe belongs to the bank's features."""
    with (
        bare(small, tmp_path / "b.h5") as bank,
        pytest.raises(errors.ConfigError, match="does not fit the features that generator"),
    ):
        sweep(bank, [Recipe("glag", output_space="tukey")], device="cpu")


def test_the_command_tells(
    featbank: Callable[..., Any], make_toy: Callable[..., Any], tmp_path: Path
) -> None:
    """One line before training, with the views, and one on each probe, the first time; the protocol
    after it, and in the leaderboard."""
    make_toy().write(tmp_path / "bare.h5", classifier=None)
    arguments = ("--recipe", "mislas", "--recipe", "lws", "--set", "epochs=1", "-o", "r.sqlite")
    told = " ".join(featbank("sweep", "bare.h5", *arguments).stdout.split())
    assert (
        "bare.h5 has no stage-1 classifier for 'balanced' and 'instance': recipes that need one "
        "start from a linear probe" in told
    ), told
    assert "stage-1 classifier: linear probe" in told, told
    for view in ("balanced", "instance"):
        line = rf"linear probe of '{view}': \d+ passes in \d+ s, largest gradient entry \S+ \(aim "
        assert len(re.findall(line, told)) == 1, told
    again = featbank("sweep", "bare.h5", *arguments, "--recipe", "los").stdout
    assert "linear probe of" not in again, again
    board = featbank("leaderboard", "r.sqlite", "--format", "md").stdout
    assert "stage-1 classifier: linear probe" in board, board
    plain = featbank("sweep", "bare.h5", "--recipe", "ncm", "-o", "n.sqlite").stdout
    assert "start from a linear probe" not in plain, plain
