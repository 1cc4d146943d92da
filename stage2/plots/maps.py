"""Whole maps of a bank beside the predictions of an exported head."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from featbank import errors
from featbank.bank.maps import IGNORED
from featbank.wording import number
from stage2.plots.figure import caption, new_figure
from stage2.plots.picture import BankPicture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stage2.export.maps import ClassifiedMap, MapClassifier

MOST = 6
"""Maps in one plot."""

TITLES = ("truth", "prediction", "difference")

RIGHT, WRONG, LEFT_OUT = 0.87, 0.0, 1.0
"""Greys of the difference."""

PALE = 0.15
"""Share of the colour that a prediction keeps where there is no label."""


def maps(picture: BankPicture) -> Figure:
    """Draw truth, prediction and difference of whole maps, a row for each.

    Colours are of classes and repeat; in the difference, wrong pixels are black. Pixels without a
    label are white, in the prediction pale. At most `MOST` of the maps that have labels,
    about evenly spread over the split.
    """
    from stage2.export.headfile import load_head
    from stage2.export.maps import MapClassifier

    if picture.head is None:
        raise errors.ConfigError("The plot 'maps' is of a head. Add --head head.safetensors.")
    head = load_head(picture.head)
    classifier = MapClassifier(head, picture.bank)
    chosen = labelled_maps(classifier, MOST)
    side = picture.width / 3
    sizes = classifier.maps.sizes[chosen, :2]
    heights = side * sizes[:, 0] / sizes[:, 1]
    figure = new_figure(picture.width, 0.5 + float(heights.sum()))
    grid = figure.subplots(
        len(chosen), 3, squeeze=False, gridspec_kw={"height_ratios": heights.tolist()}
    )
    for row, m in zip(grid, chosen.tolist(), strict=True):
        each = classifier.one(m)
        for axes, image in zip(row, coloured(each), strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(f"image {each.image}")
    for axes, title in zip(grid[0], TITLES, strict=True):
        axes.set_title(title)
    caption(
        figure,
        f"bank {picture.bank.path.name}, {head.facts.recipe['id']}",
        f"{number(len(chosen), 'map')} of {len(classifier)} of {classifier.split}, by source group",
        "colours are of classes and repeat; black: wrong; white, and pale: no label",
    )
    return figure


def labelled_maps(classifier: MapClassifier, most: int) -> np.ndarray:
    """Places of at most so many maps that have labels, evenly spread over the split.

    For one without any label another is taken; labels of no more maps than that are read.

    Raises
    ------
    DataError
        Where no map has a label.
    """
    total = len(classifier)
    spread = np.linspace(0, total - 1, min(most, total)).round().astype(int)
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(total), spread))
    order = np.concatenate([spread, others]).tolist()
    labelled = (m for m in order if (classifier.maps.labels(m) != IGNORED).any())
    chosen = sorted(islice(labelled, most))
    if not chosen:
        raise errors.DataError(f"No pixel of the maps of {classifier.split} has a label to show.")
    return np.array(chosen)


def coloured(each: ClassifiedMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, prediction and difference of a map as pictures [H, W, 3], 0 … 1, as of `TITLES`."""
    from matplotlib import colormaps  # takes longer to import than a page without maps to write

    palette = colormaps["tab20"](np.arange(20))[:, :3]
    known = each.truth != IGNORED
    white = np.ones(3)
    truth = np.where(known[..., None], palette[each.truth % len(palette)], white)
    grey = np.where(known, np.where(each.truth == each.predicted, RIGHT, WRONG), LEFT_OUT)
    predicted = palette[each.predicted % len(palette)]
    pale = white - PALE * (white - predicted)
    predicted = np.where(known[..., None], predicted, pale)
    return truth, predicted, grey[..., None] * white
