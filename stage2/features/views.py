"""Views of a bank as the engine takes them, in memory or streamed, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch

from featbank.bank import Bank
from stage2.engine.model import ViewData
from stage2.engine.plan import FusedGroup, default_memory
from stage2.engine.pooled import HeldOut
from stage2.engine.subset import fold_view
from stage2.features.budgets import packable, view_budget
from stage2.features.finite import check_features
from stage2.features.folds import Folds
from stage2.features.loading import load_view, starts_of
from stage2.features.probe import (
    Classifier,
    Probe,
    on_unit,
    probe_for,
    probe_on_scaled,
    probes_of,
)
from stage2.features.probes import Kept, Probes
from stage2.features.scale import (
    Scaling,
    default_scale,
    measured,
    scaled,
    scaling_of,
)
from stage2.methods.recipe import Recipe


class _Key(NamedTuple):
    """A view that is loaded: the split to train on, ``feature_scale``, its share of the memory, and
    whether it is to be cut into folds, whether float16 may stay so, and what it has as its
    classifier in place of the bank's: a cosine probe, or text."""

    view: str
    split: str
    scale: str
    share: int
    folded: bool
    packs: bool
    cosine: Probe | None = None
    text: bool = False


class Views:
    """Loads the views of one group at a time, with their classifiers or probes.

    Parameters
    ----------
    bank
        An open bank.
    device, memory
        As for `load_view`; the views of a group share `memory`.
    workers, kept, notice
        As for `stage2.features.probes.Probes`.
    folds
        Folds of train, for groups that are trained on them.

    Attributes
    ----------
    bank, device, workers, folds
        As given.
    memory
        The budget; where it is the default, that before features are loaded.
    given
        The budget as given, None for the default.
    """

    def __init__(
        self,
        bank: Bank,
        device: str,
        memory: int | None,
        workers: int,
        folds: Folds | None = None,
        *,
        kept: Kept | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.bank, self.device, self.workers, self.folds = bank, device, workers, folds
        self.given, self.memory = memory, memory or default_memory(device)
        self._loaded: dict[_Key, ViewData] = {}
        self._finite: set[tuple[str, str]] = set()
        self._scaling = cache(partial(scaling_of, bank))
        self._probe_for = cache(partial(probe_for, bank))
        self._packable = cache(partial(packable, bank, device=device))
        self._probes = Probes(bank, device, workers, folds, kept=kept, notice=notice)

    @property
    def probes(self) -> dict[Probe, Classifier]:
        """The probes of all rows so far: weight [K, D] and bias [K]. Linear ones are for features
        as the bank has them; recipes that scale features scale the probe with them."""
        return self._probes.whole

    @property
    def made(self) -> dict[str, Classifier]:
        """All probes so far, those of folds too, by the hash of their settings."""
        return self._probes.made

    def prepare_folds(self, group: FusedGroup) -> None:
        """Train the probes that the recipes of a group start from on each of its folds."""
        if probes_of(self.bank, group.recipes):
            for fold in range(len(group.folds)):
                self.of_fold(group, fold)

    def prepare(self, recipes: Sequence[Recipe]) -> None:
        """Check the features that recipes use, and train the probes they start from.

        Raises
        ------
        NotFinite
            For features that are NaN or infinite, before any training.
        """
        probes = [p for p in probes_of(self.bank, recipes) if p not in self.probes]
        places = {(recipe.views, recipe.settings["train_on"]) for recipe in recipes}
        if len(places) > 1:  # a single one is checked as it is loaded
            self._finite |= check_features(self.bank, recipes)
        for probe in sorted(probes, key=lambda probe: (probe.view, probe.feature_scale)):
            self._probes.on_all_rows(probe, partial(self._rows_of, probe))
        if probes:
            self._loaded.clear()  # views loaded from here on have the probes

    def _rows_of(self, probe: Probe, *, folded: bool = False) -> ViewData:
        """The view that a probe is trained on."""
        (data,) = self._views((probe.view,), "train", probe.feature_scale, folded=folded)
        return data

    def of(self, group: FusedGroup) -> list[ViewData]:
        """The views of a group."""
        stream = group.stream
        cosine = stream.cosine_scale
        generates = stream.generator is not None
        return self._views(
            stream.views,
            stream.train_on,
            stream.feature_scale,
            cosine=cosine,
            generates=generates,
            text=stream.from_text,
        )

    def of_fold(self, group: FusedGroup, fold: int) -> list[ViewData]:
        """The views of a group as a fold sees them.

        A probe is one of the rows that the fold trains on: one of all rows would have seen those
        that are held out. In memory the scale is that of these rows too.
        """
        assert self.folds is not None
        stream = group.stream
        linear = [p for p in probes_of(self.bank, group.recipes) if p.scale is None]
        starts = {probe.view: self._linear_on_folds(probe)[fold] for probe in linear}
        watched = stream.generator is not None
        own_scale = self._fit_in_memory(stream.views)  # streamed ones are scaled as they are read
        loaded = "none" if own_scale else stream.feature_scale
        wholes = self._views(stream.views, "train", loaded, folded=True, generates=watched)
        views = []
        for name, whole in zip(stream.views, wholes, strict=True):
            data = self._cut(whole, fold, watched=watched)
            choice = stream.feature_scale or default_scale(self.bank, name)
            if own_scale:
                rows = (x.cpu().numpy() for x, _ in data.train.blocks())
                scaling = measured(choice, rows, data.tokens or 1)
                data = scaled(data, scaling) if scaling else data
                _, text = starts_of(self.bank, name, scaling, self.device)
                data = replace(data, text=text)
            else:
                scaling = self._scaling(name, choice)
            cosine = self._cosine(name, stream.cosine_scale, stream.feature_scale)
            if cosine:
                on = "fold" if own_scale else "train"
                data = on_unit(data, self._probes.on_fold(cosine, fold, partial(replace, data), on))
            elif stream.from_text:
                data = _from_text(data)
            elif self._probe_for(name, None, choice):
                data = _starting(data, starts.get(name), scaling)
            views.append(data)
        return views

    def _fit_in_memory(self, names: Sequence[str]) -> bool:
        """Whether all splits of views that are cut into folds fit in memory together."""
        share = self.memory // len(names)
        budgets = (
            view_budget(self.bank, name, device=self.device, memory=share, folded=True)
            for name in names
        )
        return all(budget is None for splits in budgets for budget in splits.values())

    def _linear_on_folds(self, probe: Probe) -> list[Classifier]:
        """A linear probe of the rows that each fold trains on."""
        assert self.folds is not None

        def rows(fold: int) -> ViewData:
            return self._cut(self._rows_of(probe, folded=True), fold)

        folds = range(self.folds.count)
        return [self._probes.on_fold(probe, each, partial(rows, each), "") for each in folds]

    def _cosine(self, view: str, scale: float | None, feature_scale: str | None) -> Probe | None:
        """The cosine probe of recipes on a view, where they have one."""
        return None if scale is None else self._probe_for(view, scale, feature_scale)

    def _cut(self, whole: ViewData, fold: int, *, watched: bool = False) -> ViewData:
        """A view as a fold sees it."""
        folds = self.folds
        assert folds is not None
        trained, held_out = (torch.from_numpy(f(fold)) for f in (folds.trained, folds.held_out))
        return fold_view(whole, folds.name, trained, held_out, watched=watched)

    def held_out(self) -> HeldOut:
        """The rows that the folds hold out."""
        folds = self.folds
        assert folds is not None
        rows = np.concatenate([folds.held_out(fold) for fold in range(folds.count)])
        return HeldOut(
            folds.name,
            torch.from_numpy(folds.labels[rows]).to(self.device),
            np.searchsorted(folds.rows, rows),
            self.bank.full_counts,
            self.bank.class_groups.masks,
        )

    def _views(
        self,
        names: Sequence[str],
        split: str,
        scale: str | None,
        *,
        folded: bool = False,
        generates: bool = False,
        cosine: float | None = None,
        text: bool = False,
    ) -> list[ViewData]:
        """Load views that share the memory, and drop all others. Generators take float32."""
        share = self.memory // len(names)
        wanted = [
            _Key(
                name,
                split,
                scale or default_scale(self.bank, name),
                share,
                folded,
                packs=not generates and self._packable(split, name, memory=share),
            )
            for name in names
        ]
        keys = [
            key._replace(cosine=self._cosine(key.view, cosine, key.scale), text=text)
            for key in wanted
        ]
        for key in self._loaded.keys() - {*wanted, *keys}:
            del self._loaded[key]
        return [self._load(key) for key in keys]

    def _load(self, key: _Key) -> ViewData:
        if key.cosine and key not in self._loaded:
            data = self._load(key._replace(cosine=None))
            self._loaded[key] = on_unit(data, self.probes[key.cosine])
        elif key.text and key not in self._loaded:
            self._loaded[key] = _from_text(self._load(key._replace(text=False)))
        elif key not in self._loaded:
            data = load_view(
                self.bank,
                key.view,
                self.device,
                memory=key.share,
                train_on=key.split,
                scaling=self._scaling(key.view, key.scale),
                finite=self._finite,
                folded=key.folded,
                packs=key.packs,
            )
            start = self._probe_for(key.view, None, key.scale)
            if probe := self.probes.get(start) if start else None:
                data = _starting(data, probe, self._scaling(key.view, key.scale))
            self._loaded[key] = data
        return self._loaded[key]


def _from_text(data: ViewData) -> ViewData:
    """A view that starts from the classifier of its text."""
    assert data.text is not None  # of recipes that are checked
    weight = data.text.weight
    return replace(data, weight0=weight, bias0=weight.new_zeros(len(weight)), unit0=False)


def _starting(data: ViewData, probe: Classifier | None, scaling: Scaling | None) -> ViewData:
    """A scaled view that starts from a linear probe, or from no classifier."""
    weight, bias = (None, None) if probe is None else probe_on_scaled(probe, scaling)
    return replace(data, weight0=weight, bias0=bias)
