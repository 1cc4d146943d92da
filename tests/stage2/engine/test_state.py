"""Training state: tensors have the configurations first, and a selection of them continues."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from stage2.engine.generation import generating
from stage2.engine.loop import group_stream
from stage2.engine.state import select
from stage2.engine.tile import TileRun, rejoined
from stage2.methods.recipe import Recipe
from tests.stage2.synthetic import Problem, groups_of

SHORT = {"batch_size": 32, "epochs": 3}


def _leaves(state: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        here = f"{path}/{name}"
        yield from [(here, value)] if isinstance(value, Tensor) else _leaves(value, here)


def test_selections_are_joined_in_their_order() -> None:
    """Reference: the rows by hand; empty mappings stay."""
    one, other = {"a": {"b": torch.arange(4)}, "c": {}}, {"a": {"b": torch.arange(10, 12)}, "c": {}}
    selected = select([(one, [3, 0]), (other, [1])])
    assert selected["a"]["b"].tolist() == [3, 0, 11]
    assert selected["c"] == {}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ce", {"optimiser": "adamw"}),
        ("ce", {"nesterov": True, "view": "instance+balanced"}),
        ("glag", {}),
    ],
)
def test_a_selection_continues_as_in_its_tile(
    name: str, settings: dict[str, Any], small: Problem
) -> None:
    """Reference: the whole tile, trained on; the selection was pickled in between."""
    recipes = [Recipe(name, **SHORT, **settings, lr=lr) for lr in (0.1, 0.01, 0.03, 0.3)]
    (group,) = groups_of(recipes, small)
    views = [generating(small.view(view), group.stream) for view in group.stream.views]
    run = TileRun(group.tiles[0], group.stream, views)
    val = [view.evaluated["val"] for view in views]

    def train(run: TileRun, epoch: int, draws: Tensor) -> None:
        run.begin_epoch(epoch)
        for number, view in enumerate(views):
            for window in view.train.windows(draws, torch.Generator().manual_seed(epoch), epoch):
                run.train(number, window, Event())
        run.watch([rows.x for rows in val], val[0].labels)
        run.end_epoch()

    first, second, _ = group_stream(group.stream, views[0].train.labels)
    train(run, 0, first)
    part = rejoined([(run, [2, 0])])
    assert part.tile.recipes == (recipes[2], recipes[0])
    part = TileRun(part.tile, part.stream, part.views, pickle.loads(pickle.dumps(part.state)))
    for each in (run, part):
        train(each, 1, second)
    expected = dict(_leaves(select([(run.state, [2, 0])])))
    for path, tensor in _leaves(part.state):
        assert len(tensor) == 2, f"{path} is {tuple(tensor.shape)}"
        torch.testing.assert_close(tensor, expected[path], msg=lambda text, p=path: f"{p}: {text}")
