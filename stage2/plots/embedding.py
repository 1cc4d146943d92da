"""t-SNE of a bank's features (van der Maaten and Hinton 2008), computed by scikit-learn."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featbank import errors
from featbank.bank import Bank
from featbank.bank.checks import check_finite
from featbank.characters import clipped, in_csv
from featbank.files import replacing
from stage2.features.experts import averaged, averages, short_name
from stage2.plots.figure import (
    FORMATS,
    QUIET,
    WIDTH,
    caption,
    form_of,
    legend,
    new_figure,
    save,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMBEDDED = (*FORMATS, "csv")
"""Formats of an embedding."""

COMPONENTS = 50
"""Principal components that t-SNE starts from, as its authors do."""

FEWEST = 4
"""Rows that t-SNE needs."""

PERPLEXITY = 30.0
"""The default; a third of the rows where that is less."""

_LONGEST = 28
"""Characters of a class name in the picture."""

MARKERS = {"many": "o", "medium": "s", "few": "^", "": "x"}
"""Of classes by group, and of those in none."""

COLOURS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99", "#AA4499"),
    *("#999933", "#D55E00", "#0072B2", "#000000"),
)
"""Colours of classes, distinguishable by the colour-blind (Tol's muted scheme, and three more)."""


@dataclass(frozen=True)
class Embedding:
    """Rows of some classes in the plane.

    Attributes
    ----------
    points
        [N, 2].
    rows, labels
        Place in the split and class of each, [N].
    split, view
        The source of the rows.
    perplexity, seed
        The perplexity of t-SNE, and the seed of the draw of rows.
    """

    points: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    split: str
    view: str
    perplexity: float
    seed: int


def embed(
    bank: Bank,
    *,
    classes: str | None = None,
    split: str | None = None,
    view: str | None = None,
    perplexity: float | None = None,
    per_class: int = 200,
    seed: int = 0,
) -> Embedding:
    """Embed rows of chosen classes by t-SNE, of their first 50 principal components.

    Parameters
    ----------
    bank
        An open bank.
    classes
        As of `chosen_classes`.
    split, view
        By default ``test``, else ``val``, else ``train``; and ``instance``, else the first view.
        Of a bank of experts ``instance`` is the mean of their features [SLA Fig. 5], one of them
        ``expert0/instance``.
    perplexity
        About how many neighbours a row has, ≥ 1 and below the number of rows; by default 30, or a
        third of the rows where that is less.
    per_class
        Rows of a class at most, drawn at random, ≥ 1.
    seed
        Seed of the draw. t-SNE itself is deterministic, as it starts from the first two components.

    Raises
    ------
    ConfigError
        For unknown classes, a split or view that the bank does not have, too few rows, or a
        perplexity that is out of range.
    NotFinite
        Where a feature is NaN or infinite.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    split = split or ("train", *bank.evaluated)[-1]
    known = (*bank.views, *averages(bank))
    view = view or ("instance" if "instance" in known else known[0])
    chosen = chosen_classes(bank, classes)
    labels = bank.labels(split)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([_sample(np.flatnonzero(labels == k), per_class, rng) for k in chosen])
    if len(rows) < FEWEST:
        present = int(np.isin(labels, chosen).sum())
        remedy = "Raise --per-class" if present >= FEWEST else "Choose more with --classes"
        drawn = f", {len(rows)} of them drawn" if present > len(rows) else ""
        raise errors.ConfigError(
            f"The chosen classes have {present} rows in {split}{drawn}; t-SNE needs {FEWEST}. "
            f"{remedy}."
        )
    near = min(PERPLEXITY, (len(rows) - 1) / 3) if perplexity is None else perplexity
    if not 1 <= near < len(rows):
        raise errors.ConfigError(
            f"The perplexity must be a float ≥ 1 and below the {len(rows)} rows, got {near:g}."
        )
    x = _features(bank, split, view, rows)
    dims = min(COMPONENTS, len(rows), x.shape[1])
    with threadpool_limits(1):  # so that the order of its sums is the same on every machine
        x = PCA(dims, svd_solver="full").fit_transform(x)
        points = TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(x)
    return Embedding(points, rows, labels[rows], split, view, near, seed)


def _features(bank: Bank, split: str, view: str, rows: np.ndarray) -> np.ndarray:
    """Features of some rows [N, D] in float64; the mean of experts for the name of their view."""
    total = np.zeros((len(rows), bank.dim))
    views = averaged(bank, view).split("+")
    for name in views:
        features, _ = bank.load(split, name)
        check_finite(features, f"{bank.path}: {split}/{name}")
        total += features[rows]
    return total / len(views)


def chosen_classes(bank: Bank, text: str | None = None) -> list[int]:
    """Indices of the classes that a text names, most training samples first.

    Parameters
    ----------
    text
        Names, indices and ``GROUP:N``, separated by commas; ``few:3`` are three classes of the
        group, evenly spaced by training count; a group goes by its key or by what the bank calls
        it. By default three of each group that has classes.

    Raises
    ------
    ConfigError
        For a text that names no class.
    """
    named = bank.class_groups
    groups = named.masks
    default = ",".join(f"{name}:3" for name, members in groups.items() if members.any())
    chosen: set[int] = set()
    for part in map(str.strip, (text or default).split(",")):
        group, _, count = part.rpartition(":")
        group = named.key(group)
        if part in bank.class_names:
            chosen.add(bank.class_names.index(part))
        elif _is_index(part) and int(part) < bank.num_classes:
            chosen.add(int(part))
        elif group in groups and _is_index(count) and int(count) > 0:
            chosen |= {*_spaced(bank.train_counts, groups[group], int(count))}
            if not groups[group].any():
                raise errors.ConfigError(
                    f"{bank.path} has no class with {named.stated[group]}. Leave {part} out of "
                    "--classes."
                )
        else:
            raise errors.ConfigError(
                f"{bank.path} has no class {part!r}. "
                f"Write a name, an index below {bank.num_classes} or {named.names[0]}:3."
                f"{errors.did_you_mean(part, bank.class_names)}"
            )
    return sorted(chosen, key=lambda k: (-bank.train_counts[k], k))


def _is_index(text: str) -> bool:
    """Whether a text is a decimal number, short enough for `int`."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def write_embedding(
    embedding: Embedding, bank: Bank, output: str | os.PathLike[str], *, width: float = WIDTH
) -> None:
    """Draw an embedding into a file, or write it as CSV; one that is there is replaced.

    Raises
    ------
    ConfigError
        For a file that does not end in .pdf, .png, .svg or .csv.
    """
    if form_of(output, EMBEDDED) == "csv":
        with replacing(Path(output)) as part:
            part.write_text(_table(embedding, bank), encoding="utf-8")
    else:
        save(lambda: draw(embedding, bank, width), output)


