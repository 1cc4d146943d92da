"""A view of a bank as the engine takes it, in memory or streamed, within a budget."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from featbank.bank import Bank
from featbank.bank.source_groups import source_units
from stage2.engine.model import ViewData
from stage2.engine.rows import SplitRows
from stage2.engine.streamed import StreamedRows
from stage2.features.budgets import half_of, packable, view_budget, view_bytes
from stage2.features.finite import all_finite, refuse_not_finite
from stage2.features.parts import parts_of
from stage2.features.probe import Classifier
from stage2.features.scale import Scaling, scaled_rows
from stage2.methods.class_facts import ClassFacts
from stage2.methods.heads import TextClassifier
from stage2.methods.recipe_settings import PUBLISHED_NORM


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
    packs: bool = False,
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
    packs
        Keep `packable` features float16 in memory.

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
            stays = packs and packable(bank, split, view, device=device, memory=memory)
            kept = bank.dtype_of(view) if stays else "float32"
            x = torch.from_numpy(bank.load_copies(split, view, dtype=kept)).view(-1, dim)
            if (split, view) not in finite and not all_finite(x):
                refuse_not_finite(bank, split, view)
            rows[split] = scaled_rows(x.to(device), labels.repeat(copies), copies, scaling)
        else:
            features = BankFeatures(bank, split, view, scaling)
            rows[split] = StreamedRows(features, labels, budget=budget)
            if (split, view) not in finite:
                refuse_not_finite(bank, split, view)
        finite.add((split, view))
    train = rows.pop(train_on)
    left = half_of(memory, device) - sum(
        view_bytes(bank, split, view) * (1 + (folded and split == train_on))
        for split, budget in budgets.items()
        if budget is None
    )
    classifier, text = starts_of(bank, view, scaling, device)
    weight, bias = classifier or (None, None)
    return ViewData(
        train=train,
        evaluated=rows,
        counts=class_counts(bank, train_on),
        keeps_z0=4 * len(train.labels) * bank.num_classes <= left,
        full_counts=bank.full_counts,
        weight0=weight,
        bias0=bias,
        text=text,
        tokens=bank.tokens(view),
        facts=facts_of(bank, train_on),
        parts={
            split: torch.from_numpy(parts.part).to(device)
            for split in rows
            if (parts := parts_of(bank, split)) is not None
        },
        val_groups=source_units(bank.source_groups("val")) if "val" in rows else None,
    )


def starts_of(
    bank: Bank, view: str, scaling: Scaling | None, device: str | torch.device = "cpu"
) -> tuple[Classifier | None, TextClassifier | None]:
    """The classifiers of a bank that recipes may start from on scaled features: that of stage 1,
    unless rows have one length, and that of the text where they have."""
    if scaling and scaling.unit:
        return None, text_of(bank, view, device)
    if (classifier := bank.classifier(view)) is None:
        return None, None
    weight, bias = map(torch.from_numpy, classifier)
    weight, bias = scaling.classifier(weight, bias) if scaling else (weight, bias)
    return (weight.to(device), bias.to(device)), None


def text_of(bank: Bank, view: str, device: str | torch.device = "cpu") -> TextClassifier | None:
    """The classifier that the text of a view makes for rows of length `PUBLISHED_NORM`, if it has
    text."""
    if (text := bank.text(view)) is None:
        return None
    prompts = normalize(torch.from_numpy(text.features).double(), dim=2)
    weight = normalize(prompts.mean(0), dim=1) * (text.logit_scale / PUBLISHED_NORM)
    return TextClassifier(weight.float().to(device), text.logit_scale)


def class_counts(bank: Bank, split: str) -> np.ndarray:
    """Rows of each class of a split [K], float64."""
    return np.bincount(bank.labels(split), minlength=bank.num_classes).astype(np.float64)


def facts_of(bank: Bank, split: str) -> ClassFacts:
    """The facts about classes that a bank states, for recipes that learn from a split.

    Counts from outside are of the data that train is a sample of: another split has its rows alone.
    """
    outside, background = bank.outside_counts, bank.background
    own = outside is not None or bank.class_fact("class_groups") is not None
    return ClassFacts(
        outside=outside if split == "train" else None,
        background=background,
        groups=bank.class_groups if own else None,
    )


class BankFeatures:
    """The features of a split and view, scaled, as `StreamedRows` reads them."""

    def __init__(self, bank: Bank, split: str, view: str, scaling: Scaling | None = None) -> None:
        self._bank, self._place, self._scaling = bank, (split, view), scaling
        copies, rows, dim = bank.shape(split, view)
        self.shape = copies, rows, dim
        self.chunk_rows = bank.chunk_rows(split, view)
        self.dtype = "float32" if scaling else bank.dtype_of(view)

    def read(self, copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """The rows `start` … `stop` − 1 of a copy."""
        if self._scaling is None:
            return self._bank.read(*self._place, start, stop, copy=copy, out=out)
        if out is None:
            out = np.empty((stop - start, self.shape[2]), np.float32)
        if self._bank.dtype_of(self._place[1]) == self.dtype:
            self._bank.read(*self._place, start, stop, copy=copy, out=out)
        else:
            out[:] = self._bank.read(*self._place, start, stop, copy=copy)
        self._scaling.apply_(torch.from_numpy(out))
        return out
