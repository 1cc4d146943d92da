"""Recipes that are trained by name on a GPU take tf32 where nobody says a precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, errors
from stage2 import LongTailClassifier, Recipe, read_specification, sweep
from stage2.adaptive import asking
from stage2.engine.native.library import best_precision
from stage2.export.exporting import export_head
from stage2.methods.precisions import default_precision, in_words
from stage2.results.leaderboard import differences
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.search import Sampling
from tests.stage2.cuda.launches import SMALL
from tests.stage2.cuda.running import gpu
from tests.stage2.results.test_protocol import bank_of


def precisions(bank: Bank, device: str, path: Path | None = None, **options: Any) -> list[str]:
    """The precisions of a specification's recipes, ``-`` for one that takes none."""
    specification = read_specification(path, seeds=[0], device=device, **options)
    return [recipe.settings.get("precision", "-") for recipe in specification.on(bank)]


def test_who_says_a_precision(tmp_path: Path) -> None:
    """Reference: the command line before the specification, and that before the device; recipes
    keep their hashes, on a CPU and where full products are asked for."""
    (tmp_path / "s.toml").write_text(
        'recipes = ["ncm"]\n[[cross]]\nhead = ["linear", "ncm"]\n[[cross]]\nprecision = "bf16"\n'
    )
    with SMALL.bank(tmp_path / "bank.h5", text=False) as bank, gpu():
        assert precisions(bank, "cuda", only=["crt", "ncm"]) == ["tf32", "-"]
        assert precisions(bank, "cuda:0", only=["ncm"]) == ["-"]
        assert precisions(bank, "cpu", only=["crt", "ncm"]) == ["fp32", "-"]
        assert precisions(bank, "cuda", only=["crt"], precision="bf16") == ["bf16"]
        assert precisions(bank, "cuda", only=["crt"], overrides=["precision=bf16"]) == ["bf16"]
        assert precisions(bank, "cuda", tmp_path / "s.toml") == ["-", "tf32", "-", "bf16"]
        assert precisions(bank, "cpu", tmp_path / "s.toml") == ["-", "fp32", "-", "bf16"]
        full = read_specification(only=["crt"], seeds=[0], device="cuda", precision="fp32")
        assert full.on(bank) == [Recipe("crt")]
        with pytest.raises(errors.ConfigError, match="takes a setting 'precision'"):
            precisions(bank, "cuda", only=["ncm"], precision="fp32")


def test_results_and_exports_say_it(tmp_path: Path) -> None:
    """Reference: the recipe by its settings; a head is retrained at the precision of its run."""
    results = tmp_path / "r.sqlite"
    with SMALL.bank(tmp_path / "bank.h5") as bank, gpu():
        specification = read_specification(
            only=["ce", "ncm"], overrides=["epochs=1"], seeds=[0], device="cuda"
        )
        board = sweep(bank, specification.on(bank), results=results, device="cuda").board
        assert " · products in tf32 · " in board.protocol
        texts = {differences(row) for row in board.rows if row["name"] == "ce"}
        assert texts == {"epochs=1 precision=tf32"}
        exported = export_head(results, "ce", tmp_path / "h.safetensors", features=bank.path)
        assert exported.changed == {"val": 0, "test": 0}


def test_a_preset_at_another_precision_is_the_preset(tmp_path: Path) -> None:
    """Reference: the rule; in full precision it stands before itself in tf32."""
    results = tmp_path / "r.sqlite"
    counts = {"train": [9, 6, 4, 3, 3, 2], "test": [3] * 6}
    bank = bank_of(tmp_path / "bank.h5", counts)
    tf32, other, full = (
        Recipe("ce", **settings)
        for settings in ({"precision": "tf32"}, {"precision": "tf32", "lr": 0.2}, {})
    )
    sweep(bank, [tf32, other], results=results)
    with Store(results) as store:
        assert Results(store).find("ce").id == tf32.id
    sweep(bank, [full], results=results)
    with Store(results) as store:
        assert Results(store).find("ce").id == full.id


def test_trials_of_a_search(tmp_path: Path) -> None:
    """Reference: tf32 in every trial, and no dimension of the search."""
    search = {"search": "optuna", "search_settings": {"trials": 2}}
    with SMALL.bank(tmp_path / "bank.h5") as bank, gpu():
        specification = read_specification(
            only=["ce", "ncm"], overrides=["ce:lr=0.1,0.2"], seeds=[0], device="cuda", **search
        )
        with asking(specification.space(bank), Sampling(trials=8)) as (study, ask):
            _, asked = ask(8)
    found = {r.name: r.settings.get("precision", "-") for recipes in asked for r in recipes}
    assert found == {"ce": "tf32", "ncm": "-"}
    assert all("precision" not in name for trial in study.trials for name in trial.params)


def test_the_estimator() -> None:
    """Reference: its recipe on a CPU, but for the precision; one that is given holds."""
    x, y = SMALL.x["train", "instance"], SMALL.y["train"]
    settings: dict[str, Any] = {"random_state": 0, "epochs": 1}
    with gpu():
        got = LongTailClassifier("ce", device="cuda", **settings).fit(x, y).recipe_
        full = LongTailClassifier("ce", device="cuda", precision="fp32", **settings).fit(x, y)
        assert LongTailClassifier("ncm", device="cuda").fit(x, y).recipe_ == Recipe("ncm")
    expected = LongTailClassifier("ce", device="cpu", **settings).fit(x, y).recipe_
    assert got.settings == {**expected.settings, "precision": "tf32"}
    assert full.recipe_ == expected


def test_one_function_decides() -> None:
    """Reference: the rule."""
    assert [default_precision(device) for device in ("cpu", "cuda", "cuda:1")] == [
        "fp32",
        "tf32",
        "tf32",
    ]
    assert best_precision("cuda:1") == "tf32"
    assert in_words(iter(["fp32", "", "bf16", "tf32"])) == "products in tf32 and bf16"
    assert in_words(["fp32"]) == ""
