"""The optimum of convex recipes: full-batch L-BFGS over a tile, in float64.

The objective of a configuration is its loss expected under the sampler's distribution of rows, plus
λ/2 times the squared length of the parameters that weight decay acts on.

With p_k ≈ 1/K its Hessian is near  Σ/K + λ  for the weight and bias of each class of a linear head,
where Σ [D+1, D+1] is the second moment of (x, 1). The inverse is the first metric of L-BFGS, by one
eigendecomposition for all recipes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from stage2.engine.kernel import KERNELS, LossRows
from stage2.engine.rows import block_rows
from stage2.methods.family import LossParameters
from stage2.methods.heads import Batch, Context, Parameters, trained_head
from stage2.methods.heads.interface import BLOCK_ROWS
from stage2.methods.lbfgs import Minimum, minimise
from stage2.methods.losses import LOSSES
from stage2.methods.recipe import Recipe
from stage2.methods.samplers import SAMPLERS

FLAT = 1e-9
"""Least curvature of the features that the metric knows, as a share of the largest."""


def optimum(
    recipes: Sequence[Recipe],
    start: Parameters,
    context: Context,
    copies: int = 1,
    *,
    in_metric: bool = True,
) -> tuple[Parameters, Minimum]:
    """Minimise the objectives of C recipes that share a head, a sampler and a kernel.

    Parameters
    ----------
    recipes
        The recipes [C], with ``optimiser=lbfgs``.
    start
        Initial parameters, stacked.
    context
        The view; its blocks give the training rows.
    copies
        Augmentation copies of each row.
    in_metric
        Whether linear heads descend in the metric of the features.

    Returns
    -------
    Parameters in float32, and how the minimisation went.
    """
    settings = [recipe.settings for recipe in recipes]
    objective = _FullBatchObjective(recipes, start, context, copies)
    minimum = minimise(
        objective,
        torch.cat([values.double().flatten(1) for values in start.values()], 1),
        tolerance=objective.column([s["gradient_norm"] for s in settings]),
        max_iterations=max(s["max_iterations"] for s in settings),
        history=max(s["history"] for s in settings),
        subset=objective.subset,
        metric=_Metric(objective) if in_metric and objective.is_linear else None,
    )
    _warn(recipes, minimum)
    return {n: p.float() for n, p in objective.parameters(minimum.point).items()}, minimum


def _warn(recipes: Sequence[Recipe], minimum: Minimum) -> None:
    """Warn of recipes that did not reach their gradient norm."""
    short = [
        (norms[-1], len(norms) - 1, recipe)
        for norms, recipe in zip(minimum.norms, recipes, strict=True)
        if not norms[-1] <= recipe.settings["gradient_norm"]
    ]
    if short:
        norm, iterations, recipe = max(short, key=lambda entry: entry[0])
        warnings.warn(
            f"{len(short)} of {len(recipes)} recipes stopped short of their gradient_norm, "
            f"{recipe.id} after {iterations} iterations at {norm:.2g}. Raise max_iterations, or "
            "give it some weight decay."
        )


class _Metric:
    """The inverse of the Hessian of linear heads where all p_k = 1/K."""

    def __init__(self, objective: _FullBatchObjective) -> None:
        self._objective = objective
        moment = None
        for x, weight in objective.rows():
            one = torch.cat([x, torch.ones_like(x[:, :1])], 1)
            part = one.t() @ (one * weight[:, None])
            moment = part if moment is None else moment.add_(part)
        assert moment is not None
        values, self._axes = torch.linalg.eigh(moment)
        curvature = values.clamp_min_(FLAT * float(values[-1])) / objective.classes
        self._along = 1 / (curvature + objective.decay[:, None])  # [C, D+1]

    def __call__(self, gradient: Tensor, problems: Tensor) -> Tensor:
        parts = self._objective.parameters(gradient)
        turned = torch.cat([parts["weight"], parts["bias"][:, :, None]], 2) @ self._axes
        turned.mul_(self._along[problems, None])
        moved = turned @ self._axes.t()
        moved = {"weight": moved[:, :, :-1], "bias": moved[:, :, -1]}
        return torch.cat([moved[name].flatten(1) for name in parts], 1)


class _FullBatchObjective:
    """Values [C] and gradients [C, P] of the objectives at a point [C, P]."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        start: Parameters,
        context: Context,
        copies: int,
    ) -> None:
        self._head, self._context = trained_head(recipes[0].head), context.double()
        self._shapes = {name: values.shape for name, values in start.items()}
        self._device = context.device
        first = recipes[0]
        loss = LOSSES[first.settings["loss"]]
        self._kernel = KERNELS[loss.kernel]
        self._row_weight = self._weights(first, copies)
        self._losses = self._loss_parameters(recipes)
        self._rows, self._decay = self._stacked(self._losses), self._decays(recipes)
        self.classes = len(context.counts)
        self.decay = self.column([recipe.settings["weight_decay"] for recipe in recipes])
        self.is_linear = self._shapes.keys() == {"weight", "bias"}

    def subset(self, problems: Tensor) -> _FullBatchObjective:
        """The objectives of some of the recipes, given by their indices."""
        part = copy(self)
        part._losses = [self._losses[problem] for problem in problems.tolist()]
        part._rows, part._decay = self._stacked(part._losses), self._decay[problems]
        return part

    def column(self, values: Sequence[float]) -> Tensor:
        """Values [C] in double precision."""
        return torch.tensor(values, dtype=torch.float64, device=self._device)

    def parameters(self, point: Tensor) -> Parameters:
        """A point [C, P] as the head's parameters."""
        sizes = [shape[1:].numel() for shape in self._shapes.values()]
        parts = zip(self._shapes.items(), point.split(sizes, 1), strict=True)
        return {name: part.reshape(-1, *shape[1:]).contiguous() for (name, shape), part in parts}

    def __call__(self, point: Tensor) -> tuple[Tensor, Tensor]:
        parameters = self.parameters(point)
        value = (point.square() * self._decay).sum(1) / 2
        slope = {name: torch.zeros_like(values) for name, values in parameters.items()}
        for batch, y in self._batches(len(point)):
            z = self._head.logits(parameters, batch)
            teacher = None if self._rows.distil is None else batch.z0
            weight = self._row_weight[y]
            part, gradient = self._kernel(z, y, self._rows, teacher=teacher, row_weight=weight)
            value += part
            for name, values in self._head.gradients(parameters, batch, gradient).items():
                slope[name] += values
        flat = torch.cat([values.flatten(1) for values in slope.values()], 1)
        return value, flat.addcmul_(point, self._decay)

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training rows [n, D], and the weight of each in the objective [n]."""
        for x, y in self._context.blocks():
            for part, labels in zip(x.split(BLOCK_ROWS), y.split(BLOCK_ROWS), strict=True):
                yield part.double(), self._row_weight[labels]

    def _batches(self, configs: int) -> Iterator[tuple[Batch, Tensor]]:
        size = block_rows(configs * len(self._context.counts), self._device)
        for x, y in self._context.blocks():
            for rows, labels in zip(x.split(size), y.split(size), strict=True):
                yield self._context.batch(rows.double()), labels

    def _weights(self, recipe: Recipe, copies: int) -> Tensor:
        """Weight of a row of each class [K]: its share of the sampler's draws."""
        counts = self._context.counts
        sampler = SAMPLERS[recipe.settings["sampler"]]
        shares = sampler.distribution(counts, recipe.part("sampler"))
        assert shares is not None
        return self.column((shares / (counts * copies).clip(1)).tolist())

    def _loss_parameters(self, recipes: Sequence[Recipe]) -> list[LossParameters]:
        """The losses. Those normalised by the weights of a batch are normalised over all rows here:
        blocks of rows are not batches."""
        counts = self._context.counts
        shares = self._row_weight.cpu().numpy() * counts
        losses = []
        for recipe in recipes:
            loss = LOSSES[recipe.settings["loss"]]
            row = loss(counts, recipe.part("loss"), facts=self._context.facts)
            if row.by_weights and row.weight is not None:
                total = (shares * row.weight).sum() / shares.sum()
                row = replace(row, weight=row.weight / total, by_weights=False)
            losses.append(row)
        return losses

    def _stacked(self, losses: Sequence[LossParameters]) -> LossRows:
        classes = len(self._context.counts)
        return LossRows.stack(losses, classes, device=self._device, dtype=torch.float64)

    def _decays(self, recipes: Sequence[Recipe]) -> Tensor:
        """Weight decay of every number of a point, [C, P]."""
        decay = self.column([r.settings["weight_decay"] for r in recipes])[:, None]
        biases = self.column([r.settings["decay_bias"] for r in recipes])[:, None]
        parts = [
            (decay * biases if name in self._head.biases else decay).expand(-1, shape[1:].numel())
            for name, shape in self._shapes.items()
        ]
        return torch.cat(parts, 1)
