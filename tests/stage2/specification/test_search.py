"""``[search]`` of a specification: read, overridden, refused with lines; where Optuna looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featbank import Bank, errors
from stage2.methods.recipe import Recipe
from stage2.search import Halving, Sampling
from stage2.specification import Specification, read_specification
from tests.stage2.synthetic import Problem

GRID = "[recipes.crt]\nlr = {log = [0.01, 1], n = 3}\n"


def _read(folder: Path, text: str, **options: Any) -> Specification:
    (folder / "s.toml").write_text(text)
    return read_specification(folder / "s.toml", **options)


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        ("", {}, None),
        ("method = 'halving'", {}, Halving()),
        ("method = 'halving'\neta = 4\nfirst = 2", {}, Halving(eta=4, first=2)),
        ("method = 'halving'\neta = 4", {"search": "none"}, None),
        ("method = 'halving'\neta = 4", {"search": "halving"}, Halving(eta=4)),
        ("method = 'halving'\neta = 4", {"search_settings": {"eta": 2}}, Halving(eta=2)),
        ("method = 'halving'\neta = 4", {"search": "optuna"}, Sampling()),
        (
            "method = 'optuna'\nsampler = 'random'\nseed = 7",
            {"search_settings": {"trials": 9}},
            Sampling(trials=9, sampler="random", seed=7),
        ),
    ],
)
def test_what_a_search_means(
    table: str, options: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    """Reference: the same search by hand; options take the place of what the file says."""
    head = f"[search]\n{table}\n" if table else ""
    assert _read(tmp_path, head + GRID, **options).search == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search = 3\n", "s.toml:1: [search] names no method. Write method = "),
        ("[search]\neta = 3\n", "s.toml:1: [search] names no method. Write method = "),
        (
            "[search]\nmethod = 'halvin'\n",
            "s.toml:2: Unknown search 'halvin'. Did you mean 'halving'?",
        ),
        (
            "[search]\nmethod = 'halving'\neta = 1\n",
            "s.toml:3: The 'eta' of search 'halving' must be an integer ≥ 2, got 1.",
        ),
        (
            "[search]\nmethod = 'optuna'\nsampler = 'tpa'\n",
            "s.toml:3: The 'sampler' of search 'optuna' must be one of tpe, random, got 'tpa'. "
            "Did you mean 'tpe'?",
        ),
        (
            "[search]\nmethod = 'optuna'\ntrails = 4\n",
            "s.toml:3: The search 'optuna' takes no setting 'trails'. Did you mean 'trials'?",
        ),
        (
            "seeds = 0\n[search]\nmethod = 'optuna'\n[recipes.lws]\nseed = [0, 1]\n",
            "s.toml:5: A search does not choose seeds. Write --seeds 0,1,2, or seeds = [0, 1, 2] ",
        ),
        (
            "[search]\nmethod = 'optuna'\n[recipes.lws]\nlr = {log = [-1, 1]}\n",
            "s.toml:4: 'lr': A log range has 0 < low < high, got -1 and 1.",
        ),
        (
            "[search]\nmethod = 'optuna'\n[recipes.lws]\nmomentum = {linear = [0.5, 1.5]}\n",
            "s.toml:4: The 'momentum' of recipe 'lws' must be a float ≥ 0 and < 1, got 1.5.",
        ),
        (
            "[search]\nmethod = 'optuna'\n[recipes.lws]\nlr = [0.1, -1]\nepochs = [2, 0]\n",
            "s.toml: 2 errors.\n  s.toml:4: The 'lr' of recipe 'lws' must be a float > 0, got -1.\n"
            "  s.toml:5: The 'epochs' of recipe 'lws' must be an integer ≥ 1, got 0.",
        ),
        (
            "[recipes.lws]\nlr = {log = [0.1, 1]}\n",
            "s.toml:2: 'lr': A range has one of log and linear, and one of n and random.",
        ),
    ],
)
def test_an_error_has_its_line(text: str, message: str, tmp_path: Path) -> None:
    """Reference: the line by eye."""
    text = text if "recipes" in text else text + GRID
    with pytest.raises(errors.ConfigError) as error:
        _read(tmp_path, text)
    assert str(error.value).replace(f"{tmp_path}/", "").startswith(message)


def test_a_bank_without_val_is_an_error(tmp_path: Path, without_val: Problem) -> None:
    """Reference: the line of the search."""
    without_val.bank(tmp_path / "bank.h5").close()
    text = f"bank = 'bank.h5'\n[search]\nmethod = 'halving'\n{GRID}"
    with pytest.raises(errors.ConfigError, match=r"s.toml:2: .*bank.h5 has no val split"):
        _read(tmp_path, text)


class _Asked:
    """A trial that takes the low end, or the last choice, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = tuple(choices)
        return choices[-1]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked[name] = (low, high, log)
        return low * 1.00000001

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked[name] = (low, high, log)
        return low


