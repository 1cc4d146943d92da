"""The interface of heads: logits and analytic gradients for C configurations at once.

Axes: B rows of a batch, C configurations, K classes, D features. Parameters are stacked along C,
so that one matrix product serves every configuration of a fused group. Features are frozen and need
no gradient. There is no autograd: each head implements its own gradients, a few lines of algebra
that the tests check against float64 autograd.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from featbank import errors
from featbank.bank import require_samples
from featbank.settings import Setting
from stage2.methods.class_facts import ROWS_ALONE, ClassFacts
from stage2.methods.heads.algebra import broadcast, target_cosines
from stage2.methods.heads.norm_bound import norm_limit
from stage2.methods.heads.reduction import Reduction
from stage2.methods.heads.text_classifier import TextClassifier
from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_ROWS = 8192
"""Training rows converted to float64, or searched, at once."""

Parameters = dict[str, "Tensor"]
"""Stacked parameters by name: each [C, …]."""

Settings = Mapping[str, Any]
"""Settings of a head in one configuration, and the configuration's ``seed``."""

INIT = Setting(
    "init",
    "fresh",
    "fresh U(±1/√D), the stage-1 W₀, or text",
    choices=("fresh", "stage1", "text"),
)
"""The setting of heads that train a W: what it starts from."""

START = Setting(
    "init",
    None,
    "the classifier W₀ and b₀ that it starts from: stage 1's, or text",
    choices=("stage1", "text"),
    kind=str,
    role="bank",
    default_help="stage1",
)
"""The setting of heads that always start from a classifier."""

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
"""Settings of the norm bound on the rows of W, for every head that trains a W [LTWB]."""


@dataclass(frozen=True)
class Context:
    """A bank's view as heads see it: counts, training rows and the stage-1 classifier.

    Attributes
    ----------
    counts
        Training rows of each class [K], float64.
    dim
        D.
    device
        Device of the parameters.
    blocks
        Iterate over the training rows, which may lie in a file: features [n, D] and labels [n].
    weight0, bias0
        The stage-1 classifier W₀ [K, D] and b₀ [K], or None.
    unit0
        Whether it takes features of length 1: z⁰ = W₀x/‖x‖ + b₀, that of a cosine probe.
    text
        The classifier that text makes, where the bank has text and rows have one length.
    tokens
        T where a row is T tokens [T, D/T] one after the other, or None.
    facts
        The facts about classes beside the rows.
    """

    counts: np.ndarray
    dim: int
    device: torch.device
    blocks: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    weight0: Tensor | None = None
    bias0: Tensor | None = None
    unit0: bool = False
    text: TextClassifier | None = None
    tokens: int | None = None
    facts: ClassFacts = ROWS_ALONE

    def batch(self, x: Tensor, rows: Tensor | None = None, z0: Tensor | None = None) -> Batch:
        """Make a batch of features [B, D] or [B, C, D], or of `rows` [B] from features [N, D] and,
        where they are known, from stage-1 logits `z0` [N, K]."""
        return Batch(self, x, rows, z0)

    def double(self) -> Context:
        """Copy with its classifiers in double precision, for double-precision batches."""
        made = self
        if self.text is not None:
            made = replace(made, text=replace(self.text, weight=self.text.weight.double()))
        if self.weight0 is not None and self.bias0 is not None:
            made = replace(made, weight0=self.weight0.double(), bias0=self.bias0.double())
        return made

    @cached_property
    def mean(self) -> Tensor:
        """Mean of the training features, [D] float32, summed in float64."""
        rows, total = 0, torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        for x, _ in self.blocks():
            for part in x.split(BLOCK_ROWS):  # a sum in float64 copies its rows
                rows, total = rows + len(part), total + part.sum(0, dtype=torch.float64)
        return (total / max(rows, 1)).float()

    @property
    def classifier(self) -> tuple[Tensor, Tensor]:
        """W₀ and b₀; only for a view that has them."""
        assert self.weight0 is not None
        assert self.bias0 is not None
        return self.weight0, self.bias0

    @cached_property
    def row_lengths(self) -> tuple[float, float]:
        """Smallest and largest norm of a row of W₀."""
        lengths = self.classifier[0].norm(dim=1)
        return float(lengths.min()), float(lengths.max())

    @cached_property
    def derived(self) -> dict[str, Any]:
        """Cache by head of what heads compute from the training rows; all tiles and groups of a
        sweep share it."""
        return {}


