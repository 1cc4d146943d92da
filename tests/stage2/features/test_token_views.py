"""Token views of a bank under the heads that take them: streamed, as float16, and by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import Bank, write_bank
from stage2.engine.loop import run_group
from stage2.engine.outcome import Outcome
from stage2.engine.plan import FusedGroup, group_bytes
from stage2.engine.rows import BLOCK_ROWS, CONVERTED_BYTES, MemoryRows, converted_rows
from stage2.engine.streamed import StreamedRows
from stage2.features.loading import BankFeatures, load_view
from stage2.features.planning import plan_bank, shapes_on
from stage2.features.scale import scaling_of
from stage2.methods.recipe import Recipe
from stage2.sweep import sweep
from tests.stage2.compare import assert_close

COUNTS, TOKENS, DIM = (60, 30, 16, 8), 50, 12
SHORT = {"view": "t", "batch_size": 200, "epochs": 4, "lr": 0.2}
"""All rows in each batch, so that no order matters."""
RECIPES = [
    Recipe("attentive", **SHORT),
    Recipe("attentive", **SHORT, queries=2, values=1),
    Recipe("attentive", **SHORT, token_norm="layer"),
    Recipe("pooled", **SHORT, pool="max"),
]


def _bank(path: Path, dtype: type = np.float32) -> Path:
    """Tokens t [1, N, 50, 12] and one more, a [N, 12], of four classes."""
    rng = np.random.default_rng(0)
    y = {"train": np.repeat(np.arange(4), COUNTS), "test": np.arange(40) % 4}
    means = rng.normal(size=(4, DIM))
    x = {}
    for split, labels in y.items():
        rng.shuffle(labels)
        noise = 2 * rng.normal(size=(len(labels), TOKENS, DIM))
        tokens = (means[labels][:, None] + noise).astype(dtype)
        x[split] = {"t": tokens[None], "a": tokens[:, 0]}
    write_bank(path, x, y, class_names=list("klmn"))
    return path


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    """The bank of float32, opened."""
    with Bank(_bank(tmp_path / "bank.h5")) as opened:
        yield opened


def _group(bank: Bank, recipe: Recipe) -> FusedGroup:
    (group,) = plan_bank(bank, [recipe])
    return group


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.id)
@pytest.mark.parametrize("rows", [5, 23])
def test_a_streamed_view_trains_like_one_in_memory(bank: Bank, recipe: Recipe, rows: int) -> None:
    """Reference: the view in memory; windows of so many rows of 50 tokens, a row in each chunk."""
    group = _group(bank, recipe)
    (view,) = group.stream.views
    assert view == "t:tokens"
    scaling = scaling_of(bank, view, None)
    whole = load_view(bank, view, scaling=scaling)
    assert whole.tokens == TOKENS
    features = BankFeatures(bank, "train", view, scaling)
    chunk = features.chunk_rows
    labels = torch.from_numpy(bank.labels("train"))
    budget = 3 * 4 * TOKENS * DIM * max(rows, chunk)
    streamed = replace(whole, train=StreamedRows(features, labels, budget=budget))
    (expected,), (got,) = (list(run_group(group, data)) for data in (whole, streamed))
    _same(got, expected)


def _same(got: Outcome, expected: Outcome, within: float = 1e-4) -> None:
    for name, value in expected.parameters.items():
        assert_close(got.parameters[name], value, within, f"{name} of {got.recipe}")
    for place, evaluation in expected.evaluations.items():
        seen = got.evaluations[place].metrics["nll"]
        assert seen == pytest.approx(evaluation.metrics["nll"], rel=1e-3)


def test_float16_trains_like_its_values_as_float32(tmp_path: Path) -> None:
    """Reference: the same numbers stored as float32, in one sweep of all heads."""
    half = _bank(tmp_path / "half.h5", np.float16)
    whole = tmp_path / "whole.h5"
    with Bank(half) as stored:
        x = {
            split: {view: stored.load(split, view)[0].astype(np.float32) for view in ("t", "a")}
            for split in ("train", "test")
        }
        y = {split: stored.labels(split) for split in ("train", "test")}
    for of in x.values():
        of["t"] = of["t"].reshape(1, -1, TOKENS, DIM)
    write_bank(whole, x, y, class_names=list("klmn"))
    outcomes = [sweep(path, RECIPES, workers=1).outcomes for path in (half, whole)]
    for got, expected in zip(*outcomes, strict=True):
        _same(got, expected)


def test_views_side_by_side_are_tokens(bank: Bank) -> None:
    """Reference: T + 1 tokens of a view and a row; the plan counts them."""
    recipe = Recipe("attentive", **{**SHORT, "view": "t|a"})
    group = _group(bank, recipe)
    shape = shapes_on(bank)(group.stream)
    assert (shape.dim, shape.tokens) == ((TOKENS + 1) * DIM, TOKENS + 1)
    size = shape.size(recipe)
    assert size.parameters == DIM + 4 * DIM
    flat = replace(shape, tokens=1)
    assert flat.size(recipe).parameters > 40 * size.parameters
    assert group_bytes(group, shape) < group_bytes(group, flat) / 4
    (outcome,) = sweep(bank.path, [recipe], workers=1).outcomes
    assert outcome.status == "done"
    assert outcome.parameters["query"].shape == (1, DIM)


def test_wide_rows_are_converted_in_bounded_memory() -> None:
    """Reference: the bytes; rows of up to 8,192 features in pieces of as many rows as before."""
    for dim in (1, 64, 512, 1024, 2048, 8192):
        before = max(1, CONVERTED_BYTES // (4 * dim * BLOCK_ROWS)) * BLOCK_ROWS
        assert converted_rows(dim) == before, dim
    for dim in (8193, 50 * 768, 10**6, 10**9):
        assert 4 * dim * (converted_rows(dim) - 1) <= 256 << 20, dim
        assert converted_rows(dim) >= 1
    rows = MemoryRows(torch.ones(2100, 50 * 768, dtype=torch.float16), torch.zeros(2100).long())
    assert [len(x) for x, _ in rows.blocks()] == [1747, 353]
