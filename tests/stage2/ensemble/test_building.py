"""Ensembles of a results file: the pool, the run that is stored, and the files that have none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.classes import HoldOut
from featbank.bank.schema import EVALUATED
from featbank.bank.split import split_val
from stage2.ensemble.building import build_ensemble
from stage2.export.exporting import export_head
from stage2.export.headfile import load_head
from stage2.export.prediction import predict_bank
from stage2.methods.recipe import Recipe
from stage2.results.ensembles import ENSEMBLE, EnsembleRecipe, Member
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.stage2.results.tampering import change
from tests.stage2.synthetic import Problem

SHORT = {"epochs": 3, "batch_size": 32}
RECIPES = [
    *(Recipe("crt", lr=lr, seed=seed, **SHORT) for lr in (0.05, 0.2) for seed in (0, 1)),
    *(Recipe("balanced_softmax", lr=0.1, view=v, **SHORT) for v in ("instance", "balanced")),
    *(Recipe("tau_norm", tau=tau) for tau in (0.5, 1.0)),
    Recipe("logit_adjust"),
]


@pytest.fixture
def swept(bank: Bank, tmp_path: Path) -> Path:
    """A results file of linear heads on both views, one with two seeds."""
    path = tmp_path / "results.sqlite"
    sweep(bank, RECIPES, results=path)
    return path


def stored(path: Path) -> Results:
    """The results, in memory."""
    with Store(path) as store:
        return Results(store)


def ids(results: Results) -> set[str]:
    """Of the ensembles there are."""
    return {each.id for each in results.configurations.values() if each.is_ensemble}


def test_the_same_file_gives_the_same_ensemble(swept: Path) -> None:
    """Twice: one run, the same members, figures and bits; what was tried and what choosing it cost
    stay as they were before."""
    before = stored(swept)
    seen = []
    for _ in range(2):
        built = build_ensemble(swept)
        results = stored(swept)
        assert ids(results) == {built.recipe.id}
        (run,) = results.configurations[built.recipe.id].runs
        with Store(swept) as store:
            places = [(results.fingerprint, run.recipe, split, "last") for split in EVALUATED]
            bits = [store.correct(*place).tobytes() for place in places]
        seen.append((built, run.metrics, bits))
    assert seen[0] == seen[1]
    assert len(results.tried) == len(before.tried) == len({recipe.id for recipe in RECIPES})
    assert results.optimism == before.optimism
    assert results.tied == before.tied
    assert results.board.terms.tried == before.board.terms.tried


def test_the_stored_run_is_the_exported_head(swept: Path, bank: Bank, tmp_path: Path) -> None:
    """On test, row by row; on val the head was chosen by all rows, the stored figures were not."""
    built = build_ensemble(swept)
    results = stored(swept)
    (run,) = results.configurations[built.recipe.id].runs
    done = export_head(swept, ENSEMBLE, tmp_path / "head.safetensors")
    assert done.changed == {"test": 0}
    head = load_head(tmp_path / "head.safetensors")
    assert head.facts.recipe["id"] == built.recipe.id
    assert head.facts.views == list(built.recipe.views)
    found = predict_bank(head, bank, split="test")
    assert found.labels is not None
    with Store(swept) as store:
        for split, equal in (("test", True), ("val", False)):
            found = predict_bank(head, bank, split=split)
            correct = store.correct(results.fingerprint, run.recipe, split, "last")
            assert np.array_equal(found.classes == found.labels, correct) == equal


def test_seeds_are_candidates_of_their_own(bank: Bank, tmp_path: Path) -> None:
    """A pool of two configurations with five seeds: a member is one of the ten runs."""
    path = tmp_path / "seeds.sqlite"
    recipes = [Recipe("crt", lr=lr, seed=s, **SHORT) for lr in (0.05, 0.2) for s in range(5)]
    sweep(bank, recipes, results=path)
    built = build_ensemble(path, members=2)
    assert built.recipe.pool == 2
    assert {(m.id, m.seed) for m in built.recipe.members} <= {(r.id, r.seed) for r in recipes}
    assert len({m.seed for m in built.recipe.members}) > 1


def test_the_pool_has_the_lowest_nll(swept: Path) -> None:
    """Reference: the stored metric on val, a mean over seeds, of all configurations."""
    built = build_ensemble(swept, members=3)
    results = stored(swept)

    def nll(id_: str) -> float:
        runs = results.configurations[id_].runs
        values = [run.metrics["val", run.measured_at("val", "selected")]["nll_t"] for run in runs]
        return float(np.mean(values))  # type: ignore[arg-type]

    best = sorted((each.id for each in results.tried), key=nll)[:3]
    assert built.recipe.pool == 3
    assert {member.id for member in built.recipe.members} <= set(best)


def test_what_has_no_part(bank: Bank, tmp_path: Path) -> None:
    """k-NN and the cosine classifier are not affine, and are named; of one head under several
    calibrations the pool has one, uncalibrated; what diverged is not asked."""
    path = tmp_path / "mixed.sqlite"
    others = [Recipe("knn"), Recipe("cosine", lr=0.1, **SHORT)]
    one = [Recipe("crt", lr=0.1, calibration=c, **SHORT) for c in ("none", "temperature", "vector")]
    wild = Recipe("crt", lr=1e30, **SHORT)
    sweep(bank, [*others, *one, wild, Recipe("tau_norm")], results=path)
    built = build_ensemble(path)
    assert built.recipe.pool == 2
    assert {m.id for m in built.recipe.members} <= {one[0].id, Recipe("tau_norm").id}
    assert {id_ for each in built.left_out.values() for id_ in each} == {r.id for r in others}
    assert list(built.left_out) == ["not affine in the features"]
    done = export_head(path, ENSEMBLE, tmp_path / "head.safetensors")
    assert done.changed == {"test": 0}


def test_vector_scaling_is_left_off(bank: Bank, tmp_path: Path) -> None:
    """The ensemble of vector-scaled heads is that of the same heads without calibration."""
    found = []
    for calibration in ("none", "vector"):
        path = tmp_path / f"{calibration}.sqlite"
        recipes = [Recipe("crt", lr=lr, calibration=calibration, **SHORT) for lr in (0.05, 0.2)]
        sweep(bank, recipes, results=path)
        members = build_ensemble(path).recipe.members
        place = {recipe.id: recipe.settings["lr"] for recipe in recipes}
        found.append([(place[m.id], m.count, pytest.approx(m.temperature)) for m in members])
    assert found[0] == found[1]


def test_a_val_that_cannot_choose(without_val: Problem, tmp_path: Path) -> None:
    """There is none."""
    recipes = [Recipe("tau_norm", tau=tau) for tau in (0.5, 1.0)]
    with without_val.bank(tmp_path / "none.h5") as bank:
        sweep(bank, recipes, results=tmp_path / "none.sqlite")
    with pytest.raises(errors.ConfigError, match="has no val to choose an ensemble on"):
        build_ensemble(tmp_path / "none.sqlite")


def test_a_val_that_stage_1_has_seen(seen_val: Path, tmp_path: Path) -> None:
    """Rows of train that were held out after stage 1."""
    sweep(seen_val, [Recipe("tau_norm", tau=t) for t in (0.5, 1.0)], results=tmp_path / "r.sqlite")
    with pytest.raises(errors.ConfigError, match=r"Stage 1 has seen \d+ of the \d+ val rows"):
        build_ensemble(tmp_path / "r.sqlite")


@pytest.fixture
def seen_val(without_val: Problem, tmp_path: Path) -> Path:
    """A bank whose val was split from train after stage 1."""
    without_val.bank(tmp_path / "whole.h5").close()
    split_val(tmp_path / "whole.h5", tmp_path / "cut.h5", HoldOut(per_class=2))
    return tmp_path / "cut.h5"


@pytest.mark.parametrize(
    ("recipes", "problem"),
    [
        ([Recipe("tau_norm")], "has 1 head to make an ensemble of"),
        ([Recipe("tau_norm"), Recipe("knn")], "has 1 configuration whose heads can be folded"),
    ],
)
def test_too_few_heads(bank: Bank, tmp_path: Path, recipes: list[Recipe], problem: str) -> None:
    """One line each, and the file is left as it was."""
    path = tmp_path / "few.sqlite"
    sweep(bank, recipes, results=path)
    before = path.read_bytes()
    with pytest.raises(errors.ConfigError, match=problem) as caught:
        build_ensemble(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_an_older_file_has_no_nll_at_a_temperature(swept: Path) -> None:
    """Its configurations cannot be ordered: the error says to sweep again."""
    change(swept, "UPDATE evaluation SET metrics = json_remove(metrics, '$.nll_t')")
    with pytest.raises(errors.ConfigError, match=r"has 0 heads .* again with --force"):
        build_ensemble(swept)


def test_a_member_that_is_gone(swept: Path, tmp_path: Path) -> None:
    """The export says to choose again."""
    build_ensemble(swept)
    member = EnsembleRecipe.of(_parameters(swept)).members[0]
    change(
        swept,
        "DELETE FROM evaluation WHERE recipe IN (SELECT recipe FROM run WHERE id = ?)",
        (member.id,),
    )
    change(swept, "DELETE FROM run WHERE id = ?", (member.id,))
    with pytest.raises(errors.ConfigError, match=f"has no run of {member.id}"):
        export_head(swept, ENSEMBLE, tmp_path / "head.safetensors")


def _parameters(path: Path) -> dict[str, object]:
    results = stored(path)
    (id_,) = ids(results)
    return results.configurations[id_].parameters


MADE = EnsembleRecipe(
    (Member("crt-1a2b3c4d", 0, 3, 1.25), Member("lws-1a2b3c4d", 7, 1, 1e-05)),
    pool=30,
    folds=5,
    view="instance+balanced",
    stage1=True,
)


def test_settings_read_back() -> None:
    """Members, counts and temperatures, exactly; also through JSON, as results files hold them."""
    assert EnsembleRecipe.of(json.loads(json.dumps(MADE.parameters))) == MADE
    assert MADE.id == f"ensemble-{MADE.hash[:8]}"


@pytest.mark.parametrize(
    "change_of",
    [
        lambda p: p.pop("heads"),
        lambda p: p.update(heads=7),
        lambda p: p.update(heads=""),
        lambda p: p.update(heads=p["heads"].replace("T=1.25", "T=0.0")),
        lambda p: p.update(heads=p["heads"].replace("T=1.25", "T=1e999")),
        lambda p: p.update(heads=p["heads"].replace("×3", "×-3")),
        lambda p: p.update(heads=p["heads"] + "; "),
        lambda p: p.update(members=9),
        lambda p: p.update(view=3),
        lambda p: p.update(more=1),
    ],
)
def test_settings_that_nobody_stored(change_of: Callable[[dict[str, object]], object]) -> None:
    """A results file may come from anyone: one error, whatever is in it."""
    parameters = dict(MADE.parameters)
    change_of(parameters)
    with pytest.raises(errors.ConfigError, match="is not one that this version"):
        EnsembleRecipe.of(parameters)
