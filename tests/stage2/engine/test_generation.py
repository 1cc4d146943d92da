"""Made features in the engine: whole trainings, company, β and the space heads see.

The reference is `reference.train`, one configuration in float64 with autograd, on the windows the
engine's rows give. It finishes rows with a β of its own, which it moves by its own accuracy on val.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from featbank import errors
from stage2.engine import generation, plan
from stage2.engine.blend import Betas
from stage2.engine.generation import GeneratedRows, generating
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.outcome import Outcome
from stage2.engine.plan import BatchStream, FusedGroup, Shape
from stage2.engine.streamed import StreamedRows
from stage2.methods.generators import GENERATORS
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from stage2.methods.seeding import seeded
from tests.stage2 import reference
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, group_stream, groups_of, problem, run

SHORT = {"epochs": 4, "batch_size": 24}
MOVING = [name for name, entry in GENERATORS.items() if "beta_step" in entry.own]


class Replay:
    """What `reference.train` asks of an epoch: rows as the engine's windows have them, finished."""

    def __init__(self, group: FusedGroup, recipe: Recipe, view: ViewData) -> None:
        self.view, self.settings = generating(view, group.stream), recipe.part("generator")
        self.recipe, self.rows = recipe, self.view.train
        assert isinstance(self.rows, GeneratedRows)
        self.random = seeded(group.stream.seed, "windows")
        blended = self.rows.generation.blended
        self.blended = None if blended is None else blended.numpy()
        self.beta = np.full(len(view.counts), self.settings.get("beta", 0.0))
        self.accuracy: np.ndarray | None = None
        self.trace: list[np.ndarray] = []

    def __call__(
        self, epoch: int, draws: Tensor, parameters: dict[str, Tensor]
    ) -> Iterator[tuple[Tensor, ...]]:
        if epoch and self.blended is not None:
            self._move(parameters)
        self.trace.append(self.beta.copy())
        for window in self.rows.windows(draws, self.random, epoch):
            made = window.made
            assert made is not None
            x = window.x.double()
            if blend := made.blend:
                own = torch.from_numpy(self.beta)[blend.y, None]
                x = torch.cat([x, blend.finish(blend.base.double() + own * blend.direction)])
            for rows, y in zip(window.rows, window.y, strict=True):
                second = made.second
                mixed = [] if second is None else [second.y[rows], second.share[rows]]
                yield x[rows], y, *mixed

    def _move(self, parameters: dict[str, Tensor]) -> None:
        """The rule of METHODS §6, class by class."""
        val = self.view.evaluated["val"]
        ((x, y),) = list(val.blocks())
        guess = self._logits(parameters, x.double()).argmax(1)
        now = np.array([float((guess[y == k] == k).double().mean()) for k in range(len(self.beta))])
        if self.accuracy is not None:
            for k, (before, after) in enumerate(zip(self.accuracy, now, strict=True)):
                step = self.settings["beta_step"] * (1 if after > before else -1)
                if after != before and not np.isnan(after):
                    self.beta[k] = min(1.0, max(0.0, self.beta[k] + step))
        self.accuracy = now

    def _logits(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """What val is measured by."""
        if self.recipe.head == "tde":
            return reference.tde(parameters, x, alpha=self.recipe.settings["alpha"])
        if self.view.weight0 is None or self.view.bias0 is None:
            w0, b0 = x.new_zeros(len(self.beta), x.shape[1]), x.new_zeros(len(self.beta))
        else:
            w0, b0 = self.view.weight0.double(), self.view.bias0.double()
        return reference.logits(self.recipe.head, parameters, x, w0, b0)


def _check(recipes: list[Recipe], made: Problem, within: float = 1e-4) -> None:
    """The outcomes of recipes that train together against the reference of each."""
    for group in groups_of(recipes, made):
        view = made.view(group.stream.views[0])
        seen = generating(view, group.stream)
        stream = group_stream(group.stream, seen.train.labels)
        data = made.double(group.stream.views[0])
        data["x"] = next(iter(seen.train.blocks()))[0].double()
        for outcome in run_group(group, view):
            recipe = outcome.recipe
            replay = Replay(group, recipe, view)
            head, s = HEADS[recipe.head], {**recipe.settings, **recipe.part("loss")}
            start = {k: v[0] for k, v in head.init([recipe.part("head")], seen.context).items()}
            expected = reference.train(recipe.head, s, start, stream, made=replay, **data)
            assert outcome.status == "done"
            for name, value in expected.items():
                assert_close(outcome.parameters[name], value, within, f"{name} of {recipe}")
            _check_trace(outcome, replay)


def _check_trace(outcome: Outcome, replay: Replay) -> None:
    if not replay.settings.get("beta_step"):
        assert not outcome.traces
        return
    got, expected = outcome.traces["beta"], np.stack(replay.trace)
    assert replay.blended is not None
    assert np.isnan(got[:, ~replay.blended]).all()
    assert_close(got[:, replay.blended], expected[:, replay.blended], 1e-6, "β")


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_trains_as_the_reference(name: str, small: Problem) -> None:
    """Reference: float64 loop on the same windows, several learning rates side by side."""
    _check([Recipe("ce", generator=name, lr=lr, **SHORT) for lr in (0.02, 0.1)], small)


@pytest.mark.parametrize("head", ["linear", "cosine", "lws", "mislas", "disalign", "tde", "mlp"])
def test_heads_on_features_of_their_own(head: str, small: Problem) -> None:
    """Reference: float64 loop; β begins apart and moves apart, so no two see the same rows."""
    hidden = {"hidden": 8} if head == "mlp" else {}
    betas = [{"generator.beta": beta, "beta_step": step} for beta, step in _BETAS]
    recipes = [Recipe("glag", head=head, lr=0.05, **SHORT, **hidden, **b) for b in betas]
    _check(recipes, small)
    moved = [np.ptp(o.traces["beta"][:, 3:], 0).max() for o in run(recipes, small).values()]
    assert max(moved) > 0, "β does not move: no test of anything"


_BETAS = [(0.6, 0.05), (0.6, 0.2), (0.3, 0.05), (0.95, 0.1), (0.05, 0.1)]


@pytest.mark.parametrize(
    "settings",
    [
        {"statistics": "tukey"},
        {"gamma_form": "full"},
        {"tukey": 0.8, "support": 3},
        {"output_space": "tukey", "head": "linear", "loss": "ce"},
        {"output_space": "tukey", "statistics": "tukey", "head": "tde", "loss": "ce"},
        {"tail": "medium+few"},
        {"sampler": "class_aware"},
        {"distil_groups": "many+medium+few"},
    ],
    ids=str,
)
def test_settings_of_the_generator(settings: dict[str, Any], small: Problem) -> None:
    """Reference: float64 loop; two values of β, so that rows are a configuration's own."""
    recipes = [
        Recipe("glag", lr=0.02, **SHORT, **settings, **{"generator.beta": beta})
        for beta in (0.4, 0.6)
    ]
    _check(recipes, small)


@pytest.mark.parametrize("counts", [(25, 4), (9, 1), (40, 12, 0, 5), (6, 6, 6)])
@pytest.mark.filterwarnings("ignore:Generator 'afg'")
def test_few_classes_and_one_feature(counts: tuple[int, ...]) -> None:
    """Reference: float64 loop with D = 1; one sample, an empty class, nothing to make."""
    made = problem(counts, dim=1, spread=0.5)
    _check([Recipe("glag", lr=0.02, beta_step=0.0, **SHORT)], made)


@pytest.mark.parametrize(
    "loss", ["ce", "weighted", "cb_focal", "sigmoid_focal", "cb_bce", "sla", "distil", "las"]
)
@pytest.mark.parametrize("name", [n for n, entry in GENERATORS.items() if entry.mixes])
def test_losses_of_two_labels(name: str, loss: str, small: Problem) -> None:
    """Reference: float64 loop in which a mixed row is two rows, weighted by its shares."""
    recipes = [Recipe("ce", generator=name, loss=loss, lr=lr, **SHORT) for lr in (0.02, 0.05)]
    _check(recipes, small)


@pytest.mark.parametrize("name", GENERATORS)
def test_company_and_tiles_change_nothing(
    name: str, small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: each recipe alone; cut into tiles of one, on two threads, within less memory."""
    grid = _BETAS if name in MOVING else [(None, None)]
    recipes = [
        Recipe("ce", generator=name, lr=lr, **SHORT, **_beta(beta, step))
        for lr in (0.02, 0.1)
        for beta, step in grid
    ]
    alone = {recipe: run([recipe], small)[recipe] for recipe in recipes}
    ways: list[dict[str, Any]] = [{}, {"workers": 2}]
    for way in ways:
        _same(run(recipes, small, **way), alone)
    monkeypatch.setattr(plan, "CACHE_BYTES", 1)
    _same(run(recipes, small), alone)


def _beta(beta: float | None, step: float | None) -> dict[str, Any]:
    return {} if beta is None else {"generator.beta": beta, "beta_step": step}


def _same(got: dict[Recipe, Outcome], expected: dict[Recipe, Outcome]) -> None:
    assert set(got) == set(expected)
    for recipe, outcome in got.items():
        for name, value in expected[recipe].parameters.items():
            assert_close(outcome.parameters[name], value, 1e-5, f"{name} of {recipe}")
        for name, trace in expected[recipe].traces.items():
            np.testing.assert_array_equal(outcome.traces[name], trace)


def test_recipes_that_differ_in_beta_share_a_group() -> None:
    """Reference: the definition of a group; what decides the draws parts them, β does not."""
    shape = Shape.of(np.array([50, 10, 5]), 8)
    same = [Recipe("glag", **{"generator.beta": b, "beta_step": d}) for b, d in _BETAS]
    apart = [Recipe("glag", **{key: value}) for key, value in _OTHER.items()]
    streams = {BatchStream.of(recipe, shape) for recipe in same}
    assert len(streams) == 1
    assert len(streams | {BatchStream.of(recipe, shape) for recipe in apart}) == 1 + len(apart)


_OTHER: dict[str, Any] = {
    "support": 3,
    "tukey": 0.7,
    "generator.gamma": 0.2,
    "gamma_form": "full",
    "statistics": "tukey",
    "output_space": "tukey",
    "tail": "medium+few",
    "generator": "dc",
    "seed": 1,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_an_epoch_is_balanced_exactly(name: str, small: Problem) -> None:
    """Reference: the counts; with ``sampler=instance`` an epoch of a filling generator has each
    class n_max times, but for the rows that no whole batch takes."""
    (group,) = groups_of([Recipe("ce", generator=name, epochs=2, batch_size=10)], small)
    view = generating(small.view(), group.stream)
    drawn = group_stream(group.stream, view.train.labels)
    largest, classes = small.counts.max(), len(small.counts)
    expected = np.full(classes, largest) if GENERATORS[name].fills else small.counts
    assert expected.sum() % 10 == 0, "a batch of 10 has to divide the epoch for this test"
    for rows in drawn:
        got = torch.bincount(view.train.labels[rows].view(-1), minlength=classes).numpy()
        np.testing.assert_array_equal(got, expected)


def test_windows_do_not_depend_on_memory(small: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: one window of the same draws; counts of rows and classes are the same, and rows
    that nobody made are equal wherever they are cut."""
    (group,) = groups_of([Recipe("ce", generator="gaussian", epochs=1, batch_size=10)], small)
    rows = generating(small.view(), group.stream).train
    (draws,) = group_stream(group.stream, rows.labels)
    (whole,) = rows.windows(draws, seeded(0, "windows"))
    monkeypatch.setattr(generation, "WINDOW_BYTES", 4 * rows.dim * 10 * 3)
    parts = list(rows.windows(draws, seeded(0, "windows")))
    assert [len(part.y) for part in parts[:-1]] == [3] * (len(parts) - 1)
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
    real = draws < len(small.y["train"])
    cut = torch.cat([part.x[part.rows] for part in parts])
    assert torch.equal(cut[real], whole.x[whole.rows][real])
    again = list(rows.windows(draws, seeded(0, "windows")))
    assert all(torch.equal(a.x, b.x) for a, b in zip(parts, again, strict=True))
    other = list(rows.windows(draws, seeded(1, "windows")))
    assert not torch.equal(other[0].x, parts[0].x)


def test_beta_moves_as_specified() -> None:
    """Reference: METHODS §6 by hand; it rises, falls, stays, ends at 0 and 1, NaN moves nothing."""
    recipes = [
        Recipe("glag", **{"generator.beta": 0.9, "beta_step": 0.2}),
        Recipe("glag", **{"generator.beta": 0.1, "beta_step": 0.2}),
        Recipe("glag", **{"generator.beta": 0.5, "beta_step": 0.0}),
    ]
    betas = Betas(recipes, torch.tensor([True, True, True, False]))
    assert not betas.shared
    nan = torch.nan
    for accuracy in ([50, 50, nan, 50], [60, 40, nan, 60], [70, 40, nan, 70], [60, 50, nan, 60]):
        betas.begin_epoch()
        betas.move(torch.tensor([accuracy] * 3, dtype=torch.float64))
    expected = {
        0: [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [1.0, 0.7, 0.9], [1.0, 0.7, 0.9]],
        1: [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.3, 0.0, 0.1], [0.5, 0.0, 0.1]],
    }
    for config, trace in expected.items():
        got = betas.traces(config)["beta"]
        assert_close(got[:, :3], np.array(trace), 1e-6, f"β of configuration {config}")
        assert np.isnan(got[:, 3]).all()
    assert_close(betas.values[0, :3], np.array([0.8, 0.9, 0.9]), 1e-6, "β after the last epoch")
    assert betas.traces(2) == {}


def test_streamed_features_are_refused(small: Problem) -> None:
    """Reference: the sentence; generators look features up as they like."""

    class Source:
        shape, chunk_rows, dtype = (1, 150, 8), 4, "float32"

        def read(self, copy: int, start: int, stop: int, out: Any = None) -> np.ndarray:
            return np.zeros((stop - start, 8), np.float32)

    (group,) = groups_of([Recipe("glag")], small)
    view = small.view()
    streamed = StreamedRows(Source(), torch.zeros(150, dtype=torch.int64), budget=1 << 20)
    with pytest.raises(errors.ConfigError, match="Generator 'afg' needs the training features in"):
        generating(ViewData(streamed, view.evaluated, view.counts, small.counts), group.stream)


def test_two_views_make_features_each(small: Problem) -> None:
    """Reference: each view alone, where β is fixed: heads of a pair are those of its views."""
    pair = Recipe("glag", view="instance+balanced", beta_step=0.0, **SHORT)
    got = run([pair], small)[pair].parameters
    for view in ("instance", "balanced"):
        single = Recipe("glag", view=view, beta_step=0.0, **SHORT)
        expected = run([single], small)[single].parameters
        assert_close(got[f"{view}.scale"], expected["scale"], 1e-5, f"scale of {view}")


def test_groups_of_other_seeds_share_the_statistics(
    small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the number of calls; class statistics do not depend on the seed."""
    calls = []
    prepare = type(GENERATORS["afg"]).prepare
    monkeypatch.setattr(
        type(GENERATORS["afg"]), "prepare", lambda *a: calls.append(1) or prepare(*a)
    )
    view = small.view()
    for group in groups_of([Recipe("glag", seed=seed, **SHORT) for seed in range(3)], small):
        run_group(group, view)
    assert len(calls) == 1
