"""The data of the page: the leaderboard as it is, details as they were measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featbank import errors, write_bank
from featbank.bank import ClassGroups
from stage2.methods.recipe import Recipe
from stage2.report.banks import gather_banks
from stage2.report.details import POINTS, SECTIONS, _beta, _curve, plain
from stage2.report.gathering import gather
from stage2.results.banks import banks_of
from stage2.results.leaderboard import differences
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.tables import starred_protocol
from stage2.sweep import sweep
from tests.stage2.report.conftest import COUNTS
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import problem


def test_the_leaderboard_is_whole_and_in_order(store: Store) -> None:
    """Reference: `leaderboard`, to the three decimals that a page carries."""
    board = Results(store).board
    data = gather(Results(store))
    ranked = [board.ranked(rows) for rows in board.configurations()]
    assert data["protocol"] == starred_protocol(board)
    assert [row["id"] for row in data["rows"]] == [row["recipe"] for row in ranked]
    for row, expected in zip(data["rows"], ranked, strict=True):
        assert row["changes"] == differences(expected)
        assert row["seeds"] == len(expected["seeds"])
        assert row["tied"] == (expected["tied"] and board.terms.ties > 0)
        for name in ("macro", "many", "few", "ece", "nll", "selection"):
            for got, key in zip(row["values"][name], (name, f"{name}_std"), strict=True):
                assert got == pytest.approx(expected[key], abs=5e-4), key
    lasts = {row["recipe"]: row["top1"] for row in board.rows if row["epoch"] == "last"}
    for row in data["rows"]:
        assert row["values"]["top1_last"][0] == pytest.approx(lasts[row["id"]], abs=5e-4)
    assert {column["key"] for column in data["columns"]} <= data["rows"][0]["values"].keys()
    assert [column["key"] for column in data["columns"] if column["less"]] == [
        "selection_nll",
        "ece",
        "nll",
        "logit_deviation",
    ]


def test_settings_are_those_that_vary_within_a_recipe(store: Store) -> None:
    """Reference: the grid, which varies these; ``head`` and ``loss`` only tell recipes apart."""
    data = gather(Results(store))
    assert set(data["settings"]) == {"lr", "weight_decay", "smooth_tail", "tau"}
    assert data["settings"][0] == "lr", "four values"
    by_recipe = {
        row["name"]: dict(zip(data["settings"], row["settings"], strict=True))
        for row in data["rows"]
    }
    assert by_recipe["tau_norm"]["lr"] is None
    assert by_recipe["crt"]["lr"] in (0.001, 0.01, 0.1, 0.5)


def test_details_are_as_measured(store: Store) -> None:
    """Reference: means over the seeds' arrays in the store, sums where rows are counted."""
    data = gather(Results(store), top=100)
    results = Results(store)
    fingerprint = results.fingerprint
    runs = {id_: each.runs for id_, each in results.configurations.items()}
    assert data["details"].keys() == runs.keys()
    assert not data["missing"]
    (name,) = [id for id in runs if id.startswith("ce-")]
    stored = [store.details(fingerprint, run.recipe, "test", "selected") for run in runs[name]]
    details = data["details"][name]
    np.testing.assert_allclose(
        details["weight_norm"], np.mean([d["weight_norm"] for d in stored], 0), atol=1e-4
    )
    np.testing.assert_array_equal(
        details["confidence"], np.sum([d["confidence"] for d in stored], axis=0)
    )
    rows, *_ = np.array(details["reliability"], float)
    assert rows.sum() == 2 * 80, "ten test rows per class, two seeds"
    ways = ("forward", "backward", "forward_known", "backward_known")
    for way, line in zip(ways, details["shift"], strict=True):
        np.testing.assert_allclose(line, np.mean([d[f"shift_{way}"] for d in stored], 0), atol=6e-3)
    correct = [store.correct(fingerprint, run.recipe, "test", "selected") for run in runs[name]]
    wrong = sum(int((~seed).sum()) for seed in correct)
    assert sum(rows for _, _, rows in details["confusions"]) == wrong
    assert details["curves"]["loss"]["epoch"] == [1, 2, 3]


