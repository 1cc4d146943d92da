"""Steps replayed from a captured graph, on the simulated GPU."""

from __future__ import annotations

import warnings
from collections import Counter
from threading import Event
from typing import Any

import pytest
import torch

from stage2.engine.gpu import graph
from stage2.engine.gpu.fused import FusedPass
from stage2.engine.gpu.graph import StepGraph, pays, piece_steps
from stage2.engine.outcome import Outcome
from stage2.engine.rows import Window
from stage2.methods.recipe import Recipe
from tests.stage2.cuda.launches import SMALL, STEPS
from tests.stage2.cuda.running import gpu, trained
from tests.stage2.cuda.test_sweeps import _streamed

LOOP = {"epochs": 3, "steps_per_epoch": 5}
"""Two pieces of two steps and one more, three times."""

CASES = [case for case in STEPS if not case.startswith(("generator", "β"))]


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "PIECE", 3)


def _longer(recipes: list[Recipe]) -> list[Recipe]:
    return [Recipe(r.name, **{**r.settings, **LOOP}) for r in recipes]


def _without(recipes: list[Recipe], monkeypatch: pytest.MonkeyPatch) -> dict[Recipe, Outcome]:
    """Train without graphs."""
    with monkeypatch.context() as patch:
        patch.setattr(graph, "SMALL_BYTES", 0)
        with gpu():
            return trained(recipes, SMALL, "cuda")


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pieces are captured and replayed."""
    counts: Counter[str] = Counter()
    replay, captured = StepGraph._replay, StepGraph._captured

    def counting(name: str, method: Any) -> Any:
        def call(self: StepGraph) -> Any:
            result = method(self)
            counts[name] += bool(result)
            return result

        return call

    monkeypatch.setattr(StepGraph, "_replay", counting("replayed", replay))
    monkeypatch.setattr(StepGraph, "_captured", counting("captured", captured))
    return counts


@pytest.mark.parametrize("case", CASES)
def test_replayed_steps(case: str, replays: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the same steps, launched one by one, to the last bit."""
    recipes = _longer(STEPS[case])
    expected = _without(recipes, monkeypatch)
    assert not replays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gpu():
            got = trained(recipes, SMALL, "cuda")
    if case == "loss gcl":  # a graph would replay its draws as well
        assert not replays
    else:
        captures = 2 if case == "loss gradual" else 1  # the first epoch has no table of it
        assert replays == {"captured": captures, "replayed": 6 - captures}, "of six pieces"
    for recipe, outcome in expected.items():
        assert got[recipe].curves == outcome.curves
        for name, values in outcome.parameters.items():
            assert torch.equal(got[recipe].parameters[name], values), f"{case}: {name}"
        assert got[recipe].evaluations.keys() == outcome.evaluations.keys()


def test_a_replay_is_one_launch() -> None:
    """Reference: three copies and a graph for each piece, whatever the steps of a piece launch."""
    recipes = _longer(STEPS["head linear"])
    counts: list[int] = []
    train = StepGraph.train

    def counted(self: StepGraph, *args: Any) -> int:
        before = device.counts()
        taken = train(self, *args)
        counts.append(device.counts()[0] - before[0])
        assert device.counts()[1:] == before[1:], "a window waits, or copies from pageable memory"
        return taken

    with pytest.MonkeyPatch.context() as patch, gpu() as device:
        patch.setattr(StepGraph, "train", counted)
        trained(recipes, SMALL, "cuda", measured=False)
    step = counts[-1] - 2 * 4  # of the step that no piece has
    assert counts == [2 * 4 - 1 + 2 * step + 2 * step + step, 2 * 4 + step, 2 * 4 + step]


def test_losses_that_change_are_refilled(
    replays: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the steps one by one; a loss whose table is another one in every epoch."""
    recipes = [
        Recipe("ce", loss="gradual", lr=lr, batch_size=16, **{**LOOP, "epochs": 5})
        for lr in (0.05, 0.1)
    ]
    expected = _without(recipes, monkeypatch)
    with gpu():
        got = trained(recipes, SMALL, "cuda")
    assert replays == {"captured": 2, "replayed": 8}, "captured anew for the first table alone"
    for recipe, outcome in expected.items():
        assert torch.equal(got[recipe].parameters["weight"], outcome.parameters["weight"])


def test_streamed_features_are_replayed(
    replays: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the steps one by one; windows of the same memory."""
    recipes = [Recipe("ce", lr=0.1, epochs=4, batch_size=4)]
    with monkeypatch.context() as patch:
        patch.setattr(graph, "SMALL_BYTES", 0)
        with gpu():
            expected = _streamed(recipes, "cuda")
    with gpu():
        got = _streamed(recipes, "cuda")
    assert replays["captured"] == 1
    assert replays["replayed"] > 5
    for name, values in expected[recipes[0]].parameters.items():
        assert torch.equal(got[recipes[0]].parameters[name], values)


def test_a_capture_that_fails_costs_a_warning(
    replays: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the steps one by one; a step that asks the device for a number."""
    recipes = _longer(STEPS["head linear"])
    expected = _without(recipes, monkeypatch)
    take = FusedPass._take

    def asking(self: FusedPass, *args: Any) -> None:
        take(self, *args)
        float(self._total[0])

    monkeypatch.setattr(FusedPass, "_take", asking)
    with gpu(), pytest.warns(UserWarning, match="cannot be captured.*not permitted") as warned:
        got = trained(recipes, SMALL, "cuda")
    assert len(warned) == 1
    assert not replays["replayed"]
    for recipe, outcome in expected.items():
        assert torch.equal(got[recipe].parameters["weight"], outcome.parameters["weight"])


def test_ctrl_c_acts_between_pieces() -> None:
    """Reference: the number of steps; the piece in which it comes is taken whole."""
    stopped = Event()
    with gpu():
        total = torch.zeros(1, device="cuda")
        rows = torch.zeros(8, 1, dtype=torch.int64, device="cuda")
        rates = torch.arange(8.0).to("cuda")[:, None]
        taking = StepGraph(lambda window, rates, i: total.add_(rates[i]), total.device)
        window, replay = Window(total, rows, rows), taking._replay
        assert taking.train(window, rates, [], stopped) == 8
        taking._replay = lambda: (stopped.set(), replay())[1]  # type: ignore[method-assign, func-returns-value]
        assert taking.train(window, rates, [], stopped) == 2
        assert taking.train(window, rates, [], stopped) == 0
        assert total.tolist() == [28.0 + 0 + 1]


def test_where_graphs_pay() -> None:
    """Reference: the shapes of the banks; a step of CIFAR-100-LT is launched for longer than it
    takes, one of 300 heads of ImageNet-LT is not."""
    cuda = torch.device("cuda")
    assert pays(cuda, (256, 100, 64), 256, 420)
    assert pays(cuda, (1, 1000, 2048), 256, 4520)
    assert not pays(cuda, (300, 1000, 2048), 256, 4520)
    assert not pays(cuda, (32, 8142, 2048), 256, 8550)
    assert not pays(cuda, (256, 100, 64), 256, 8)
    assert not pays(torch.device("cpu"), (256, 100, 64), 256, 420)


@pytest.mark.parametrize(("steps", "size"), [(1, 1), (3, 3), (4, 2), (5, 2), (6, 3), (7, 2)])
def test_pieces(steps: int, size: int) -> None:
    """Reference: by hand, of three steps at most."""
    assert piece_steps(steps) == size
