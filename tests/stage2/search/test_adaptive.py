"""Optuna in batches: the same trials as Optuna alone asks for, resumed, pruned and told."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, errors
from stage2.adaptive import search
from stage2.methods.recipe import Recipe
from stage2.results.store import Store
from stage2.search import Sampling
from stage2.specification import read_specification
from stage2.specification.space import Space
from stage2.sweep import sweep
from tests.stage2.synthetic import problem

SPECIFICATION = """
seeds = [0, 1]
[search]
method = "optuna"
trials = 22
batch = 6
[settings]
epochs = 2
batch_size = 32
[recipes.crt]
lr = {log = [1e-3, 1]}
sampler = ["class_aware", "instance"]
[recipes.mlp]
hidden = {linear = [2, 6]}
weight_decay = {linear = [0, 0.1]}
lr = 0.05
[cross]
head = ["linear", "ncm"]
loss = ["ce", "focal"]
gamma = {linear = [0.5, 3]}
"""
SAMPLING = Sampling(trials=22, batch=6)


@pytest.fixture
def space(bank: Bank, tmp_path: Path) -> Space:
    """Of the specification above."""
    (tmp_path / "sweep.toml").write_text(SPECIFICATION)
    specification = read_specification(tmp_path / "sweep.toml", banks=[bank.path])
    assert specification.search == SAMPLING
    return specification.space(bank)


def _by_hand(trial: Any) -> dict[str, Any]:
    """The space above in Optuna's own words; a preset's name and what it differs in."""
    name = trial.suggest_categorical("recipe", ["crt", "mlp", "ce"])
    shared = {"epochs": 2, "batch_size": 32}
    if name == "crt":
        sampler = trial.suggest_categorical("crt:sampler", ["class_aware", "instance"])
        lr = trial.suggest_float("crt:lr", 1e-3, 1, log=True)
        return {"name": name, "sampler": sampler, "lr": float(f"{lr:.6g}"), **shared}
    if name == "mlp":
        hidden = trial.suggest_int("mlp:hidden", 2, 6)
        decay = trial.suggest_float("mlp:weight_decay", 0, 0.1)
        decay = float(f"{decay:.6g}")
        return {"name": name, "hidden": hidden, "weight_decay": decay, "lr": 0.05, **shared}
    head = trial.suggest_categorical("ce:head", ["linear", "ncm"])
    loss = trial.suggest_categorical("ce:loss", ["ce", "focal"])
    if head == "ncm":
        return {"name": name, "head": head}
    if loss == "ce":
        return {"name": name, "loss": loss, **shared}
    gamma = float(f"{trial.suggest_float('ce:gamma', 0.5, 3):.6g}")
    return {"name": name, "loss": loss, "gamma": gamma, **shared}


def _recipes(settings: dict[str, Any]) -> list[Recipe]:
    own = {key: value for key, value in settings.items() if key != "name"}
    seeds = [{}] if own.get("head") == "ncm" else [{"seed": 0}, {"seed": 1}]
    return [Recipe(settings["name"], **own, **seed) for seed in seeds]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_trials_are_optunas(bank: Bank, space: Space, tmp_path: Path, sampler: str) -> None:
    """Reference: a study of plain Optuna, asked and told by hand, batch by batch, with the values
    of a sweep of its own."""
    optuna = pytest.importorskip("optuna")
    path = tmp_path / "results.sqlite"
    sampling = Sampling(trials=22, batch=6, sampler=sampler, seed=3)
    board = search(bank, space, sampling, results=path)
    made = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[sampler]
    study = optuna.create_study(direction="maximize", sampler=made(seed=3))
    expected: set[Recipe] = set()
    for size in (6, 6, 6, 4):
        trials, batch = [], []
        for _ in range(size):
            trials.append(study.ask())
            batch.append(_recipes(_by_hand(trials[-1])))
        outcomes = {
            o.recipe: o for o in sweep(bank, [recipe for own in batch for recipe in own]).outcomes
        }
        for trial, own in zip(trials, batch, strict=True):
            expected |= set(own)
            found = [outcomes[recipe].evaluations for recipe in own]
            epoch = "selected" if own[0].stepped else "last"
            study.tell(trial, statistics.fmean(e["val", epoch].metrics["macro"] for e in found))
    with Store(path) as store:
        assert store.finished(bank.fingerprint) == {recipe.hash for recipe in expected}
    tried = len({recipe.id for recipe in expected})
    told = ", all chosen adaptively by Optuna" if sampler == "tpe" else ""
    assert f" {tried} configurations tried{told} ·" in board.protocol
    assert tried > 12, f"only {tried} different configurations"


def test_a_search_resumes(bank: Bank, space: Space, tmp_path: Path) -> None:
    """Reference: the uninterrupted search, to the last bit; a finished one trains nothing."""
    pytest.importorskip("optuna")
    whole = search(bank, space, SAMPLING, results=tmp_path / "whole.sqlite")
    path = tmp_path / "part.sqlite"
    seen: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(bank, space, SAMPLING, results=path, progress=stop)
    with Store(path) as store:
        before = len(store.finished(bank.fingerprint))
    assert 0 < before < 44
    seen.clear()
    assert search(bank, space, SAMPLING, results=path, progress=lambda *p: seen.append(p)) == whole
    assert seen[0][0] > before / 2, f"it began anew at {seen[0]}"
    assert seen[-1][0] == seen[-1][1], f"progress ended at {seen[-1]}"
    seen.clear()
    assert search(bank, space, SAMPLING, results=path, progress=lambda *p: seen.append(p)) == whole
    assert not seen, f"it trained {seen}"
    forced = search(bank, space, SAMPLING, results=path, force=True)
    assert forced == whole


def test_a_grid_beside_it_is_told_apart(bank: Bank, space: Space, tmp_path: Path) -> None:
    """Reference: the configurations that were there before the search."""
    pytest.importorskip("optuna")
    path = tmp_path / "results.sqlite"
    sweep(bank, [Recipe("lws", epochs=2), Recipe("tau_norm")], results=path)
    board = search(bank, space, SAMPLING, results=path)
    total = len({row["recipe"] for row in board.rows})
    assert (
        f"{total} configurations tried, {total - 2} chosen adaptively by Optuna" in board.protocol
    )


def test_what_diverges_is_pruned(bank: Bank, tmp_path: Path, monkeypatch: Any) -> None:
    """Reference: the store: a trial with a diverged run has no value, any other its mean."""
    optuna = pytest.importorskip("optuna")
    told: list[tuple[Any, Any]] = []
    real = optuna.Study.tell

    def tell(study: Any, trial: Any, values: Any = None, state: Any = None) -> Any:
        told.append((values, state))
        return real(study, trial, values, state)

    monkeypatch.setattr(optuna.Study, "tell", tell)
    (tmp_path / "sweep.toml").write_text(
        "seeds = 0\n[recipes.ce]\nepochs = 2\nloss = 'cb_bce'\nlr = {log = [1e-3, 3e38]}\n"
    )
    specification = read_specification(
        tmp_path / "sweep.toml", banks=[bank.path], search="optuna", search_settings={"trials": 8}
    )
    path = tmp_path / "results.sqlite"
    assert specification.search == Sampling(trials=8)
    search(bank, specification.space(bank), specification.search, results=path)
    with Store(path) as store:
        runs = store.runs(bank.fingerprint)
    values = sorted(run.metrics["val", "selected"]["macro"] for run in runs if run.metrics)
    diverged = [run for run in runs if run.status == "diverged"]
    assert diverged, "nothing diverged"
    assert sorted(value for value, _ in told if value is not None) == values
    pruned = [state for _, state in told if state is not None]
    assert pruned == [optuna.trial.TrialState.PRUNED] * len(diverged)


def test_without_optuna(bank: Bank, space: Space, tmp_path: Path, monkeypatch: Any) -> None:
    """Reference: one line that names what to install."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'featbank\[optuna\]'"):
        search(bank, space, SAMPLING, results=tmp_path / "results.sqlite")


def test_a_search_needs_val(tmp_path: Path) -> None:
    """Reference: ConfigError with the remedy."""
    with problem(val=0).bank(tmp_path / "bank.h5") as bank:
        space = Space({}, (0,))
        with pytest.raises(errors.ConfigError, match="has no val split.*--val-from-test 5"):
            search(bank, space, SAMPLING, results=tmp_path / "results.sqlite")
