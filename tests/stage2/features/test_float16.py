"""Features of float16 in memory: the parameters are those of the same features as float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import Bank
from stage2 import Recipe, sweep
from stage2.engine import rows as rows_module
from stage2.engine.rows import MemoryRows
from stage2.features import budgets
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.features.views import Views
from stage2.methods.heads import HEADS
from stage2.methods.presets import PRESETS
from stage2.methods.seeding import seeded
from tests.conftest import Toy


@pytest.fixture
def banks(
    make_toy: Callable[..., Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Path]]:
    """A bank of float16 with two copies of its train rows, and one of its values as float32; some
    rows of the first are converted at once."""
    toy = make_toy()
    for features in toy.features.values():
        for view, x in features.items():
            features[view] = x.astype(np.float16)
    for view, x in toy.features["train"].items():
        toy.features["train"][view] = np.stack([x, -x])
    packed = toy.write(tmp_path / "float16.h5")
    for split, features in toy.features.items():
        toy.features[split] = {view: x.astype(np.float32) for view, x in features.items()}
    for module in (rows_module, budgets):
        monkeypatch.setattr(module, "CONVERTED_BYTES", 4 * 8 * 64)
    monkeypatch.setattr(rows_module, "WINDOW_BYTES", 4 * 8 * 64)
    monkeypatch.setattr(budgets, "PACKED_SHARE", 1 << 50)
    return packed, toy.write(tmp_path / "float32.h5")


SHORT = {name: {"epochs": 2} if "epochs" in Recipe(name).settings else {} for name in PRESETS}

RECIPES = [
    Recipe(name, feature_scale=scale, **short)
    for name, short in SHORT.items()
    if not HEADS[Recipe(name).head].takes_tokens and not Recipe(name).on_text
    if not name.startswith(("mislas-", "oracle"))
    for scale in ("none", "standardise")
]
"""Every preset but those of tokens and on text, on features as they are and scaled, briefly."""


@pytest.mark.parametrize("folds", [None, 2])
def test_parameters_and_metrics_are_those_of_float32(
    banks: tuple[Path, Path], folds: int | None
) -> None:
    """Reference: the same sweep of the same values stored as float32, bit for bit."""
    packed, expected = (
        sweep(bank, RECIPES, device="cpu", workers=1, folds=folds, screen=bool(folds)).outcomes
        for bank in banks
    )
    assert len(packed) == len(expected) > 2 * 30
    for got, want in zip(packed, expected, strict=True):
        assert got.recipe == want.recipe
        assert got.parameters.keys() == want.parameters.keys()
        for name, values in want.parameters.items():
            assert torch.equal(got.parameters[name], values), f"{name} of {want.recipe.name}"
        for place, evaluation in want.evaluations.items():
            assert got.evaluations[place].metrics == evaluation.metrics, want.recipe.name


def test_windows_convert_what_they_draw(banks: tuple[Path, Path]) -> None:
    """Reference: the draws of an epoch from float32 features, by hand."""
    with Bank(banks[0]) as bank:
        train = load_view(bank, "instance", packs=True).train
        whole = torch.from_numpy(bank.load_copies("train")).view(-1, 8)
    assert isinstance(train, MemoryRows)
    assert train.x.dtype == torch.float16
    assert torch.equal(torch.cat([x for x, _ in train.blocks()]), whole)
    draws = torch.randint(len(whole), (7, 30), generator=seeded(0, "test"))
    windows = list(train.windows(draws, seeded(0, "windows")))
    assert [len(window.rows) for window in windows] == [2, 2, 2, 1], "64 rows at once"
    got = torch.cat([window.x[window.rows] for window in windows])
    assert torch.equal(got, whole[draws])
    assert torch.equal(torch.cat([window.y for window in windows]), train.labels[draws])
    items = torch.cat([window.items for window in windows if window.items is not None])
    assert torch.equal(items, draws.flatten())


def test_only_many_features_without_a_generator_stay_float16(
    banks: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the rule of the page on performance."""

    def dtypes(recipe: Recipe) -> set[torch.dtype]:
        with Bank(banks[0]) as bank:
            (group,) = plan_bank(bank, [recipe])
            (data,) = Views(bank, "cpu", None, 1).of(group)
        return {part.x.dtype for part in (data.train, *data.evaluated.values())}

    with Bank(banks[0]) as bank:
        for packed, size in ((True, 2 * 2 * 222 * 8 + 3 * 4 * 8 * 8192), (False, 4 * 2 * 222 * 8)):
            assert budgets.held_bytes(bank, "train", "instance", packed) == size
    assert dtypes(Recipe("crt")) == {torch.float16}
    assert dtypes(Recipe("glag")) == {torch.float32}
    monkeypatch.setattr(budgets, "PACKED_SHARE", 8)
    assert dtypes(Recipe("crt")) == {torch.float32}, "less than an eighth of the budget"
