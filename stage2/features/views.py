"""Views of a bank as the engine takes them, in memory or streamed, within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from featbank.bank import Bank
from featbank.bank.checks import check_finite
from featbank.devices import torch_threads
from stage2.engine.model import ViewData
from stage2.engine.plan import FusedGroup, default_memory
from stage2.engine.pooled import HeldOut
from stage2.engine.rows import MemoryRows, SplitRows, StreamedRows
from stage2.engine.subset import fold_view
from stage2.features.folds import Folds
from stage2.features.probe import linear_probe, probed_views
from stage2.features.scale import Scaling, default_scale, measured, scaled, scaling_of
from stage2.methods.recipe import Recipe


class _Key(NamedTuple):
    """A view that is loaded: the split to train on, ``feature_scale``, its share of the memory, and
    whether it is to be cut into folds."""

    view: str
    split: str
    scale: str
    share: int
    folded: bool


class Views:
    """Loads the views of one group at a time, with their classifiers or linear probes.

    Parameters
    ----------
    bank
        An open bank.
    device, memory
        As for `load_view`; the views of a group share `memory`.
    workers
        CPU threads for linear probes.
    folds
        Folds of train, for groups that are trained on them.

    Attributes
    ----------
    probes
        The linear probes trained so far, by view: weight [K, D] and bias [K] for features as the
        bank has them. Recipes that scale features scale the probe with them.
    """

    def __init__(
        self,
        bank: Bank,
        device: str,
        memory: int | None,
        workers: int,
        folds: Folds | None = None,
    ) -> None:
        self._bank, self._device, self._workers = bank, device, workers
        self._memory = memory or default_memory(torch.device(device).type)
        self._folds = folds
        self._fold_probes: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._loaded: dict[_Key, ViewData] = {}
        self._finite: set[tuple[str, str]] = set()
        self._scaling = cache(partial(scaling_of, bank))
        self.probes: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare(self, recipes: Sequence[Recipe]) -> None:
        """Check the features that recipes use, and train the linear probes they start from.

        Raises
        ------
        NotFinite
            For features that are NaN or infinite, before any training.
        """
        probed = [v for v in probed_views(self._bank, recipes) if v not in self.probes]
        places = {(recipe.views, recipe.settings["train_on"]) for recipe in recipes}
        if len(places) > 1:  # a single one is checked as it is loaded
            self._finite |= check_features(self._bank, recipes)
        for view in probed:
            (data,) = self._views((view,), "train", "none")
            with torch_threads(self._workers):
                self.probes[view] = linear_probe(data)
            self._loaded.clear()  # views loaded from here on have the probe

    def of(self, group: FusedGroup) -> list[ViewData]:
        """The views of a group."""
        stream = group.stream
        return self._views(stream.views, stream.train_on, stream.feature_scale)

    def of_fold(self, group: FusedGroup, fold: int) -> list[ViewData]:
        """The views of a group as a fold sees them.

        A linear probe is one of the rows that the fold trains on: one of all rows would have seen
        those that are held out. In memory the scale is that of these rows too.
        """
        assert self._folds is not None
        stream = group.stream
        probed = probed_views(self._bank, group.recipes)
        for name in probed:
            self._probe_folds(name)
        watched = stream.generator is not None
        own_scale = self._fit_in_memory(stream.views)  # streamed ones are scaled as they are read
        loaded = "none" if own_scale else stream.feature_scale
        wholes = self._views(stream.views, "train", loaded, folded=True)
        views = []
        for name, whole in zip(stream.views, wholes, strict=True):
            data = self._cut(whole, fold, watched=watched)
            choice = stream.feature_scale or default_scale(self._bank, name)
            if own_scale:
                scaling = measured(choice, (x.cpu().numpy() for x, _ in data.train.blocks()))
                data = scaled(data, scaling) if scaling else data
            else:
                scaling = self._scaling(name, choice)
            if self._bank.classifier(name) is None:
                probe = self._fold_probes[name, fold] if name in probed else None
                data = _starting(data, scaling, probe)
            views.append(data)
        return views

    def _fit_in_memory(self, names: Sequence[str]) -> bool:
        """Whether all splits of views that are cut into folds fit in memory together."""
        share = self._memory // len(names)
        budgets = (
            view_budget(self._bank, name, device=self._device, memory=share, folded=True)
            for name in names
        )
        return all(budget is None for splits in budgets for budget in splits.values())

    def _probe_folds(self, view: str) -> None:
        """Train the linear probes of a view on the rows that each fold trains on, once."""
        assert self._folds is not None
        if (view, 0) in self._fold_probes:
            return
        (whole,) = self._views((view,), "train", "none", folded=True)
        for fold in range(self._folds.count):
            with torch_threads(self._workers):
                self._fold_probes[view, fold] = linear_probe(self._cut(whole, fold))

    def _cut(self, whole: ViewData, fold: int, *, watched: bool = False) -> ViewData:
        """A view as a fold sees it."""
        folds = self._folds
        assert folds is not None
        trained, held_out = (torch.from_numpy(f(fold)) for f in (folds.trained, folds.held_out))
        return fold_view(whole, folds.name, trained, held_out, watched=watched)

    def held_out(self) -> HeldOut:
        """The rows that the folds hold out."""
        folds = self._folds
        assert folds is not None
        rows = np.concatenate([folds.held_out(fold) for fold in range(folds.count)])
        return HeldOut(
            folds.name,
            torch.from_numpy(folds.labels[rows]).to(self._device),
            np.searchsorted(folds.rows, rows),
            self._bank.full_counts,
        )

    def _views(
        self, names: Sequence[str], split: str, scale: str | None, *, folded: bool = False
    ) -> list[ViewData]:
        """Load views that share the memory, and drop all others."""
        share = self._memory // len(names)
        wanted = [
            _Key(name, split, scale or default_scale(self._bank, name), share, folded)
            for name in names
        ]
        for key in self._loaded.keys() - set(wanted):
            del self._loaded[key]
        return [self._load(key) for key in wanted]

    def _load(self, key: _Key) -> ViewData:
        if key not in self._loaded:
            data = load_view(
                self._bank,
                key.view,
                self._device,
                memory=key.share,
                train_on=key.split,
                scaling=self._scaling(key.view, key.scale),
                finite=self._finite,
                folded=key.folded,
            )
            if probe := self.probes.get(key.view):
                data = _starting(data, self._scaling(key.view, key.scale), probe)
            self._loaded[key] = data
        return self._loaded[key]


def _starting(
    data: ViewData, scaling: Scaling | None, probe: tuple[Tensor, Tensor] | None
) -> ViewData:
    """A scaled view with a linear probe of features as they are, or without any."""
    weight, bias = (None, None) if probe is None else probe
    if scaling and probe is not None:
        weight, bias = scaling.classifier(*probe)
    return replace(data, weight0=weight, bias0=bias)


def load_view(
    bank: Bank,
    view: str,
    device: str = "cpu",
    *,
    memory: int | None = None,
    train_on: str = "train",
    scaling: Scaling | None = None,
    finite: set[tuple[str, str]] | None = None,
    folded: bool = False,
) -> ViewData:
    """A view of a bank for the engine: in memory where half of `memory` holds it, else streamed.

    Parameters
    ----------
    bank, view
        The features.
    device
        The device to train on.
    memory
        As for `sweep`.
    train_on
        The split that recipes are trained on.
    scaling
        The scaling of the features and, with them, of the stage-1 classifier.
    finite
        Splits and views whose features are known to be finite, so that streamed ones are checked
        only once; those of this view are added.
    folded
        Leave room for a copy of the training features, cut to a fold.

    Raises
    ------
    ConfigError
        Where the budget is too small to stream.
    NotFinite
        Where a feature is NaN or infinite, which checksums do not detect.
    """
    finite = set() if finite is None else finite
    rows: dict[str, SplitRows] = {}
    budgets = view_budget(
        bank, view, device=device, memory=memory, train_on=train_on, folded=folded
    )
    for split, budget in budgets.items():
        copies, _, dim = bank.shape(split, view)
        labels = torch.from_numpy(bank.labels(split)).to(device)
        if budget is None:
            x = torch.from_numpy(bank.load_copies(split, view)).view(-1, dim)
            if (split, view) not in finite and not _all_finite(x):
                _refuse_not_finite(bank, split, view)
            x = x.to(device)
            rows[split] = MemoryRows(
                scaling.apply_(x) if scaling else x, labels.repeat(copies), copies=copies
            )
        else:
            features = BankFeatures(bank, split, view, scaling)
            rows[split] = StreamedRows(features, labels, budget=budget)
            if (split, view) not in finite:
                _refuse_not_finite(bank, split, view)
        finite.add((split, view))
    train = rows.pop(train_on)
    left = half_of(memory, torch.device(device).type) - sum(
        view_bytes(bank, split, view) * (1 + (folded and split == train_on))
        for split, budget in budgets.items()
        if budget is None
    )
    classifier = bank.classifier(view)
    weight, bias = (None, None) if classifier is None else map(torch.from_numpy, classifier)
    if scaling and weight is not None and bias is not None:
        weight, bias = scaling.classifier(weight, bias)
    return ViewData(
        train=train,
        evaluated=rows,
        counts=class_counts(bank, train_on),
        keeps_z0=4 * len(train.labels) * bank.num_classes <= left,
        full_counts=bank.full_counts,
        weight0=None if weight is None else weight.to(device),
        bias0=None if bias is None else bias.to(device),
    )


def _all_finite(x: Tensor) -> bool:
    """Whether all of `x` is finite, without allocating a mask of its size."""
    return not x.numel() or all(math.isfinite(end) for end in map(float, x.aminmax()))


def _refuse_not_finite(bank: Bank, split: str, view: str) -> None:
    """Read the features of a split and view; raise at the first that is not finite."""
    for copy in range(bank.copies(split, view)):
        name = f"{bank.path}: {split}/{view}, copy {copy}"
        for start, block in bank.blocks(split, view, copy=copy):
            if not _all_finite(torch.from_numpy(block)):
                check_finite(block, name, first_row=start)


def check_features(bank: Bank, recipes: Sequence[Recipe]) -> set[tuple[str, str]]:
    """Check all features that recipes are to be trained and measured on.

    Returns
    -------
    Their splits and views.

    Raises
    ------
    NotFinite
        Where one is NaN or infinite.
    """
    used: dict[tuple[str, str], None] = {}
    for recipe in recipes:
        for split in (*bank.evaluated, recipe.settings["train_on"]):
            used |= {(split, view): None for view in recipe.views}
    for split, view in used:
        _refuse_not_finite(bank, split, view)
    return set(used)


def class_counts(bank: Bank, split: str) -> np.ndarray:
    """Rows of each class of a split [K], float64."""
    return np.bincount(bank.labels(split), minlength=bank.num_classes).astype(np.float64)


def view_budget(
    bank: Bank,
    view: str,
    *,
    device: str = "cpu",
    memory: int | None = None,
    train_on: str = "train",
    folded: bool = False,
) -> dict[str, int | None]:
    """Bytes of features that each split of a view may hold in memory; None where all of them fit.

    Half of `memory` is for features. The other splits together get at most a quarter of that half;
    training, which rereads its features every epoch, gets the rest. `folded` training features
    fit where a copy of them, cut to a fold, does so as well.
    """
    left = half_of(memory, torch.device(device).type)
    spare = left // 4
    budgets: dict[str, int | None] = {}
    for split in (*bank.evaluated, train_on):
        size = view_bytes(bank, split, view) * (1 + (folded and split == train_on))
        fits = size <= (left if split == train_on else spare)
        budgets[split] = None if fits else left
        if fits:
            left, spare = left - size, spare - size
    return budgets


def view_bytes(bank: Bank, split: str, view: str) -> int:
    """Bytes that the features of a split and view, all copies, take as float32."""
    return 4 * math.prod(bank.shape(split, view))


def half_of(memory: int | None, kind: str) -> int:
    """Half of the budget in bytes: one half is for features, the other for a fused group."""
    return (memory or default_memory(kind)) // 2


class BankFeatures:
    """The features of a split and view, scaled, as `StreamedRows` reads them."""

    def __init__(self, bank: Bank, split: str, view: str, scaling: Scaling | None = None) -> None:
        self._bank, self._place, self._scaling = bank, (split, view), scaling
        self.shape = bank.shape(split, view)
        self.chunk_rows = bank.chunk_rows(split, view)
        self.dtype = "float32" if scaling else bank.dtype

    def read(self, copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """The rows `start` … `stop` − 1 of a copy."""
        if self._scaling is None:
            return self._bank.read(*self._place, start, stop, copy=copy, out=out)
        if out is None:
            out = np.empty((stop - start, self.shape[2]), np.float32)
        if self._bank.dtype == self.dtype:
            self._bank.read(*self._place, start, stop, copy=copy, out=out)
        else:
            out[:] = self._bank.read(*self._place, start, stop, copy=copy)
        self._scaling.apply_(torch.from_numpy(out))
        return out
