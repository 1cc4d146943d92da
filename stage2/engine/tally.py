"""Measuring C configurations on a split at once, in bounded memory.

Logits arrive in row blocks; what is kept are sums, in float64, and one byte per row and
configuration. A block takes one temporary of its own size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from featbank.bank import class_groups
from stage2.engine.details import CONFIDENCE_BINS, DETAILS
from stage2.engine.gpu import measure as gpu_measure
from stage2.engine.gpu.available import available
from stage2.engine.metrics import BINS, METRICS, Evaluation, Totals
from stage2.engine.native.measuring import measured
from stage2.engine.shifting import ShiftTally
from stage2.engine.temperature import Fitted

_PENDING = 1 << 16
"""Rows × configurations whose statistics join the sums at once: enough to spread the cost of an
operation, few enough to stay in cache. On a GPU, where the cost is a launch, 16 times as many; they
take about 100 MB."""

_UNITS = 1 << 36
"""Parts of 1 in which a GPU adds confidences: far below the rounding of float32, and so few that
those of 2²⁷ rows fit 63 bits."""


class Tally:
    """Collects the logits of a split block by block.

    Parameters
    ----------
    labels
        Labels [N] of the split, on the device of the logits.
    num_classes
        K.
    configs
        C.
    counts
        Full training counts [K] of the bank, which order the shifted priors; without them there is
        nothing by group and no shift.
    groups
        Classes [K] bool of each group, by key, of which no two share one; by default the usual
        groups by `counts`.
    parts
        The part of each row [N] int32, 0 … M − 1, for splits of very many rows: right rows are
        summed by part in place of a byte per row and configuration, and `closer` keeps a K×K
        confusion of each configuration, unless it is larger, in place of two bytes per row.
    closer
        Keep ``confidence`` and ``confusions`` as well. It takes another two bytes per row and
        configuration, and half as long again as everything else that is done to a row's logits.
    log_prior
        Log of the class prior [C, K] that the logits are made for. With it and `counts`, rows are
        also counted that are right under each shifted prior once the logits are moved to it. It
        takes a tenth of the time of everything else.
    """

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        configs: int,
        counts: np.ndarray | None = None,
        groups: Mapping[str, np.ndarray] | None = None,
        *,
        parts: Tensor | None = None,
        closer: bool = False,
        log_prior: Tensor | None = None,
    ) -> None:
        self.labels, self.num_classes, self.configs = labels, num_classes, configs
        self.counts, self.closer = counts, closer
        usual = {} if counts is None else class_groups(counts)
        self.groups = usual if groups is None else groups
        group_of = np.full(num_classes, len(self.groups))  # of a class in none
        for i, mask in enumerate(self.groups.values()):
            group_of[mask] = i
        device = labels.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._row = self._digested = 0
        self._pending: list[tuple[Tensor, ...]] = []
        self._group = torch.from_numpy(group_of).to(device)[labels]  # [N]
        self._config = torch.arange(configs, device=device)
        self.parts = parts
        if parts is None:
            self._correct = torch.zeros(configs, len(labels), dtype=torch.bool, device=device)
        else:
            self._parts = int(parts.max()) + 1
            self._correct = torch.zeros(configs * self._parts, dtype=torch.int32, device=device)
        self._sums = zeros(3, configs)  # top 5, NLL, Brier
        self._logits = zeros(configs, num_classes)  # Σ z_k over all rows
        self._by_class = zeros(3, num_classes * configs)  # correct, Σ z_y and Σ z_y² by class
        self._predictions = torch.zeros(configs * num_classes, dtype=torch.int64, device=device)
        self._cells = max(len(self.groups), int(group_of.max(initial=0)) + 1)
        cells = configs * self._cells
        self._bins = zeros(3, cells * BINS)  # rows, Σ1/P, correct
        self._shift = None
        if log_prior is not None and counts is not None:
            self._shift = ShiftTally(counts, log_prior)
        if closer:
            self._histogram = zeros(cells * 2 * CONFIDENCE_BINS)
        self._predicted = self._confusion = None
        if closer and parts is None:
            index = torch.int16 if num_classes < 1 << 15 else torch.int32
            self._predicted = torch.zeros(configs, len(labels), dtype=index, device=device)
        elif closer and 2 * num_classes**2 <= len(labels):
            pairs = configs * num_classes**2
            self._confusion = torch.zeros(pairs, dtype=torch.int32, device=device)

    def next_rows(self, rows: int) -> slice:
        """The next rows."""
        return slice(self._row, self._row + rows)

    def next_labels(self, rows: int) -> Tensor:
        """The labels [B] of the next rows."""
        return self.labels[self.next_rows(rows)]

    def add(self, z: Tensor) -> None:
        """Add the float32 logits [B, C, K] of the next rows; they are overwritten."""
        y = self.next_labels(len(z))
        one_pass = gpu_measure.measured if available(z.device) else measured
        found = one_pass(z, y, self._shift.places if self._shift else None)
        # Σ of a block in float32, pairwise: it errs less than the logits themselves do.
        self._logits += z.sum(0) if found is None else found.total
        predicted = z.argmax(2) if found is None else found.predicted
        if self._predicted is not None:
            self._predicted[:, self._row : self._row + len(z)] = predicted.t()
        if self._shift is not None:
            bounds = found.bounds if found else None
            self._shift.add(*(bounds or self._shift.bounds(z, y)), y)
        statistics = (*label_rank(z, y), *_softmax_sums(z)) if found is None else found[:5]
        self._pending.append((*statistics, predicted))
        self._row += len(z)
        enough = _PENDING * (16 if z.is_cuda else 1)
        if (self._row - self._digested) * self.configs >= enough:
            self._digest()

    def _digest(self) -> None:
        """Add the statistics of the pending rows to the sums."""
        rows = slice(self._digested, self._row)
        self._digested = self._row
        rank, zy, top, partition, norm, predicted = map(torch.cat, zip(*self._pending, strict=True))
        self._pending.clear()
        nll = (top - zy).add_(partition.log())
        brier = (norm / partition).square_() - 2 * nll.neg().exp_() + 1  # Σp² − 2p_y + 1
        correct = rank == 0
        if self.parts is None:
            self._correct[:, rows] = correct.t()
        else:
            place = (self._config * self._parts + self.parts[rows, None]).view(-1)
            self._correct.scatter_add_(0, place, correct.view(-1).int())
        if self._confusion is not None:
            pair = (self._config * self.num_classes + self.labels[rows, None]) * self.num_classes
            ones = torch.ones_like(predicted, dtype=torch.int32).view(-1)
            self._confusion.scatter_add_(0, (pair + predicted).view(-1), ones)
        for total, values in zip(self._sums, (rank < 5, nll, brier.clamp_min_(0)), strict=True):
            total.add_(values.sum(0, dtype=torch.float64))
        cell = (self._config * self.num_classes + predicted).view(-1)
        self._predictions.scatter_add_(0, cell, torch.ones_like(cell))
        right, zy = correct.double(), zy.double()
        self._add_by_class(self.labels[rows], (right, zy, zy * zy))
        group = self._config * self._cells + self._group[rows, None]
        slot = (group * BINS).add(_bin(partition, BINS))
        if self.closer:
            fine = (group * 2 + correct) * CONFIDENCE_BINS + _bin(partition, CONFIDENCE_BINS)
            self._histogram.scatter_add_(0, fine.view(-1), torch.ones_like(right).view(-1))
        confidence = partition.double().reciprocal_()
        self._add_by_bin(slot, (torch.ones_like(right), confidence, right))

    # On a GPU `scatter_add_` adds in any order, so that sums of fractions differ from run to run.

    def _add_by_class(self, y: Tensor, each: Sequence[Tensor]) -> None:
        """Add values [B, C] float64 of rows with labels y [B] to the sums of their classes."""
        if y.is_cuda:
            member = (y == torch.arange(self.num_classes, device=y.device)[:, None]).double()
            for total, values in zip(self._by_class, each, strict=True):
                total.view(self.num_classes, self.configs).addmm_(member, values)
            return
        cell = (y[:, None] * self.configs + self._config).view(-1)
        for total, values in zip(self._by_class, each, strict=True):
            total.scatter_add_(0, cell, values.view(-1))

    def _add_by_bin(self, slot: Tensor, each: Sequence[Tensor]) -> None:
        """Add values [B, C] float64 to the sums at their slots [B, C] of `_bins`."""
        if slot.is_cuda:
            # Whole numbers have the same sum in any order.
            whole = torch.zeros_like(self._bins, dtype=torch.int64)
            for total, values in zip(whole, each, strict=True):
                units = (values.nan_to_num(0) * _UNITS).round_().long()
                total.scatter_add_(0, slot.view(-1), units.view(-1))
            self._bins.add_(whole, alpha=1 / _UNITS)
            lost = each[1].sum(0).mul_(0)  # NaN where one is
            self._bins[1].view(self.configs, -1).add_(lost[:, None])
            return
        for total, values in zip(self._bins, each, strict=True):
            total.scatter_add_(0, slot.view(-1), values.view(-1))

    def evaluations(
        self, *, weight_norm: Tensor | None = None, fitted: Fitted | None = None
    ) -> list[Evaluation]:
        """One evaluation per configuration; parameters as of `totals`."""
        return evaluations_of(self.totals(weight_norm=weight_norm, fitted=fitted))

    def totals(self, *, weight_norm: Tensor | None = None, fitted: Fitted | None = None) -> Totals:
        """Copy to the host the sums that metrics and details are computed from.

        Parameters
        ----------
        weight_norm
            ‖w_k‖ [C, K] of heads that have a weight per class.
        fitted
            Temperatures fitted to these rows.
        """
        assert self._row == len(self.labels)
        if self._pending:
            self._digest()
        rows = torch.bincount(self.labels, minlength=self.num_classes).cpu().numpy()
        by_class = self._by_class.view(3, self.num_classes, self.configs).transpose(1, 2)
        right, label_logits, squares = by_class.contiguous().cpu().numpy()  # [C, K] each
        top5, nll, brier = self._sums.cpu().numpy() / len(self.labels)
        bins = self._bins.view(3, self.configs, -1, BINS).cpu().numpy()
        confidence = predicted = confusion = None
        if self.closer:
            shape = self.configs, -1, 2, CONFIDENCE_BINS
            by_cell = self._histogram.view(shape).cpu().numpy()
            confidence = by_cell[:, : max(len(self.groups), 1)]
        if self._predicted is not None:
            predicted = self._predicted.cpu().numpy()
        if self._confusion is not None:
            square = self.configs, self.num_classes, self.num_classes
            confusion = self._confusion.view(square).cpu().numpy()
        with np.errstate(invalid="ignore"):
            per_class = 100 * (right / rows)
        return Totals(
            labels=self.labels.cpu().numpy(),
            rows=rows,
            counts=self.counts,
            groups=self.groups,
            correct=self._correct.view(self.configs, -1).cpu().numpy(),
            per_class=per_class,
            right=right,
            predictions=self._predictions.view(self.configs, -1).cpu().numpy(),
            top5=top5,
            nll=nll,
            brier=brier,
            bins={"": bins.sum(2), **{name: bins[:, :, i] for i, name in enumerate(self.groups)}},
            logits=self._logits.cpu().numpy(),
            label_logits=label_logits,
            label_squares=squares,
            weight_norm=None if weight_norm is None else weight_norm.float().cpu().numpy(),
            temperature=None if fitted is None else fitted.scale.reciprocal().cpu().numpy(),
            tempered_nll=None if fitted is None else fitted.nll.cpu().numpy(),
            tempered_losses=None
            if fitted is None or self.parts is not None
            else fitted.losses.cpu().numpy(),
            shifted=None if self._shift is None else self._shift.right(),
            confidence=confidence,
            predicted=predicted,
            confusion=confusion,
        )


def evaluations_of(totals: Totals) -> list[Evaluation]:
    """The evaluation of each configuration, computed on the host."""
    with np.errstate(invalid="ignore", divide="ignore"):
        metrics = {name: metric.of(totals) for name, metric in METRICS.items()}
        details = {name: detail.of(totals) for name, detail in DETAILS.items()}
    return [
        Evaluation(
            {n: None if values is None else _finite(values[c]) for n, values in metrics.items()},
            totals.per_class[c],
            totals.correct[c],
            {
                name: np.asarray(values[c], DETAILS[name].dtype)
                for name, values in details.items()
                if values is not None
            },
        )
        for c in range(len(totals.correct))
    ]


def label_rank(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Count the classes that stand before the true one [B, C]; with the true one's logit [B, C].

    Equal logits stand in the order of the classes, so rank 0 is ``z.argmax(2) == y`` in less time.
    NaN stands before every number.

    Parameters
    ----------
    z
        Logits [B, C, K].
    y
        Labels [B] int64.
    """
    if available(z.device) and (ranked := gpu_measure.label_rank(z, y)) is not None:
        return ranked
    batch, configs, classes = z.shape
    zy = z.gather(2, y.view(batch, 1, 1).expand(batch, configs, 1))
    # z_k − z_y < 0 before the label and ≤ 0 from it on, as one comparison: with 0 and the least
    # positive normal number. Written as floats, which sum faster than truth values.
    index = torch.arange(classes, dtype=z.dtype, device=z.device)
    bound = torch.ge(index, y[:, None].to(z.dtype), out=z.new_empty(batch, classes))
    bound.mul_(torch.finfo(z.dtype).tiny)
    gap = z - zy
    not_before = torch.lt(gap, bound[:, None], out=gap).sum(2)
    return classes - not_before, zy.squeeze(2)


def _softmax_sums(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """max z, P = Σe and ‖e‖ with e_k = exp(z_k − max z), each [B, C]; `z` is overwritten.

    They suffice for all statistics of the probabilities e/P, which are never formed: −log p_y is
    log P + max z − z_y, the confidence 1/P, and Σp² is (‖e‖/P)².
    """
    top = z.amax(2, keepdim=True)
    exponential = z.sub_(top).exp_()
    return top.squeeze(2), exponential.sum(2), torch.linalg.vector_norm(exponential, dim=2)


def _bin(partition: Tensor, bins: int) -> Tensor:
    """The equal-width bin (lo, hi] of each confidence 1/P: 1/P ≤ k/bins exactly where bins/P ≤ k.

    NaN falls anywhere, in sums of its own.
    """
    return (bins / partition).ceil_().long().sub_(1).clamp_(0, bins - 1)


def _finite(value: np.float64) -> float | None:
    return float(value) if np.isfinite(value) else None
