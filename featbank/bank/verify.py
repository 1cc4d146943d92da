"""Verifying a bank: one run lists all its defects.

Opening a bank checks its structure. `verify` checks the content as well: checksums, digests, finite
values, labels, indices, and that the splits are apart.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace
from functools import partial

import numpy as np

from featbank import errors
from featbank.bank import checks
from featbank.bank.agreement import NEAR_CHANCE, Agreement, agreement
from featbank.bank.blocks import Progress
from featbank.bank.class_table import CLASS_FACTS
from featbank.bank.classes import class_counts
from featbank.bank.composed import Bank
from featbank.bank.content import Content, read_content
from featbank.bank.fingerprint import fingerprint
from featbank.bank.judged import Check, bad_values, by_split, complaint, complaints, judged, values
from featbank.bank.schema import CLASS_GROUP, EVALUATED, GROUP_NAMES, PLACES
from featbank.bank.source_groups import shared_groups, sizes_text
from featbank.wording import listed, number

NORM_ERROR = 1e-6
"""Relative error of a stored norm, which is float32."""


def verify(path: str | os.PathLike[str], *, progress: Progress | None = None) -> list[Check]:
    """Check all of a bank, in bounded memory (`featbank.bank.content.read_content`).

    Parameters
    ----------
    path
        The bank.
    progress
        Called with (MiB read, MiB in all).

    Returns
    -------
    The checks, in a fixed order. If the bank cannot be opened, ``structure`` alone, failed.

    Raises
    ------
    NotABank
        If there is no bank to check.
    """
    try:
        bank = Bank(path)
    except errors.NotABank:
        raise
    except errors.BankError as error:
        return [Check("structure", "failed", "opening the bank", (str(error),))]
    with bank:
        content = read_content(bank, progress)
        return [check(bank, content) for check in _CHECKS]


def _structure(bank: Bank, content: Content) -> Check:
    return Check(
        "structure",
        "ok",
        f"{len(bank.datasets)} datasets; splits {', '.join(bank.splits)}; views "
        f"{', '.join(bank.views)}; K = {bank.num_classes}, {_sizes(bank)}",
    )


def _sizes(bank: Bank) -> str:
    """``D = 64``, or the sizes of each view where they differ."""
    of_row = {view: bank.shape("train", view)[2:] for view in bank.views}
    if set(of_row.values()) == {(bank.dim,)}:
        return f"D = {bank.dim}"
    return ", ".join(f"{view} {' × '.join(map(str, sizes))}" for view, sizes in of_row.items())


def _checksums(bank: Bank, content: Content) -> Check:
    rate = content.size / 1e6 / max(content.seconds, 1e-9)
    detail = f"{content.size / 2**20:.1f} MiB read in {content.seconds:.2f} s ({rate:.0f} MB/s)"
    return judged("checksums", detail, itertools.chain.from_iterable(content.damaged.values()))


def _digests(bank: Bank, content: Content) -> Check:
    findings = []
    for name, digest in sorted(content.digests.items()):
        stored = _stored_digest(bank, name)
        if stored != digest:
            attribute = f"its attribute sha256 is {stored[:12]}…" if stored else "it has no sha256"
            findings.append(f"{name}: {attribute}, its content's is {digest[:12]}…")
    detail = f"SHA-256 of {len(content.digests)} datasets"
    return judged("digests", detail, findings, unread=content.damaged)


def _fingerprint(bank: Bank, content: Content) -> Check:
    """Check the fingerprint against the stored digests, which `_digests` checks."""
    names = [name for name in bank.datasets if name != "provenance"]
    digests = {name: _stored_digest(bank, name) or content.digests.get(name, "") for name in names}
    detail, right = f"{bank.fingerprint[:12]}…, of {len(names)} digests", fingerprint(digests)
    wrong = f"it is {bank.fingerprint[:12]}…, the datasets' digests give {right[:12]}…"
    return judged("fingerprint", detail, [wrong] if right != bank.fingerprint else [])


def _features(bank: Bank, content: Content) -> Check:
    places = list(itertools.product(bank.splits, bank.views))
    rows = sum(math.prod(bank.shape(*place)[:2]) for place in places)
    names = [f"{split}/{view}/feature" for split, view in places]
    return values("features", f"{rows:,} rows of all views and copies", names, content)


def _labels(bank: Bank, content: Content) -> Check:
    rows = sum(map(bank.rows, bank.splits))
    detail = f"{rows:,} rows, each in 0…{bank.num_classes - 1}"
    check = partial(checks.checked_labels, num_classes=bank.num_classes)
    findings, unread = complaints(check, "label", bank, content)
    of_maps = [f"maps/{split}/label" for split in bank.mapped]
    unread += [name for name in of_maps if name in content.damaged]
    for split, maps in bank.mapped.items() if not unread else ():
        findings += complaint(maps.check_labels)
        detail += f"; {number(len(maps), 'map')} of {split}"
    return judged("labels", detail, findings, unread=unread)


def _index(bank: Bank, content: Content) -> Check:
    findings, unread = complaints(checks.checked_index, "index", bank, content)
    detail = "source rows, none negative, each once in its split"
    return judged("index", detail, findings, unread=unread)


def _train_count(bank: Bank, content: Content) -> Check:
    detail = f"{bank.num_classes} classes, {bank.train_counts.sum():,} samples"
    if "train/label" not in content.columns:
        return judged("train_count", detail, (), unread=["train/label"])
    right = class_counts(_valid(content.columns["train/label"], bank), bank.num_classes)
    wrong = np.flatnonzero(right != bank.train_counts)
    findings = [
        f"class {k} has {right[k]} rows in train, classes/train_count says {bank.train_counts[k]} "
        f"({number(wrong.size, 'such class', 'such classes')})"
        for k in wrong[:1]
    ]
    return judged("train_count", detail, findings)


def _splits(bank: Bank, content: Content) -> Check:
    index, unread = by_split("index", bank, content)
    sources = {split: bank.source(split) for split in bank.splits}
    findings: list[str] = []
    for one, other in checks.apart(index):
        pair = {split: index[split] for split in (one, other)}
        findings += complaint(checks.check_disjoint, pair, sources)
    detail = ", ".join(f"{split} of {source!r}" for split, source in sources.items())
    return judged("splits", f"source rows apart: {detail}", findings, unread=unread)


def _paths(bank: Bank, content: Content) -> Check:
    paths, unread = by_split("path", bank, content)
    names = [f"{split}/path" for split in bank.splits if f"{split}/path" in bank.datasets]
    findings = bad_values(names, content)
    for one, other in checks.apart(paths):
        shared = np.flatnonzero(np.isin(paths[other], paths[one]))
        if shared.size:
            place = (slice(shared[0], shared[0] + 1),)
            text = bank.at(f"{other}/path", place)[0].decode(errors="replace")
            count = number(shared.size, "path")
            findings.append(f"{one} and {other} share {count}, such as {text!r}")
    splits = ", ".join(name.removesuffix("/path") for name in names)
    detail = f"of {splits}, none in two splits" if names else "none stored"
    return judged("paths", detail, findings, unread=unread)


def _source_groups(bank: Bank, content: Content) -> Check:
    """Check source groups, their names, and cells; groups that stand in two splits are a note."""
    groups, unread = by_split("source_group", bank, content)
    names = [f"{split}/{name}" for split in bank.splits for name in PLACES]
    names = [name for name in names if name in bank.datasets]
    unread += [name for name in names if name.endswith("/cell") and name in content.damaged]
    unread += [GROUP_NAMES] if GROUP_NAMES in content.damaged else []
    detail = ", ".join(f"{split} {sizes_text(of)}" for split, of in groups.items())
    if wrong := bad_values([*names, GROUP_NAMES], content):
        return judged("sources", detail, wrong, unread=unread)
    named = None if GROUP_NAMES in content.damaged else bank.source_group_names
    for split, maps in bank.mapped.items():
        groups[split] = np.union1d(groups.get(split, maps.images), maps.images)
    last = max((int(of.max(initial=-1)) for of in groups.values()), default=-1)
    if named is not None and last >= len(named):
        wrong = [f"there is a source group {last}, {GROUP_NAMES} has {number(len(named), 'name')}"]
        return judged("sources", detail, wrong, unread=unread)
    shared = shared_groups(groups, named)
    return judged("sources", detail or "none stored", shared, unread=unread, otherwise="note")


def _class_table(bank: Bank, content: Content) -> Check:
    """Check counts from outside, background and groups of classes."""
    facts = ("full_count", "background", *CLASS_GROUP)
    names = [name for fact in facts if (name := f"classes/{fact}") in bank.datasets]
    unread = [name for name in names if name in content.damaged]
    findings = bad_values(names, content)
    if not findings and not unread:
        for fact in CLASS_FACTS:
            findings += complaint(bank.class_fact, fact)
    if not findings and not unread and bank.outside_counts is not None:
        none = np.flatnonzero((bank.outside_counts == 0) & (bank.train_counts > 0))
        findings += [f"classes/full_count is 0 for class {k}, which train has" for k in none[:1]]
    detail = ", ".join(name.removeprefix("classes/") for name in names) or "none stored"
    return judged("class facts", detail, findings, unread=unread)


def _classes(bank: Bank, content: Content) -> Check:
    labels, unread = by_split("label", bank, content)
    classes = {split: set(np.unique(_valid(y, bank)).tolist()) for split, y in labels.items()}
    train = classes.pop("train", set())
    findings = []
    for split, there in classes.items() if "train" in labels else ():
        if more := there - train:
            findings.append(f"{split} has {_named(more)} without a sample in train")
        if fewer := train - there:
            findings.append(f"{split} has no row of {_named(fewer)} of train")
    detail = f"{len(train)} of {bank.num_classes} have samples in train, the same in every split"
    return judged("classes", detail, findings, unread=unread, otherwise="note")


def _classifier(bank: Bank, content: Content) -> Check:
    names = [name for name in bank.datasets if name.startswith("classifier/")]
    detail = f"weights and biases of {', '.join(bank.classifiers)}" if names else "none stored"
    check = values("classifier", detail, names, content)
    if not names or check.status != "ok":
        return check
    fits = {view: fit for view in bank.views if (fit := _agreement(bank, view, content))}
    figures = tuple(f"{view}: {fit}" for view, fit in fits.items())
    findings = [f"{view}: {NEAR_CHANCE}" for view, fit in fits.items() if fit.near_chance]
    found = judged("classifier", "; ".join([detail, *figures]), findings, otherwise="note")
    return replace(found, figures=figures)


def _agreement(bank: Bank, view: str, content: Content) -> Agreement | None:
    """Accuracy of the classifier of a view on train, if all it needs is sound."""
    name, labels = f"train/{view}/feature", content.columns.get("train/label")
    stored = bank.classifier(view)
    unsound = name in content.damaged or any(bad == name for bad, _ in content.bad_rows)
    if (
        stored is None
        or labels is None
        or unsound
        or bank.tokens(view)
        or len(_valid(labels, bank)) < len(labels)
    ):
        return None
    return agreement(partial(bank.read, "train", view), labels, *stored, name=name)


def _batchnorm(bank: Bank, content: Content) -> Check:
    names = [name for name in bank.datasets if name.startswith("batchnorm/")]
    detail = f"{len(names) // 2} layers, no variance negative" if names else "none stored"
    return values("batchnorm", detail, names, content)


def _norm(bank: Bank, content: Content) -> Check:
    """Check stored norms of the training features, where both can be read and are finite."""
    views = [view for view in bank.views if f"scale/{view}/norm" in bank.datasets]
    names = [f"scale/{view}/norm" for view in views]
    needed = {*names, *(f"train/{view}/feature" for view in views)}
    findings, unread = bad_values(names, content), needed.intersection(content.damaged)
    for view in views if not (findings or unread) else ():
        rows = max(1, math.prod(bank.shape("train", view)[:-1]))
        stored, right = bank.norm(view), math.sqrt(content.squares.get(view, 0.0) / rows)
        if math.isfinite(right) and not math.isclose(stored or 0, right, rel_tol=NORM_ERROR):
            findings.append(f"{view}: the stored norm is {stored:.7g}, train has {right:.7g}")
    detail = f"of {', '.join(views)}" if views else "none stored"
    return judged("norm", detail, findings, unread=unread)


def _experts(bank: Bank, content: Content) -> Check:
    names = [name for name in bank.datasets if name.startswith("experts/")]
    detail = f"{number(len(names), 'weight')} > 0" if names else "none stored"
    return values("experts", detail, names, content)


def _text(bank: Bank, content: Content) -> Check:
    names = [name for name in bank.datasets if name.startswith("text/")]
    prompts = {view: bank.stored(f"text/{view}/feature")[1][0] for view in bank.texts}
    detail = ", ".join(f"{number(p, 'prompt')} for {view}" for view, p in prompts.items())
    return values("text", detail or "none stored", names, content)


def _scale(bank: Bank, content: Content) -> Check:
    names = [f"scale/{view}/default" for view in bank.views]
    names = [name for name in names if name in bank.datasets]
    detail = f"defaults of {number(len(names), 'view')}" if names else "none stored"
    return values("scale", detail, names, content)


def _repeats(bank: Bank, content: Content) -> Check:
    findings = [
        f"{name}: {number(rows.size, 'row')} with the features of a row of train, first {rows[0]}"
        for name, rows in content.repeats.items()
        if rows.size
    ]
    evaluated = [split for split in EVALUATED if split in bank.splits]
    detail = f"no features of {' and '.join(evaluated)} in train" if evaluated else "only train"
    return judged("repeats", detail, findings, otherwise="note")


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
    _source_groups,
    _classes,
    _class_table,
    _classifier,
    _batchnorm,
    _norm,
    _experts,
    _text,
    _scale,
    _repeats,
)


def _valid(labels: np.ndarray, bank: Bank) -> np.ndarray:
    return labels[(labels >= 0) & (labels < bank.num_classes)]


def _stored_digest(bank: Bank, name: str) -> str | None:
    try:
        return bank.digest(name)
    except (errors.Corrupt, UnicodeDecodeError):
        return None


def _named(classes: set[int]) -> str:
    return f"{number(len(classes), 'class', 'classes')} ({listed(sorted(classes), 5)})"
