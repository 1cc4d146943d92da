"""Magnitude and spread of each class's logit, over classes sorted by training count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stage2.engine.metrics import METRICS, RANKING
from stage2.plots.by_class import boundaries, in_order
from stage2.plots.figure import GRID, MARKERS, QUIET, caption, legend, line_style, panels
from stage2.plots.picture import Picture, counts_of
from stage2.results.choice import measured_all
from stage2.results.measured import magnitude_shares, segment_means, segments_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 8
"""Configurations in one plot."""


def logits(picture: Picture) -> Figure:
    """Draw logit magnitude and regularised deviation over classes sorted by count [LOS Fig. 3].

    A point is the mean over a segment of neighbouring classes; the magnitudes of a configuration
    are divided by their 1-norm, as heads differ in the scale of their logits. The legend is in the
    order of accuracy on the split shown.
    """
    choice = picture.choose(MOST)
    counts_of(choice)  # are the same on all banks
    order = in_order(choice.results)
    segments = segments_of(order)
    starts = np.cumsum([0, *map(len, segments)])
    middles = (starts[:-1] + starts[1:] - 1) / 2
    by_accuracy = sorted(
        zip(choice.shown, measured_all(choice, "logit_deviation"), strict=True),
        key=lambda pair: -(pair[0].row[RANKING] or 0),
    )
    figure, [[left], [right]] = panels(2, picture.width, narrowest=2.4, height=2.2)
    lines = []
    for place, (shown, arrays) in enumerate(by_accuracy):
        look = line_style(place) | {"marker": MARKERS[place], "markersize": 3, "linewidth": 1.2}
        label = f"{shown.label}, {shown.row[RANKING]:.1f} %"
        share = magnitude_shares(arrays.details["logit_magnitude"])
        lines += left.plot(middles, segment_means(share, segments), label=label, **look)
        right.plot(middles, segment_means(arrays.details["logit_deviation"], segments), **look)
    left.axhline(100 / len(order), color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
    for panel, name in ((left, "L / ‖L‖₁, %"), (right, "std(z) / L")):
        boundaries(panel, choice.results.groups, order, named=True)
        panel.set(xlim=(-0.5, len(order) - 0.5), ylabel=name)
        panel.set_xlabel("classes, from most to fewest samples")
        panel.grid(axis="y", **GRID)
    legend(figure, lines)
    size = len(segments[0])
    caption(
        figure,
        choice.protocol(),
        "logit magnitude of a class: L = E[z_k|y=k] − E[z_k|y≠k], dotted: all equal; its "
        "regularised deviation: std(z_k|y=k) / L",
        f"points: means over {size} classes" if size > 1 else "",
        "means over seeds",
        f"legend: in the order of {METRICS[RANKING].label} accuracy on {choice.split}",
        choice.thresholds,
    )
    return figure