@dataclass(frozen=True)
class Batch:
    """Rows of one split and lazily computed quantities that heads derive from them.

    All configurations usually see the same features, [B, D]. Where their features are made
    differently, each configuration has its own, [B, C, D]. This happens only in training, so only
    a `TrainedHead` has to handle it.

    Attributes
    ----------
    context
        The view the rows belong to.
    source, rows, known_z0
        Arguments ``x``, ``rows`` and ``z0`` of `Context.batch`.
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
        """Stage-1 logits z⁰ = W₀x + b₀, with ``unit0`` of x/‖x‖, [B, 1, K] or [B, C, K],
        broadcastable over configurations."""
        if (z0 := self.known_z0) is not None:
            return (z0 if self.rows is None else z0.index_select(0, self.rows))[:, None]
        x = self.unit if self.context.unit0 else self.x
        return torch.nn.functional.linear(broadcast(x), *self.context.classifier)

    @cached_property
    def unit(self) -> Tensor:
        """Features normalised to length 1, [B, D] or [B, C, D]."""
        return torch.nn.functional.normalize(self.x, dim=-1)

    @cached_property
    def kept(self) -> dict[str, Any]:
        """Cache by name of what a head computes for the logits and needs for the gradients."""
        return {}


class Size(NamedTuple):
    """Memory of a configuration in numbers: its parameters, and per row of a batch the logits,
    their gradient and intermediate results."""

    parameters: int
    per_row: int


class Head(ABC):
    """A classifier on frozen features; this base class has nothing to train, `init` completes it.

    Add a subclass to `HEADS` in `stage2.methods.heads`; everything else follows from that line.
    """

    description: ClassVar[str]
    source: ClassVar[str]
    settings: ClassVar[tuple[Setting, ...]] = ()
    trained: ClassVar[bool] = False
    """Whether it is trained by gradient steps: whether it is a `TrainedHead`."""
    uses_counts: ClassVar[bool] = False
    """Whether it uses log n_k and therefore needs a training sample in every class."""
    shared: ClassVar[tuple[str, ...]] = ()
    """Settings with one value per stack, because they determine shapes or the computation."""
    reads_z0: ClassVar[bool] = False
    """Whether it reads the stage-1 logits, so that computing them in advance pays off."""
    convex: ClassVar[bool] = False
    """Whether its logits are affine in all trained parameters: a convex loss has one optimum."""
    needs_text: ClassVar[bool] = False
    """Whether it uses `Context.text`, whatever its settings."""
    takes_tokens: ClassVar[bool] = False
    """Whether it takes rows of tokens; all other heads take rows of features."""
    bends: ClassVar[str] = ""
    """Why softmax(z) is not quite a posterior under the prior of `log_prior`, as a noun."""

    def size(self, settings: Settings, dim: int, classes: int) -> Size:
        """Memory of one configuration; by default of a W [K, D] and its logits."""
        return Size(classes * dim, 2 * classes)

    def once(self, settings: Settings, dim: int, classes: int, rows: int) -> int:
        """Bytes that `init` takes beside the parameters, once for all configurations, with so many
        training rows."""
        return 0

    def needs_classifier(self, settings: Settings) -> bool:
        """Whether these settings need a classifier to start from, W₀ and b₀."""
        return settings.get("init") in ("stage1", "text")

    def cosine_scale(self, settings: Settings) -> float | None:
        """s where z⁰ is to be s times a cosine; None where W₀x + b₀ is as it is in the bank."""
        return None

    def require(self, counts: np.ndarray) -> None:
        """Raise `EmptyClass` if the head needs samples of every class and `counts` [K] has a 0."""
        if self.uses_counts:
            name = type(self).__module__.rpartition(".")[2]  # a head's module has its name
            require_samples(counts, f"Head {name!r}", "Leave the recipe out of the sweep.")

    def problem(self, settings: Settings, dim: int) -> str | None:
        """Describe a conflict among settings or with D = `dim`: fact and remedy, or None."""
        return None

    def check(self, settings: Settings, dim: int) -> None:
        """Raise `ConfigError` if there is a `problem`."""
        if problem := self.problem(settings, dim):
            raise errors.ConfigError(problem)

    @abstractmethod
    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        """Initial parameters, stacked over the C `settings`, on the context's device."""

    @abstractmethod
    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Compute logits [B, C, K], in a new tensor that the caller may overwrite."""

    def weight_norm(self, parameters: Parameters, context: Context) -> Tensor | None:
        """‖w_k‖ [C, K] of the equivalent linear classifier; None where there is none."""
        weight = parameters.get("weight")
        return None if weight is None else weight.flatten(2).norm(dim=2)

    def log_prior(self, settings: Settings, log_shares: np.ndarray) -> np.ndarray:
        """Log of the class prior [K] that its logits are made for, up to a constant.

        `log_shares` are those of the training rows; for a trained head those that its loss and
        batches make of them. By default they stay as they are for a trained head, and no prior
        enters one that is not trained.
        """
        return log_shares if self.trained else np.zeros_like(log_shares)

    def evaluate(self, parameters: Parameters, batch: Batch) -> Tensor:
        """Compute the logits for evaluation, where they differ from those in training."""
        return self.logits(parameters, batch)

    def form(
        self, parameters: Parameters, settings: Settings, context: Context
    ) -> Reduction | None:
        """Exported form of one configuration, from its parameters without the axis C; None for a
        head that cannot be exported."""
        return None


class TrainedHead(Head):
    """A head trained by gradient steps.

    If it trains a classifier W, that is its parameter ``weight`` [C, K, …]; the norm bound on the
    rows of W and the angles to them rely on this name.
    """

    trained = True
    biases: ClassVar[tuple[str, ...]] = ()
    """Additive parameters, which ``decay_bias`` can exempt from weight decay."""

    def needs_classifier(self, settings: Settings) -> bool:
        return super().needs_classifier(settings) or settings.get("max_norm_fraction") is not None

    def problem(self, settings: Settings, dim: int) -> str | None:
        absolute, fraction = settings.get("max_norm"), settings.get("max_norm_fraction")
        if absolute is None or fraction is None:
            return None
        return (
            f"The norm of the rows of W has two bounds, max_norm={absolute:g} and "
            f"max_norm_fraction={fraction:g}. Give one of the two."
        )

    @abstractmethod
    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        """Compute gradients of the trained parameters from `grad` = ∂L/∂logits [B, C, K]
        (contiguous)."""

    def cosine(self, parameters: Parameters, batch: Batch, z: Tensor, y: Tensor) -> Tensor:
        """Cosine between the input of the last linear layer and w_y, the weight of the label.

        A head that trains no W uses that of stage 1.

        Parameters
        ----------
        parameters, batch, z
            The logits `z` [B, C, K] of these parameters on this batch.
        y
            Labels [B].

        Returns
        -------
        [B, C] in [−1, 1]; 0 where the input or the weight is 0.
        """
        weight = parameters.get("weight")
        if weight is None:
            weight = batch.context.classifier[0][None]
        return target_cosines(batch.x, weight, y).expand(-1, z.shape[1]).clamp(-1, 1)

    def limits(
        self, settings: Sequence[Settings], context: Context, when: str | None = None
    ) -> Tensor | None:
        """Upper bounds [C] on the norm of a row of W [LTWB]; infinite for a configuration without.

        None if no configuration has a bound. With `when`, only bounds applied per ``step`` or per
        ``epoch``.

        Raises
        ------
        ConfigError
            Where a configuration sets both kinds of bound.
        """
        for s in settings:
            self.check(s, context.dim)
        limits = [
            norm_limit(s, context) if when in (None, s.get("max_norm_when")) else math.inf
            for s in settings
        ]
        if min(limits) == math.inf:
            return None
        return torch.tensor(limits, dtype=torch.float32, device=context.device)

    def constrain(self, parameters: Parameters, limits: Tensor) -> None:
        """Scale rows of W whose norm exceeds `limits` [C] down to that norm, in place."""
        weight = parameters["weight"]
        lengths = weight.norm(dim=2).clamp_min_(1e-12)
        weight.mul_((limits[:, None] / lengths).clamp_max_(1)[:, :, None])

    def settle(self, parameters: Parameters, context: Context) -> None:
        """Bring parameters back, in place, to where the head keeps them, after every epoch."""

    def anchors(self, settings: Sequence[Settings], context: Context) -> Parameters:
        """Values that weight decay pulls parameters towards, broadcastable; 0 if not listed."""
        return {}

    def decay_weights(self, settings: Sequence[Settings], context: Context) -> Parameters:
        """Multiples of the weight decay of single numbers of a parameter, broadcastable to it; 1 if
        not listed."""
        return {}

    def lr_multipliers(self, settings: Sequence[Settings]) -> dict[str, list[float]]:
        """Learning-rate multipliers [C] by parameter; 1 if not listed."""
        return {}
