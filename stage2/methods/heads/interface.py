"""What a head is: logits and analytic gradients for C configurations at once.

Axes: B rows of a batch, C configurations, K classes, D features. Parameters are stacked along C,
so that one matrix product serves every configuration of a fused group. There is no gradient to the
features, which are frozen, and no autograd: each head's few lines of algebra stand in its file and
are checked against float64 autograd in the tests.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from featbank import errors
from featbank.bank import require_samples
from featbank.settings import Setting
from stage2.methods.heads.algebra import broadcast, own_cosines
from stage2.methods.heads.reduction import Reduction

Parameters = dict[str, Tensor]
"""Stacked parameters by name: each [C, …]."""

Settings = Mapping[str, Any]
"""A head's own settings of one configuration, and its ``seed``."""

MAX_NORM = (
    Setting("max_norm", None, "upper bound on ‖w_k‖", above=0, kind=float, role="constraint"),
    Setting(
        "max_norm_fraction",
        None,
        "f in the upper bound min+f·(max−min) on ‖w_k‖, from the row norms of W₀",
        low=0,
        kind=float,
        role="constraint",
    ),
    Setting(
        "max_norm_when",
        "step",
        "apply the bound after every step, or once per epoch as released",
        choices=("step", "epoch"),
    ),
)
"""Settings of the constraint on the rows of W, for every head that trains a W [LTWB]."""