def test_logits_stand_in_segments(store: Store) -> None:
    """Reference: L_k over Σ|L| and std(z_k|y=k)/L_k, means over the seeds; eight classes make eight
    segments of one [LOS Fig. 3]."""
    data = gather(Results(store), top=100)
    results = Results(store)
    (id_,) = (id_ for id_ in data["details"] if id_.startswith("ce-"))
    runs = results.configurations[id_].runs
    stored = [store.details(results.fingerprint, r.recipe, "test", "selected") for r in runs]
    magnitude = np.mean([each["logit_magnitude"] for each in stored], 0)
    deviation = np.mean([each["logit_deviation"] for each in stored], 0)
    shares, spread, sizes = data["details"][id_]["logits"]
    assert sizes == [1] * len(COUNTS), "classes stand by training count already"
    np.testing.assert_allclose(shares, 100 * magnitude / np.abs(magnitude).sum(), atol=6e-4)
    np.testing.assert_allclose(spread, deviation, atol=6e-4)


def test_a_head_on_balanced_data_is_the_bound(tmp_path: Path) -> None:
    """Reference: the only recipe that is trained on train_balanced [DisAlign Fig. 1]."""
    made = problem(COUNTS)
    splits = {"train": "train", "val": "val", "test": "test", "train_balanced": "val"}
    x = {split: {"instance": made.x[of, "instance"]} for split, of in splits.items()}
    y = {split: made.y[of] for split, of in splits.items()}
    write_bank(tmp_path / "b.h5", x, y)
    recipes = [Recipe("oracle", epochs=1), Recipe("ce", epochs=1)]
    sweep(tmp_path / "b.h5", recipes, results=tmp_path / "r.sqlite")
    with Store(tmp_path / "r.sqlite") as store:
        assert gather(Results(store))["bound"] == [recipes[0].id]


def test_losses_that_treat_classes_differently(store: Store) -> None:
    """Reference: ε_k of mislas written out; cross-entropy treats all alike, and a head that is not
    trained has no loss."""
    details = gather(Results(store), top=100)["details"]
    (id_,) = (id_ for id_ in details if Results(store).find(id_).parameters.get("smooth_tail") == 0)
    (parameter,) = details[id_]["loss"]
    n = np.sort(np.asarray(COUNTS, float))
    r = (n - n[0]) / (n[-1] - n[0])
    assert parameter["label"] == "smoothing ε"
    assert parameter["x"] == n.astype(int).tolist()
    np.testing.assert_allclose(parameter["y"], 0.4 * np.sin(r * np.pi / 2), atol=1e-4)
    assert not parameter["epochs"]
    with_loss = {id_.rpartition("-")[0] for id_, data in details.items() if "loss" in data}
    assert with_loss == {"mislas", "glag"}


def test_the_best_of_every_recipe_brings_its_details_first(store: Store) -> None:
    """Reference: the first row of each recipe on the leaderboard."""
    data = gather(Results(store), top=7)
    best = {}
    for row in data["rows"]:
        best.setdefault(row["name"], row["id"])
    assert len(data["details"]) == 7
    assert set(best.values()) <= data["details"].keys()
    assert data["before"]["id"] in data["details"]
    assert next(iter(data["details"])) == data["rows"][0]["id"]
    assert len(gather(Results(store), top=1)["details"]) == 1


@pytest.mark.parametrize(
    ("condition", "name", "why"),
    [
        (None, "tau_norm", "the stage-1 classifier itself, τ = 0"),
        ("name=crt or name=ce", "ce", "plain cross-entropy"),
        ("name=crt or name=mislas", None, "the next best recipe"),
        ("name=crt", "crt", "the next best configuration"),
    ],
)
def test_what_stands_for_before(
    store: Store, condition: str | None, name: str | None, why: str
) -> None:
    """The plainest there is: stage 1, cross-entropy, another recipe, another configuration."""
    data = gather(Results(store), condition=condition)
    names = {row["id"]: row["name"] for row in data["rows"]}
    assert data["before"]["why"] == why
    assert names[data["before"]["id"]] == name or name is None
    assert data["before"]["id"] != data["rows"][0]["id"]


def test_conditions_and_selection_are_those_of_the_leaderboard(store: Store) -> None:
    """Reference: the options of ``featbank leaderboard``; what is on test says so."""
    kept = gather(Results(store), condition="lr<0.1 and head=linear")
    assert all(row["name"] == "crt" for row in kept["rows"])
    assert "filtered: lr<0.1 and head=linear (6 of 21)" in kept["protocol"]
    on_test = gather(Results(store, select_on="test"))
    assert (on_test["selectOn"], on_test["epoch"]) == ("test", "last")
    assert "selected on test" in on_test["protocol"]
    assert gather(Results(store))["epoch"] == "selected"
    one = gather(Results(store), condition="name=ce")
    assert one["before"] is None
    with pytest.raises(errors.ConfigError, match="No configuration has a 'lrr'"):
        gather(Results(store), condition="lrr<1")
    with pytest.raises(errors.ConfigError, match="matches 0 banks"):
        gather(Results(store, bank="zz"))


