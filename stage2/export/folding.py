"""Heads whose logits are affine in the features, and their weighted mean folded into one.

On the views v of a bank z = Σ_v W_v x_v + b. A mean of such heads is another one, on the
concatenation of their views.

Axes: N rows, K classes, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from featbank import errors
from featbank.bank import Bank
from stage2.engine.metrics import Evaluation
from stage2.engine.rows import block_rows
from stage2.engine.tally import Tally
from stage2.export.forms import Affine, AveragedHeads, HeadModule, Means
from stage2.features.parts import parts_of
from stage2.methods.generators.tukey import STAGE1
from stage2.results.ensembles import Member

_PLAIN = {**asdict(STAGE1), "parts": 0}
"""Options of an `Affine` form that takes features as they are."""

_DISTANCES = {**asdict(STAGE1), "transform": "un", "metric": "l2"}
"""Those of `Means` that compare by squared distance."""


@dataclass(frozen=True)
class AffineHead:
    """A head affine in the features: `weights` W_v [K, D] by view, and `bias` b [K]."""

    weights: Mapping[str, Tensor]
    bias: Tensor

    @property
    def views(self) -> tuple[str, ...]:
        """Its views."""
        return tuple(self.weights)

    def __call__(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits [N, K] of features [N, D] by view."""
        z = self.bias.expand(len(next(iter(features.values()))), -1)
        for view, weight in self.weights.items():
            z = torch.addmm(z, features[view], weight.t())
        return z

    @property
    def centred(self) -> AffineHead:
        """The same probabilities from logits whose mean over the classes is 0."""
        weights = {view: weight - weight.mean(0) for view, weight in self.weights.items()}
        return AffineHead(weights, self.bias - self.bias.mean())

    @property
    def module(self) -> HeadModule | AveragedHeads:
        """It as a plain head; of V > 1 views, as the average of V heads' logits."""
        count = len(self.weights)
        empty = torch.zeros_like(self.bias, dtype=torch.bool)
        forms = [
            Affine({"weight": count * weight, "bias": self.bias, "empty": empty}, _PLAIN)
            for weight in self.weights.values()
        ]
        return HeadModule(forms[0]) if count == 1 else AveragedHeads(forms, "logits")


def affine_head(module: HeadModule | AveragedHeads, views: Sequence[str]) -> AffineHead | None:
    """The affine head with the probabilities of a module, without its calibration; None where there
    is none.

    There is none for an average of probabilities, nor for a head that normalises features or ranks
    classes without rows last.
    """
    forms: list[nn.Module] = []
    shares: Sequence[float | None] | None = None
    if isinstance(module, HeadModule):
        forms = [module.form]
    elif module.average == "logits":
        forms, shares = [*module.forms], module.shares
    else:
        return None
    weights, bias = {}, torch.zeros(())
    for view, form, share in zip(views, forms, shares or [None] * len(forms), strict=True):
        if (one := _affine(form)) is None:
            return None
        w, b = (each.detach() for each in one)
        weights[view] = w / len(forms) if share is None else share * w
        bias = bias + (b / len(forms) if share is None else share * b)
    return AffineHead(weights, bias)


def _affine(form: nn.Module) -> tuple[Tensor, Tensor] | None:
    """W [K, D] and b [K] of a form.

    For squared distances z_k = −‖x − o − m_k‖² they are 2m_k and −‖m_k‖² − 2⟨o, m_k⟩: what is left,
    −‖x − o‖², is the same for all classes.
    """
    if isinstance(form, Affine) and form.options == _PLAIN and not form.some_empty:
        return form.weight, form.bias
    if isinstance(form, Means) and form.options == _DISTANCES and not form.some_empty:
        return 2 * form.keys, -form.keys.square().sum(1) - 2 * form.keys @ form.origin
    return None


def ensemble_head(
    members: Sequence[Member], modules: Sequence[tuple[HeadModule | AveragedHeads, Sequence[str]]]
) -> AffineHead:
    """The members of an ensemble as one head: Σ_i (n_i / Σ_j n_j) · z_i / T_i, logits z centred.

    Parameters
    ----------
    members
        Counts n_i and temperatures T_i.
    modules
        The head of each member, and its views.

    Raises
    ------
    ConfigError
        For a member whose logits are not affine in the features.
    """
    total = sum(member.count for member in members)
    weights: dict[str, Tensor] = {}
    bias: Tensor | float = 0.0
    for member, (module, views) in zip(members, modules, strict=True):
        if (head := affine_head(module, views)) is None:
            raise errors.ConfigError(
                f"{member.id}, a member of the ensemble, is not affine in the features. "
                "Run `featbank ensemble` again."
            )
        factor = member.count / (total * member.temperature)
        for view, weight in head.centred.weights.items():
            weights[view] = weights.get(view, 0.0) + factor * weight.double()
        bias = bias + factor * head.centred.bias.double()
    assert isinstance(bias, Tensor)
    return AffineHead({view: weight.float() for view, weight in weights.items()}, bias.float())


def evaluate(head: AffineHead, bank: Bank, split: str) -> Evaluation:
    """Measure a head on a split of a bank."""
    labels = torch.from_numpy(bank.labels(split))
    parts = parts_of(bank, split)
    part = None if parts is None else torch.from_numpy(parts.part)
    counts, groups = bank.full_counts, bank.class_groups.masks
    tally = Tally(labels, bank.num_classes, 1, counts, groups, parts=part, closer=True)
    for features in feature_blocks(bank, split, head.views):
        tally.add(head(features)[:, None])
    return tally.evaluations()[0]


def feature_blocks(bank: Bank, split: str, views: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The rows of a split in order: features [n, D] float32 by view."""
    rows, step = bank.rows(split), bank.block_rows(split, views[0])
    size = block_rows(bank.num_classes, torch.device("cpu"))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        x = {view: torch.from_numpy(bank.read(split, view, start, stop)).float() for view in views}
        for first in range(0, stop - start, size):
            yield {view: values[first : first + size] for view, values in x.items()}