@dataclass(frozen=True)
class Context:
    """What a head may know of the bank when it is initialised.

    Attributes
    ----------
    counts
        Training counts [K], float64.
    dim
        D.
    device
        Where parameters belong.
    blocks
        Goes through the training rows: features [n, D] and labels [n], which may lie in a file.
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    """

    counts: np.ndarray
    dim: int
    device: torch.device
    blocks: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    weight0: Tensor | None = None
    bias0: Tensor | None = None

    def batch(self, x: Tensor, rows: Tensor | None = None, z0: Tensor | None = None) -> Batch:
        """Features [B, D] or [B, C, D] as a batch; or the `rows` [B] of features [N, D] and, where
        they are known, of stage-1 logits `z0` [N, K]."""
        return Batch(self, x, rows, z0)

    def double(self) -> Context:
        """The same with the stage-1 classifier in double precision, for batches that are so."""
        if self.weight0 is None or self.bias0 is None:
            return self
        return replace(self, weight0=self.weight0.double(), bias0=self.bias0.double())

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the training features, [D] float32, summed in float64."""
        rows, total = 0, torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        for x, _ in self.blocks():
            rows, total = rows + len(x), total + x.sum(0, dtype=torch.float64)
        return (total / max(rows, 1)).float()

    @property
    def classifier(self) -> tuple[Tensor, Tensor]:
        """W₀ and b₀, of a view that has them."""
        assert self.weight0 is not None
        assert self.bias0 is not None
        return self.weight0, self.bias0

    @cached_property
    def row_lengths(self) -> tuple[float, float]:
        """Lengths of the shortest and of the longest row of W₀."""
        lengths = self.classifier[0].norm(dim=1)
        return float(lengths.min()), float(lengths.max())

    @cached_property
    def derived(self) -> dict[str, Any]:
        """What heads have worked out of the training rows, by head, for them to read and fill: the
        tiles and groups of a sweep share it."""
        return {}


@dataclass(frozen=True)
class Batch:
    """Rows of one split with what heads derive from them, each once and when it is asked for.

    As a rule all configurations see the same features, [B, D]. Where what makes the features
    differs between them, every configuration sees features of its own, [B, C, D]; in training
    alone, so that only a `TrainedHead` meets them.

    Attributes
    ----------
    context
        The view they belong to.
    source, rows, known_z0
        As `Context.batch` takes them.
    """

    context: Context
    source: Tensor
    rows: Tensor | None = None
    known_z0: Tensor | None = None

    @cached_property
    def x(self) -> Tensor:
        """Features [B, D] or [B, C, D]."""
        return self.source if self.rows is None else self.source.index_select(0, self.rows)

    @cached_property
    def z0(self) -> Tensor:
        """Stage-1 logits z⁰ = W₀x + b₀, [B, 1, K] or [B, C, K]: they broadcast over configurations
        as they are."""
        if (known := self.known_z0) is not None:
            return (known if self.rows is None else known.index_select(0, self.rows))[:, None]
        return linear(broadcast(self.x), *self.context.classifier)

    @cached_property
    def unit(self) -> Tensor:
        """Features of length 1, [B, D] or [B, C, D]."""
        return normalize(self.x, dim=-1)


class Size(NamedTuple):
    """Numbers that a configuration holds: its parameters, and of each row of a batch the logits,
    their gradient and what lies between."""

    parameters: int
    per_row: int


class Head(ABC):
    """A classifier on frozen features; as it stands one with nothing to train, finished by `init`.

    A subclass gets a line in `HEADS` of `stage2.methods.heads`; all else follows from there.
    """

    description: ClassVar[str]
    source: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()
    trained: ClassVar[bool] = False
    """Whether gradient steps change it: whether it is a `TrainedHead`."""
    uses_counts: ClassVar[bool] = False
    """Whether it needs log n_k, and so a training sample in every class."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Settings of which a stack has one value each: they decide shapes, or what is computed."""
    reads_z0: ClassVar[bool] = False
    """Whether its logits come from the stage-1 logits, so that it pays to know them beforehand."""
    convex: ClassVar[bool] = False
    """Whether its logits are affine in all it trains, so that a convex loss has one optimum."""

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        """What one configuration takes; as it stands a W [K, D] and its logits."""
        return Size(classes * dim, 2 * classes)

    def needs_classifier(self, settings: Settings) -> bool:
        """Whether these settings need the bank's stage-1 classifier."""
        return settings.get("init") == "stage1"

    def require(self, counts: np.ndarray) -> None:
        """Raise `EmptyClass` where training counts [K] leave the head without what it needs."""
        if self.uses_counts:
            name = type(self).__module__.rpartition(".")[2]  # a head's file bears its name
            require_samples(counts, f"Head {name!r}", "Leave the recipe out of the sweep.")

    def problem(self, settings: Settings, dim: int) -> str | None:
        """How settings contradict each other or do not fit D = `dim`, in two sentences, or None."""
        return None

    def check(self, settings: Settings, dim: int) -> None:
        """Raise `ConfigError` with the sentences of `problem`."""
        if problem := self.problem(settings, dim):
            raise errors.ConfigError(problem)

    @abstractmethod
    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        """Initial parameters, stacked over the C `settings`, on the context's device."""

    @abstractmethod
    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Logits [B, C, K]; a fresh tensor the caller may overwrite."""

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor | None:
        """‖w_k‖ of the classifier it amounts to, [C, K]; None where it has no row per class."""
        weight = parameters.get("weight")
        return None if weight is None else weight.flatten(2).norm(dim=2)

    def evaluate(self, parameters: Parameters, batch: Batch) -> Tensor:
        """The logits results are measured on, where they are not those it is trained on."""
        return self.logits(parameters, batch)

    def form(
        self, parameters: Parameters, settings: Settings, context: Context
    ) -> Reduction | None:
        """What one configuration is exported as, from its own parameters without the axis C; None
        for a head that cannot be exported."""
        return None


class TrainedHead(Head):
    """A head that gradient steps change.

    A classifier W that it trains is its parameter ``weight`` [C, K, …]: the constraint on the rows
    of W and the angles to them follow from that.
    """

    trained = True
    biases: ClassVar[tuple[str, ...]] = ()
    """Parameters that are added to what the features give; they may go without weight decay."""

    def needs_classifier(self, settings: Settings) -> bool:
        return super().needs_classifier(settings) or settings.get("max_norm_fraction") is not None

    def problem(self, settings: Settings, dim: int) -> str | None:
        absolute, fraction = settings.get("max_norm"), settings.get("max_norm_fraction")
        if absolute is None or fraction is None:
            return None
        return (
            f"Rows of W are limited twice, by max_norm={absolute:g} and by "
            f"max_norm_fraction={fraction:g}. Give one of the two."
        )

    @abstractmethod
    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        """Gradients of the trained parameters from `grad` = ∂L/∂logits [B, C, K] (contiguous)."""

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        """Cosine between each row and the weight of its own class.

        A row is what the last linear layer sees; a head that trains no W has that of stage 1.

        Parameters
        ----------
        parameters, batch, z
            The logits `z` [B, C, K] of these parameters on this batch.
        y
            Labels [B].

        Returns
        -------
        [B, C] in [−1, 1]; 0 where the row or the weight is 0.
        """
        weight = parameters.get("weight")
        if weight is None:
            weight = batch.context.classifier[0][None]
        return own_cosines(batch.x, weight, y).expand(-1, z.shape[1]).clamp(-1, 1)

    def limits(
        self, settings: Sequence[Settings], context: Context, when: str | None = None
    ) -> Tensor | None:
        """How long a row of W may be [LTWB], [C]; infinite where a configuration has no limit.

        None where none has any. With `when`, the limits of ``step`` or of ``epoch`` alone.

        Raises
        ------
        ConfigError
            Where a limit is given twice.
        """
        for s in settings:
            self.check(s, context.dim)
        limits = [
            _limit(s, context) if when in (None, s.get("max_norm_when")) else math.inf
            for s in settings
        ]
        if min(limits) == math.inf:
            return None
        return torch.tensor(limits, dtype=torch.float32, device=context.device)

    def constrain(self, parameters: Parameters, limits: Tensor) -> None:
        """Shorten the rows of W that are longer than `limits` [C] to that length, in place."""
        weight = parameters["weight"]
        lengths = weight.norm(dim=2).clamp_min_(1e-12)
        weight.mul_((limits[:, None] / lengths).clamp_max_(1)[:, :, None])

    def anchors(self, settings: Sequence[Settings], context: Context) -> Parameters:
        """Where weight decay pulls single parameters, broadcastable to them; 0 where not named."""
        return {}

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        """Learning-rate multipliers of single parameters, [C] each; 1 where not named."""
        return {}


def _limit(settings: Settings, context: Context) -> float:
    """The longest a row of W may be under one configuration's settings."""
    if (absolute := settings.get("max_norm")) is not None:
        return absolute
    if (fraction := settings.get("max_norm_fraction")) is None:
        return math.inf
    shortest, longest = context.row_lengths
    return shortest + fraction * (longest - shortest)
