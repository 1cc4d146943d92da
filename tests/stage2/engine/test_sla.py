"""Sample logit-aware re-weighting: the best sample's angle, and what it makes of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from featbank.settings import Setting
from stage2.engine.angles import angle_factors, best_cosines
from stage2.engine.kernel import LossRows, loss_and_gradient
from stage2.engine.loop import run_group
from stage2.engine.rows import MemoryRows, SplitRows
from stage2.engine.streamed import StreamedRows
from stage2.methods.family import LossParameters
from stage2.methods.heads import HEADS, Batch, Context, Parameters, TrainedHead, trained_head
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from tests.stage2 import reference
from tests.stage2.cases import HEAD_CASES
from tests.stage2.compare import assert_close
from tests.stage2.engine.test_streamed import Arrays
from tests.stage2.synthetic import Problem, group_stream, groups_of, problem

COUNTS = (40, 0, 17, 9, 5, 1)


class Given(TrainedHead):
    """A head whose features [B, 2C] are each row's own logit and cosine; it notes block sizes."""

    description = "what the rows say"
    source = "crt"
    settings: tuple[Setting, ...] = ()

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def init(self, settings: Sequence[Any], context: Context) -> Parameters:
        """Nothing to learn."""
        return {"scale": torch.ones(len(settings), 1)}

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        """The first half of a row, for every class."""
        self.blocks.append(len(batch.x))
        configs = batch.x.shape[1] // 2
        return batch.x[:, :configs, None].repeat(1, 1, 3)

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        """Nothing to learn."""
        return {}

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        """The second half of a row."""
        return batch.x[:, batch.x.shape[1] // 2 :]


def _context(rows: SplitRows, classes: int) -> Context:
    counts = torch.bincount(rows.labels, minlength=classes).double().numpy()
    return Context(counts, rows.dim, rows.device, rows.blocks)


def _stack(head: str, made: Problem, configs: int) -> tuple[Context, Parameters]:
    """Parameters moved off their start, so that configurations differ."""
    context = made.view().context
    cases = HEAD_CASES[head]
    settings = [{**cases[c % len(cases)], "seed": c} for c in range(configs)]
    generator = torch.Generator().manual_seed(1)
    parameters = HEADS[head].init(settings, context)
    return context, {
        name: value + 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in parameters.items()
    }


@pytest.mark.parametrize("head", HEAD_CASES)
@pytest.mark.parametrize("block", [1, 5, 1000])
def test_best_cosines_of_every_head(head: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: `reference.py`, a loop over the rows in float64; blocks of 1, 5 and all rows."""
    made = problem(COUNTS, dim=6)
    context, parameters = _stack(head, made, 4)
    monkeypatch.setattr("stage2.engine.rows.BLOCK_BYTES", block * 4 * 4 * len(COUNTS))
    trained = trained_head(head)
    got = best_cosines(trained, parameters, made.view().train, context)
    data = made.double()
    for c in range(4):
        own = {name: value[c].double() for name, value in parameters.items()}
        rows = {name: data[name] for name in ("x", "y", "w0", "b0")}
        assert_close(got[c], reference.best_cosines(head, own, **rows), 1e-5, f"{head}, {c}")
    assert bool((got[:, 1] == 0).all()), f"got {got[:, 1]} for an empty class"


def test_best_cosines_of_streamed_rows() -> None:
    """Reference: the same rows in memory."""
    made = problem(COUNTS, dim=6)
    context, parameters = _stack("linear", made, 3)
    memory = made.view().train
    assert isinstance(memory, MemoryRows)
    stream = StreamedRows(Arrays(memory.x.numpy()[None]), memory.labels, budget=3 * 4 * 6 * 16)
    linear = trained_head("linear")
    expected = best_cosines(linear, parameters, memory, context)
    got = best_cosines(linear, parameters, stream, replace(context, blocks=stream.blocks))
    assert_close(got, expected, 1e-6, "streamed")


def test_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: C·K logits of 4 bytes a row within the bound, and one row at least."""
    x, y = torch.rand(50, 4), torch.arange(50) % 3
    rows = MemoryRows(x, y)
    for limit, expected in ((1, 1), (2 * 3 * 4 * 7, 7), (1 << 20, 50)):
        monkeypatch.setattr("stage2.engine.rows.BLOCK_BYTES", limit)
        head = Given()
        best_cosines(head, {"scale": torch.ones(2, 1)}, rows, _context(rows, 3))
        assert max(head.blocks) == expected, f"{limit} bytes: got {head.blocks}"
        assert sum(head.blocks) == 50, f"got {head.blocks}"


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 8])
def test_of_equal_logits_the_largest_cosine_counts(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: by hand; whatever the blocks and the order of the rows."""
    monkeypatch.setattr("stage2.engine.rows.BLOCK_BYTES", rows_at_once * 4 * 3)
    #          logit, cosine     of class 0 (ties), of class 2 (a smaller logit's cosine is larger)
    of_classes = [(2.0, 0.1), (2.0, 0.6), (2.0, -0.3), (-1.0, 0.9), (-5.0, -0.8), (-7.0, 1.0)]
    labels = [0, 0, 0, 0, 2, 2]
    for order in (range(6), reversed(range(6)), (3, 1, 5, 0, 4, 2)):
        chosen = list(order)
        x = torch.tensor([of_classes[i] for i in chosen])
        rows = MemoryRows(x, torch.tensor([labels[i] for i in chosen]))
        got = best_cosines(Given(), {"scale": torch.ones(1, 1)}, rows, _context(rows, 3))
        assert_close(got, [[0.6, 0.0, -0.8]], 1e-7, f"order {chosen}")


def test_factors_of_samples() -> None:
    """Reference: κ = exp(τ(cosθ*_y − cosθ)) by hand: 1 at the best sample and for τ = 0, more where
    a sample lies farther from its weight, less where it is nearer."""
    best = torch.tensor([[0.8, 0.1], [0.5, -0.2]])  # [C, K]
    y = torch.tensor([0, 0, 1])
    cosine = torch.tensor([[0.8, 0.5], [0.3, 0.9], [0.1, 0.3]])  # [B, C]
    kept = cosine.clone()
    tau = torch.tensor([2.0, 0.5])
    got = angle_factors(best, cosine, y, tau)
    expected = [
        [1.0, 1.0],
        [math.exp(2 * 0.5), math.exp(0.5 * -0.4)],
        [1.0, math.exp(0.5 * -0.5)],
    ]
    assert_close(got, expected, 1e-6, "κ")
    assert_close(cosine, kept, 0, "the cosines are left as they are")
    assert_close(angle_factors(best, cosine, y, 0 * tau), np.ones((3, 2)), 0, "κ at τ = 0")


def test_kappa_is_one_at_the_best_sample_with_no_confidence() -> None:
    """Reference: the logit-adjusted loss, of a row as near as the best one and with p_y ≈ 0; and
    half of it where p_y = ½."""
    counts = np.array([8.0, 4, 2])
    settings = {"gamma": 1.0, "tau": 1.0, "tau_prior": 1.0}
    best = torch.tensor([[0.3, 0.3, 0.3]])
    y = torch.tensor([1])
    kappa = angle_factors(best, torch.tensor([[0.3]]), y, torch.tensor([1.0]))
    even = [math.log(0.5 / 8), math.log(1 / 4), math.log(0.5 / 2)]  # p = (¼, ½, ¼) once adjusted
    for z, share in (([30.0, -30.0, 30.0], 1.0), (even, 0.5)):
        values = []
        for table, factor in (
            (LOSSES["sla"](counts, settings), kappa),
            (LOSSES["logit_adjusted"](counts, {"tau": 1.0}), None),
        ):
            rows = LossRows.stack([table], 3)
            logits = torch.tensor([[z]])
            values.append(loss_and_gradient(logits, y, rows, kappa=factor))
        (loss, gradient), (plain, slope) = values
        assert_close(loss, share * plain, 1e-6, f"loss at z = {z}")
        assert_close(gradient, share * slope, 1e-6, f"gradient at z = {z}")


def test_rows_say_whether_angles_are_wanted() -> None:
    """Reference: τ of every configuration, and None where all are 0."""
    wanted = [LossParameters(angle=2.0), LossParameters(), LossParameters(angle=0.5)]
    assert_close(LossRows.stack(wanted, 3).angle, [2.0, 0.0, 0.5], 0, "τ")
    assert LossRows.stack([LossParameters()], 3).angle is None


@pytest.mark.parametrize("head", ["linear", "cosine", "lws", "mlp"])
def test_training_follows_the_reference(head: str) -> None:
    """Reference: a float64 loop that finds θ* anew each epoch; other losses beside it."""
    made = problem()
    common = {"head": head, "epochs": 3, "batch_size": 16, "lr": 0.02}
    recipes = [
        Recipe("sla", **common, tau=3.0),
        Recipe("sla", **common, tau=0.0),
        Recipe("sla", **common, tau=1.0, tau_prior=0.0),
        Recipe("ce", **common),
    ]
    for group in groups_of(recipes, made):
        view = made.view()
        stream = group_stream(group.stream, view.train.labels)
        for outcome in run_group(group, view):
            recipe = outcome.recipe
            start = HEADS[head].init([recipe.part("head")], view.context)
            got = reference.train(
                head,
                {**recipe.settings, **recipe.part("loss")},
                {name: value[0] for name, value in start.items()},
                stream,
                **made.double(),
            )
            for name, value in got.items():
                assert_close(outcome.parameters[name], value, 1e-4, f"{name} of {recipe}")