def draw(embedding: Embedding, bank: Bank, width: float = WIDTH) -> Figure:
    """Draw an embedding: classes by colour and name, groups by marker."""
    from matplotlib.lines import Line2D

    across, up = np.ptp(embedding.points, axis=0)
    figure = new_figure(width, width * float(np.clip(up / across, 0.4, 1)))
    axes = figure.subplots()
    named = bank.class_groups
    groups, titles = named.of_classes(), {**named.shown, "": "no group"}
    shown = sorted(set(embedding.labels.tolist()), key=lambda k: (-bank.train_counts[k], k))
    crowd = min(1.0, 600 / len(embedding.rows))
    for place, k in enumerate(shown):
        axes.scatter(
            embedding.points[embedding.labels == k, 0],
            embedding.points[embedding.labels == k, 1],
            s=(5 + 9 * crowd) * min(1.0, width / 5),
            marker=MARKERS[groups[k]],
            color=COLOURS[place % len(COLOURS)],
            alpha=0.75,
            linewidths=0,
            rasterized=len(embedding.rows) > 5000,
        )
    axes.set(xticks=(), yticks=())
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(False)
    handles = [
        Line2D([], [], linestyle="none", marker=mark, color=QUIET, markersize=4, label=titles[name])
        for name, mark in MARKERS.items()
        if name in {groups[k] for k in shown}
    ]
    legend(figure, handles)
    reduced = f"{COMPONENTS} principal components, " if bank.dim > COMPONENTS else ""
    caption(
        figure,
        f"bank {bank.fingerprint[:12]}",
        f"{embedding.split}, {_described(bank, embedding.view)}, {len(embedding.rows):,} rows of "
        f"{len(shown)} of {bank.num_classes} classes",
        f"{reduced}t-SNE of perplexity {embedding.perplexity:g}, rows of seed {embedding.seed}: "
        "neighbours stay close, distances between clusters and their sizes mean nothing",
        named.described,
    )
    figure.draw_without_rendering()  # places the axes, which the names need
    _name(axes, embedding, bank, shown)
    return figure


def _described(bank: Bank, view: str) -> str:
    """A view in words."""
    views = averaged(bank, view)
    return f"mean of {short_name(views)}" if "+" in views else f"view {views}"


def _name(axes: Axes, embedding: Embedding, bank: Bank, shown: list[int]) -> None:
    """Write a name at the median of each class, moved up or down where it would cover another."""
    veil = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.6, "linewidth": 0}
    taken: list[tuple[float, float, float, float]] = []
    for place, k in enumerate(shown):
        middle = np.median(embedding.points[embedding.labels == k], axis=0)
        text = axes.annotate(
            clipped(bank.class_names[k], _LONGEST),
            middle,
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            fontweight="bold",
            color=_darker(COLOURS[place % len(COLOURS)]),
            bbox=veil,
        )
        box = text.get_window_extent()
        step = 0.6 * box.height
        moves = [move * sign for move in range(40) for sign in (1, -1)]
        free = next(m for m in moves if _free(box.extents, m * step, taken) or m == moves[-1])
        text.set_position((0, free * step * 72 / axes.figure.dpi))
        x0, y0, x1, y1 = box.extents
        taken.append((x0, y0 + free * step, x1, y1 + free * step))


def _darker(colour: str) -> tuple[float, ...]:
    """A colour that can be read as text on white."""
    from matplotlib.colors import to_rgb

    return tuple(0.65 * part for part in to_rgb(colour))


def _free(box: Sequence[float], up: float, taken: list[tuple[float, float, float, float]]) -> bool:
    """Whether a box, moved up, overlaps none of the others, all (left, bottom, right, top)."""
    x0, y0, x1, y1 = box
    return not any(x0 < c and a < x1 and y0 + up < d and b < y1 + up for a, b, c, d in taken)


def _spaced(counts: np.ndarray, members: np.ndarray, count: int) -> list[int]:
    """`count` classes of a group, evenly spaced from its largest to its smallest."""
    ordered = np.flatnonzero(members)
    ordered = ordered[np.argsort(-counts[ordered], kind="stable")]
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return ordered[places].tolist()


def _sample(rows: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Draw at most so many of the rows, in order."""
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _table(embedding: Embedding, bank: Bank) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "class", "name", "group", "x", "y"])
    named = bank.class_groups
    titles = {**named.shown, "": ""}
    groups = [titles[key] for key in named.of_classes()]
    for row, k, (x, y) in zip(embedding.rows, embedding.labels, embedding.points, strict=True):
        writer.writerow([row, k, in_csv(bank.class_names[k]), groups[k], f"{x:.6g}", f"{y:.6g}"])
    return out.getvalue()
