"""Verifying a bank: one run lists everything that is wrong with it.

Opening a bank checks its structure. `verify` adds what only the content can tell: checksums,
digests, finite values, labels, indices, and whether the splits are apart.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from featbank import errors
from featbank.bank import checks
from featbank.bank.agreement import NEAR_CHANCE, Agreement, agreement
from featbank.bank.classes import class_counts
from featbank.bank.content import Content, Progress, read_content
from featbank.bank.file import Bank
from featbank.bank.fingerprint import fingerprint
from featbank.bank.schema import EVALUATED
from featbank.wording import listed, number

STATUSES = ("ok", "note", "failed", "skipped")
"""A note is worth knowing and no defect; a check is skipped where its data cannot be read."""


@dataclass(frozen=True)
class Check:
    """What was checked, with figures, and what was found.

    `status` is one of `STATUSES`; `found` has a sentence for each defect or note. `figures` are
    measurements in `detail` to show beside whatever was found.
    """

    name: str
    status: str
    detail: str
    found: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


def verify(path: str | os.PathLike[str], *, progress: Progress | None = None) -> list[Check]:
    """Check all of a bank, in bounded memory (`featbank.bank.content.read_content`).

    Parameters
    ----------
    path
        The bank.
    progress
        Takes (MiB read, MiB in all).

    Returns
    -------
    The checks, in a fixed order. Where the bank cannot be opened, ``structure`` alone, failed.

    Raises
    ------
    NotABank
        Where there is no bank to check.
    """
    try:
        bank = Bank(path)
    except errors.NotABank:
        raise
    except errors.BankError as error:
        return [Check("structure", "failed", "opening the bank", (str(error),))]
    with bank:
        content = read_content(bank, progress or (lambda done, total: None))
        return [check(bank, content) for check in _CHECKS]


def _structure(bank: Bank, content: Content) -> Check:
    return Check(
        "structure",
        "ok",
        f"{len(bank.datasets)} datasets; splits {', '.join(bank.splits)}; views "
        f"{', '.join(bank.views)}; K = {bank.num_classes}, D = {bank.dim}",
    )


def _checksums(bank: Bank, content: Content) -> Check:
    rate = content.size / 1e6 / max(content.seconds, 1e-9)
    detail = f"{content.size / 2**20:.1f} MiB read in {content.seconds:.2f} s ({rate:.0f} MB/s)"
    return _judged("checksums", detail, itertools.chain.from_iterable(content.damaged.values()))


def _digests(bank: Bank, content: Content) -> Check:
    found = []
    for name, digest in sorted(content.digests.items()):
        stored = _stored_digest(bank, name)
        if stored != digest:
            told = f"its attribute sha256 is {stored[:12]}…" if stored else "it has no sha256"
            found.append(f"{name}: {told}, its content's is {digest[:12]}…")
    detail = f"SHA-256 of {len(content.digests)} datasets"
    return _judged("digests", detail, found, unread=content.damaged)


def _fingerprint(bank: Bank, content: Content) -> Check:
    """From the stored digests: together with `_digests` it vouches for the content."""
    names = [name for name in bank.datasets if name != "provenance"]
    digests = {name: _stored_digest(bank, name) or content.digests.get(name, "") for name in names}
    right, found = fingerprint(digests), []
    if right != bank.fingerprint:
        found = [f"it is {bank.fingerprint[:12]}…, the datasets' digests give {right[:12]}…"]
    return _judged("fingerprint", f"{bank.fingerprint[:12]}…, of {len(names)} digests", found)


def _features(bank: Bank, content: Content) -> Check:
    places = list(itertools.product(bank.splits, bank.views))
    rows = sum(math.prod(bank.shape(*place)[:2]) for place in places)
    names = [f"{split}/{view}/feature" for split, view in places]
    return _values("features", f"{rows:,} rows of all views and copies", names, content)


def _labels(bank: Bank, content: Content) -> Check:
    rows = sum(map(bank.rows, bank.splits))
    names = [f"{split}/label" for split in bank.splits]
    found: list[str] = []
    for name in names:
        if name in content.columns:
            labels, split = content.columns[name], name.split("/")[0]
            found += _complaint(checks.checked_labels, labels, split, bank.num_classes)
    detail = f"{rows:,} rows, each in 0…{bank.num_classes - 1}"
    return _judged("labels", detail, found, unread=set(names).difference(content.columns))


def _train_count(bank: Bank, content: Content) -> Check:
    detail = f"{bank.num_classes} classes, {bank.train_counts.sum():,} samples"
    if "train/label" not in content.columns:
        return _judged("train_count", detail, (), unread=["train/label"])
    right = class_counts(_valid(content.columns["train/label"], bank), bank.num_classes)
    wrong = np.flatnonzero(right != bank.train_counts)
    found = [
        f"class {k} has {right[k]} rows in train, classes/train_count says {bank.train_counts[k]} "
        f"({number(wrong.size, 'such class', 'such classes')})"
        for k in wrong[:1]
    ]
    return _judged("train_count", detail, found)


def _index(bank: Bank, content: Content) -> Check:
    names = [f"{split}/index" for split in bank.splits]
    found: list[str] = []
    for name in names:
        if name in content.columns:
            found += _complaint(checks.checked_index, content.columns[name], name.split("/")[0])
    detail = "source rows, none negative, each once in its split"
    return _judged("index", detail, found, unread=set(names).difference(content.columns))


def _splits(bank: Bank, content: Content) -> Check:
    index = {
        split: content.columns[name]
        for split in bank.splits
        if (name := f"{split}/index") in content.columns
    }
    sources = {split: bank.source(split) for split in bank.splits}
    found: list[str] = []
    for one, other in checks.apart(index):
        pair = {split: index[split] for split in (one, other)}
        found += _complaint(checks.check_disjoint, pair, sources)
    told = ", ".join(f"{split} of {source!r}" for split, source in sources.items())
    unread = [f"{split}/index" for split in bank.splits if split not in index]
    return _judged("splits", f"source rows apart: {told}", found, unread=unread)


def _paths(bank: Bank, content: Content) -> Check:
    named = [split for split in bank.splits if f"{split}/path" in bank.datasets]
    names = [f"{split}/path" for split in named]
    found = _bad_values(names, content)
    for one, other in checks.apart(content.paths):
        shared = np.flatnonzero(np.isin(content.paths[other], content.paths[one]))
        if shared.size:
            place = (slice(shared[0], shared[0] + 1),)
            text = bank.at(f"{other}/path", place)[0].decode(errors="replace")
            count = number(shared.size, "path")
            found.append(f"{one} and {other} share {count}, such as {text!r}")
    detail = f"of {', '.join(named)}, none in two splits" if named else "none stored"
    return _judged("paths", detail, found, unread=set(names).intersection(content.damaged))


def _classes(bank: Bank, content: Content) -> Check:
    there = {
        split: set(np.unique(_valid(content.columns[name], bank)).tolist())
        for split in bank.splits
        if (name := f"{split}/label") in content.columns
    }
    unread = [f"{split}/label" for split in bank.splits if split not in there]
    train = there.pop("train", set())
    found = []
    for split, classes in there.items() if "train/label" not in unread else ():
        if more := classes - train:
            found.append(f"{split} has {_named(more)} without a sample in train")
        if fewer := train - classes:
            found.append(f"{split} has no row of {_named(fewer)} of train")
    detail = f"{len(train)} of {bank.num_classes} have samples in train, the same in every split"
    return _judged("classes", detail, found, unread=unread, otherwise="note")


def _classifier(bank: Bank, content: Content) -> Check:
    names = [name for name in bank.datasets if name.startswith("classifier/")]
    detail = f"weights and biases of {', '.join(bank.classifiers)}" if names else "none stored"
    check = _values("classifier", detail, names, content)
    if not names or check.status != "ok":
        return check
    fits = {view: fit for view in bank.views if (fit := _agreement(bank, view, content))}
    figures = tuple(f"{view}: {fit}" for view, fit in fits.items())
    found = [f"{view}: {NEAR_CHANCE}" for view, fit in fits.items() if fit.near_chance]
    judged = _judged("classifier", "; ".join([detail, *figures]), found, otherwise="note")
    return replace(judged, figures=figures)


def _agreement(bank: Bank, view: str, content: Content) -> Agreement | None:
    """How often the classifier of a view is right on train, where all it needs is sound."""
    name, labels = f"train/{view}/feature", content.columns.get("train/label")
    stored = bank.classifier(view)
    unsound = name in content.damaged or any(bad == name for bad, _ in content.bad_rows)
    if stored is None or labels is None or unsound or len(_valid(labels, bank)) < len(labels):
        return None
    weight, bias = stored

    def read(start: int, stop: int) -> np.ndarray:
        return bank.read("train", view, start, stop)

    return agreement(read, labels, weight, bias, name=name)


def _batchnorm(bank: Bank, content: Content) -> Check:
    names = [name for name in bank.datasets if name.startswith("batchnorm/")]
    detail = f"{len(names) // 2} layers, no variance negative" if names else "none stored"
    return _values("batchnorm", detail, names, content)


def _repeats(bank: Bank, content: Content) -> Check:
    found = [
        f"{name}: {number(rows.size, 'row')} with the features of a row of train, first {rows[0]}"
        for name, rows in content.repeats.items()
        if rows.size
    ]
    evaluated = [split for split in EVALUATED if split in bank.splits]
    detail = f"no features of {' and '.join(evaluated)} in train" if evaluated else "only train"
    return _judged("repeats", detail, found, otherwise="note")


_CHECKS = (
    _structure,
    _checksums,
    _digests,
    _fingerprint,
    _features,
    _labels,
    _train_count,
    _index,
    _splits,
    _paths,
    _classes,
    _classifier,
    _batchnorm,
    _repeats,
)


def _judged(
    name: str,
    detail: str,
    found: Iterable[str],
    *,
    unread: Iterable[str] = (),
    otherwise: str = "failed",
) -> Check:
    """A check that found something is `otherwise`, else one that lacks data is skipped."""
    found, unread = tuple(found), sorted(unread)
    if not found and unread:
        return Check(name, "skipped", detail, (f"{', '.join(unread)} could not be read whole",))
    return Check(name, otherwise if found else "ok", detail, found)


def _values(name: str, detail: str, datasets: list[str], content: Content) -> Check:
    unread = set(datasets).intersection(content.damaged)
    return _judged(name, detail, _bad_values(datasets, content), unread=unread)


def _bad_values(datasets: list[str], content: Content) -> list[str]:
    """A sentence for each dataset and copy with wrong values."""
    return [
        f"{name}{f', copy {copy}' if name.endswith('/feature') else ''}: "
        f"{number(bad.count, 'row')} {bad.what}, first {bad.first}"
        for (name, copy), bad in sorted(content.bad_rows.items())
        if name in datasets
    ]


def _complaint(check: Callable[..., object], *arguments: object) -> list[str]:
    """The fact that a check of the writer complains about, if it does."""
    try:
        check(*arguments)
    except errors.DataError as error:
        return [str(error).split(". ")[0]]
    return []


def _valid(labels: np.ndarray, bank: Bank) -> np.ndarray:
    return labels[(labels >= 0) & (labels < bank.num_classes)]


def _stored_digest(bank: Bank, name: str) -> str | None:
    try:
        return bank.digest(name)
    except (errors.Corrupt, UnicodeDecodeError):
        return None


def _named(classes: set[int]) -> str:
    return f"{number(len(classes), 'class', 'classes')} ({listed(sorted(classes), 5)})"