def test_ranges_and_choices_are_dimensions(bank: Bank, tmp_path: Path) -> None:
    """Reference: the dimensions by hand: log, linear, integer, choices, and none for one value."""
    text = """
    seeds = [4, 5]
    [search]
    method = "optuna"
    [recipes.crt]
    lr = {log = [1e-3, 1]}
    weight_decay = {linear = [0.1, 0.3], n = 7}
    epochs = {log = [1, 20]}
    view = ["instance", "balanced"]
    momentum = [0.5, 0.9]
    batch_size = 32
    """
    trial = _Asked()
    recipes = _read(tmp_path, text, banks=[bank.path]).space(bank).recipes(trial)
    assert trial.asked == {
        "view": ("instance", "balanced"),
        "lr": (1e-3, 1.0, True),
        "weight_decay": (0.1, 0.3, False),
        "epochs": (1, 20, True),
        "momentum": (0.5, 0.9),
    }
    own = {"lr": 1e-3, "weight_decay": 0.1, "epochs": 1, "momentum": 0.9, "batch_size": 32}
    assert recipes == [Recipe("crt", view="balanced", **own, seed=seed) for seed in (4, 5)]


def test_a_dimension_is_asked_where_a_part_takes_it(bank: Bank, tmp_path: Path) -> None:
    """Reference: parts first; ``gamma`` belongs to the focal loss, and the second of two tables of
    one recipe has dimensions of its own."""
    text = """
    [search]
    method = "optuna"
    [settings]
    epochs = 2
    [[recipes.ce]]
    loss = ["focal", "ce"]
    gamma = {linear = [1, 2]}
    [[recipes.ce]]
    loss = ["ce", "focal"]
    gamma = {linear = [1, 2]}
    """
    space = _read(tmp_path, text, banks=[bank.path]).space(bank)
    trial = _Asked()
    assert space.recipes(trial)[0].settings["gamma"] == 1
    assert trial.asked == {
        "recipe": ("ce", "ce 2"),
        "ce 2:loss": ("ce", "focal"),
        "ce 2:gamma": (1.0, 2.0, False),
    }
    first = type(space)({"ce": space.entries["ce"]}, (0,))
    trial = _Asked()
    assert "gamma" not in first.recipes(trial)[0].settings
    assert trial.asked == {"loss": ("focal", "ce")}


def test_a_space_may_be_larger_than_a_grid(bank: Bank, tmp_path: Path) -> None:
    """Reference: 10⁸ combinations, which a grid refuses, are checked one setting at a time."""
    ten = [round(0.01 * i, 3) for i in range(1, 11)]
    names = ("lr", "weight_decay", "momentum", "delta_lr")
    ranges = "\n".join(f"{name} = {ten}" for name in names)
    more = "\n".join(f"{name} = {list(range(1, 11))}" for name in ("epochs", "warmup"))
    more += f"\nsmooth_head = {ten}\nsmooth_tail = {ten}\n"
    text = f"[search]\nmethod = 'optuna'\n[recipes.mislas]\n{ranges}\n{more}"
    spec = _read(tmp_path, text, banks=[bank.path])
    assert len({recipe.id for recipe in spec.recipes}) <= 80
    with pytest.raises(errors.ConfigError, match="300,000,003 runs"):
        _read(tmp_path, text, banks=[bank.path], search="none")
