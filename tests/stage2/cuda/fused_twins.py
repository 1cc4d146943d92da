"""Stand-ins for the kernels of the fused pass: what they rely on, and the same in PyTorch."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from stage2.engine import kernel
from stage2.engine.gpu import descent_programs, row_programs, scaled_loss_programs
from stage2.engine.kernel import LossRows
from stage2.methods.precision import _rounded

Given = dict[str, Any]


def rows(grid: tuple[int, ...], given: Given) -> None:
    """A batch's rows of features."""
    x, out = given["x"][given["rows"]], given["out"]
    assert grid == (len(given["rows"]),), f"the grid {grid}"
    assert out.shape == x.shape == (grid[0], given["dim"]), f"{out.shape}, {x.shape}"
    if given["UNIT"]:
        x = torch.nn.functional.normalize(x, dim=1)
    out.copy_(x)


def scaled_loss(grid: tuple[int, ...], given: Given) -> None:
    """Losses on ρ·(raw + b) and their sums over parts of the batch."""
    raw, loss = given["raw"], given["loss"]
    batch, configs, classes = raw.shape
    span, parts = given["span"], len(loss)
    assert (batch, configs, classes) == (given["batch"], given["configs"], given["K"])
    assert parts == -(-batch // span), f"{parts} parts of {span} rows for {batch}"
    assert span <= given["SPAN"], f"{span} rows a program"
    assert grid == (-(-configs // given["ROWS"]) * parts,), f"the grid {grid}"
    assert given["BLOCK"] >= classes or given["ROWS"] == 1, "long rows are taken one by one"
    fields = set(inspect.signature(LossRows).parameters) & given.keys()
    losses = LossRows(**{name: given[name] for name in fields})
    if losses.weight is not None:
        expected = losses.weight[given["y"]].sum(0)
        torch.testing.assert_close(given["weight_sum"], expected, rtol=1e-5, atol=1e-6)
    moved = raw if given["bias"] is None else raw + given["bias"]
    rho = 1 if given["rho"] is None else given["rho"]
    value, gradient = kernel.loss_and_gradient((moved * rho).clone(), given["y"], losses)
    loss.copy_((value / parts).expand_as(loss))
    for name, each in (("slopes", gradient * rho), ("along", gradient * moved)):
        if given[name] is not None:
            assert given[name].shape == (parts, configs, classes), f"{name} {given[name].shape}"
            for part, piece in zip(given[name], each.split(span), strict=True):
                part.copy_(piece.sum(0))
    given["gradient"].copy_(gradient * rho)


def weight(grid: tuple[int, ...], given: Given) -> None:
    """A product and the step of the weights that it is the gradient of."""
    p, g, x = given["p"], given["g"], given["x"]
    dim, classes = given["dim"], given["K"]
    count = given["units"] * given["UNIT"]
    assert p.shape == (count // classes, classes, dim), f"{p.shape}"
    tiles = -(-dim // given["BN"])
    assert grid == (-(-count // given["BM"]) * tiles,), f"the grid {grid}"
    if x is None:
        gradient = g.view_as(p)
    else:
        assert x.dtype == g.dtype, f"factors {x.dtype} and {g.dtype}"
        assert x.shape == (given["batch"], dim), f"{x.shape}"
        factors = g.float().view(len(x), count).t(), x.float()
        if given["PRECISION"] == "tf32":
            factors = _rounded(factors[0], "tf32"), _rounded(factors[1], "tf32")
        gradient = (factors[0] @ factors[1]).view_as(p)
    if given["toward"] is not None:
        gradient = gradient - given["toward"].unsqueeze(2) * p
    anchor = given["anchor"]
    assert anchor is None or given["ONE_ANCHOR"] == (len(anchor) == 1), "whose anchor"
    names = ("p", "first", "second", "multiplier", "decay")
    _step(gradient, *(given[name] for name in names), anchor, given)
    if given["shadow"] is not None:
        given["shadow"].copy_(p)
    if given["squares"] is not None:
        assert given["squares"].shape == (tiles, *p.shape[:2]), f"{given['squares'].shape}"
        for sums, part in zip(given["squares"], p.split(given["BN"], 2), strict=True):
            sums.copy_(part.square().sum(2))


def lengths(grid: tuple[int, ...], given: Given) -> None:
    """‖w‖ and s/‖w‖."""
    squares, scale = given["squares"], given["scale"]
    assert len(squares) == given["tiles"], f"{len(squares)} tiles"
    assert grid[0] * given["BLOCK"] >= squares[0].numel() == given["rows"], "rows are missed"
    assert scale.numel() == squares.shape[1], "s is one number"
    given["length"].copy_(squares.sum(0).sqrt().clamp_min(1e-12))
    given["rho"].copy_(scale.view(-1, 1) / given["length"])


def small(grid: tuple[int, ...], given: Given) -> None:
    """Sums of what the parts of a batch left, and the steps of bias and scale."""
    loss, length = given["loss"], given["length"]
    assert loss.shape == (given["parts"], given["configs"]), f"{loss.shape}"
    assert grid == (given["configs"],), f"the grid {grid}"
    given["loss_total"].add_(loss.sum(0))
    moved = None if given["along"] is None else given["along"].sum(0)
    if moved is not None and length is not None:
        given["toward"].copy_(given["rho"] * moved / length**2)
        moved = (moved / length).sum(1, keepdim=True)
    for name, slope in (("bias", given["slopes"]), ("scale", moved)):
        p = given[name]
        if p is None:
            continue
        parts = (given[f"{name}_{part}"] for part in ("first", "second", "multiplier", "decay"))
        anchor = given[f"{name}_anchor"]
        own = anchor is not None and len(anchor) > 1
        assert given[f"{name}_step"] == (p[0].numel() if own else 0), f"anchors of {name}"
        assert slope is not None, f"nothing steps {name}"
        _step(slope.sum(0) if name == "bias" else slope, p, *parts, anchor, given)


def _step(
    slope: Tensor,
    p: Tensor,
    first: Tensor,
    second: Tensor | None,
    multiplier: Tensor | None,
    decay: Tensor | None,
    anchor: Tensor | None,
    given: Given,
) -> None:
    """One step on `p` by the rule of a launch."""

    def each(value: Tensor | None) -> Any:
        if value is None:
            return None
        assert value.numel() == len(p), f"{value.shape} for {p.shape}"
        return value.reshape(-1, *[1] * (p.dim() - 1))

    rate = each(given["lr"]) * (1 if multiplier is None else each(multiplier))
    pull = p - (0 if anchor is None else anchor)
    pull = 0 if decay is None else each(decay) * pull
    if second is None:
        slope = slope + pull
        mu, ahead = each(given["momentum"]), each(given["nesterov"])
        first.mul_(mu).add_(slope)
        update = first if ahead is None else torch.where(ahead > 0, slope + mu * first, first)
        p.sub_(rate * update)
        return
    first.lerp_(slope, each(given["mean_share"]))
    second.lerp_(slope**2, each(given["square_share"]))
    p.sub_(rate * pull)
    p.sub_(rate * each(given["ratio"]) * first / (second.sqrt() + each(given["floor"])))


TWINS = {
    "row_programs.rows_kernel": (row_programs.rows_kernel, rows),
    "scaled_loss_programs.scaled_loss_kernel": (
        scaled_loss_programs.scaled_loss_kernel,
        scaled_loss,
    ),
    "descent_programs.weight_kernel": (descent_programs.weight_kernel, weight),
    "descent_programs.lengths_kernel": (descent_programs.lengths_kernel, lengths),
    "descent_programs.small_kernel": (descent_programs.small_kernel, small),
}
"""Kernels and what computes the same, by module and name in `stage2.engine.gpu`."""