def test_what_is_not_there_is_told(store: Store) -> None:
    """A recipe that is fitted in closed form has neither curves nor β."""
    data = gather(Results(store), condition="name=tau_norm")
    missing = " ".join(data["missing"])
    assert "training curves" in missing
    assert "β trajectories (no generator moved β)" in missing
    assert "reliability" not in missing
    assert {"per_class", "reliability", "shift"} <= SECTIONS.keys()


def test_nothing_but_diverged_runs(results: Path, tmp_path: Path) -> None:
    """The leaderboard lists them without numbers; there are no details."""
    path = Path(shutil.copy(results, tmp_path / "diverged.sqlite"))
    change(path, "UPDATE run SET status = 'diverged'")
    with Store(path) as store:
        data = gather(Results(store))
    assert (len(data["rows"]), data["details"], data["before"]) == (21, {}, None)
    assert data["rows"][0]["values"]["selection"] == [None, None]
    of_images = [section for section in SECTIONS.values() if not section.of_pixels]
    assert len(data["missing"]) == len(of_images)


def test_curves_are_thinned_and_beta_is_grouped() -> None:
    """Reference: means and percentiles with NumPy over the epochs that are kept."""
    rng = np.random.default_rng(0)
    counts = np.asarray(COUNTS)
    beta = rng.random((2, 1000, len(counts)))
    beta[..., 0] = np.nan
    groups = ClassGroups.usual(counts)
    section = _beta(beta, groups)
    kept = np.asarray(section["epoch"]) - 1
    assert (kept[0], kept[-1], len(kept)) == (0, 999, POINTS)
    few = groups.masks["few"]
    mean, low, high = section["groups"]["few"]
    members = beta.mean(0)[kept][:, few]
    np.testing.assert_allclose(mean, members.mean(1), atol=6e-4)
    np.testing.assert_allclose(low, np.percentile(members, 10, axis=1), atol=6e-4)
    np.testing.assert_allclose(high, np.percentile(members, 90, axis=1), atol=6e-4)
    assert "many" not in section["groups"], "its one class has no β"
    assert section["last"][0] is None
    short = _curve(np.array([[1.0, 2.0, 4.0], [3.0, np.nan, np.nan]]))
    assert short == {"epoch": [1, 2, 3], "mean": [2.0, 2.0, 4.0]}, "seeds of several lengths"


def test_what_is_not_finite_is_null(store: Store) -> None:
    """JSON has no NaN; numbers of rows stay whole."""
    values = np.array([[1.23456, np.nan], [np.inf, 2.0]])
    assert plain(values, 2) == [[1.23, None], [None, 2.0]]
    assert json.dumps(plain(np.array([3.0, 4.0]), 0)) == "[3, 4]"
    json.dumps(gather(Results(store), top=100), allow_nan=False)


def test_several_banks(several: Path) -> None:
    """Reference: the page of each bank alone, and of every recipe the best on each board."""
    with Store(several) as store:
        banks = banks_of(store, "r32,steep")
        data = gather_banks(banks)
        assert data["banks"] == [gather(bank) for bank in banks]
        assert gather_banks(banks[:1]) == gather(banks[0])
        json.dumps(data, allow_nan=False)
        grid = data["grid"]
        assert grid["banks"] == ["r32", "steep"]
        best = [
            {rows[0]["name"]: b.board.ranked(rows) for rows in b.board.best().configurations()}
            for b in banks
        ]
        assert [row["name"] for row in grid["rows"]] == [*best[0]]
        for row in grid["rows"]:
            for cell, on_bank in zip(row["cells"], best, strict=True):
                if row["name"] not in on_bank:
                    assert cell is None
                    continue
                expected = on_bank[row["name"]]
                assert cell["id"] == expected["recipe"]
                for name in ("macro", "few", "ece"):
                    assert cell["values"][name][0] == pytest.approx(expected[name], abs=5e-4)
        with pytest.warns(UserWarning, match="steep is left out"):
            alone = gather_banks(banks, condition="name=ncm")
        assert [row["name"] for row in alone["rows"]] == ["ncm"]
