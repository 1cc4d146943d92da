"""Figures that compare banks: what is drawn of each is what the results hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from stage2.plots import KINDS
from stage2.plots.figure import STYLE
from stage2.plots.picture import Picture
from stage2.results.banks import banks_of
from stage2.results.choice import choose
from stage2.results.leaderboard import Row
from stage2.results.measured import Measured, measured
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.compare import assert_close


@pytest.fixture
def store(several: Path) -> Iterator[Store]:
    """Results of four banks."""
    with Store(several) as opened:
        yield opened


def drawn(kind: str, store: Store, banks: str, recipe: str = "crt") -> Figure:
    """A figure of one recipe on some banks."""
    results = banks_of(store, banks)
    with matplotlib.rc_context(STYLE):
        figure = KINDS[kind].draw(Picture(results[0], (recipe,), banks=results))
        figure.draw_without_rendering()
    return figure


def alone(store: Store, bank: str) -> tuple[Row, Measured]:
    """The best of crt on one bank: its row and arrays, without the others."""
    results = Results(store, bank=bank)
    (shown,) = choose(results, recipes=["crt"]).shown
    return shown.row, measured(results, shown.configuration, shown.epoch)


def test_norms_of_two_banks(store: Store) -> None:
    """Reference: the stored norms of each bank's run, classes by training count: with and without
    mixup in stage 1, each a bank [MiSLAS Fig. 2, 13 and 14]."""
    figure = drawn("norms", store, "r32,ResNet-50")
    order = np.argsort(-Results(store, bank="r32").counts, kind="stable")
    dots = [each for each in figure.axes[1].collections if isinstance(each, PathCollection)]
    norms = [alone(store, bank)[1].details["weight_norm"] for bank in ("r32", "ResNet-50")]
    for points, norm in zip(dots, norms, strict=True):
        assert_close(points.get_offsets()[:, 1], norm[order], 1e-6, "norms")
    assert np.abs(norms[0] - norms[1]).max() > 0.01, "the banks must differ"
    assert _labels(figure) == ["crt · r32", "crt · ResNet-50"]


def test_reliability_of_two_banks(store: Store) -> None:
    """Reference: the stored diagram and ECE of each bank, in a row [MiSLAS Fig. 1 and 4]."""
    axes = drawn("reliability", store, "ResNet-50,r32").axes
    for place, bank in enumerate(("ResNet-50", "r32")):
        row, arrays = alone(store, bank)
        rows, _, accuracy = arrays.details["reliability"]
        bars = [bar.get_height() for bar in axes[place].containers[0]]
        assert_close(bars, accuracy[rows > 0], 1e-9, bank)
        title = axes[place].get_title(loc="left")
        assert title.startswith(f"crt · {bank}\nECE {row['ece']:.1f} ± ")


def test_scatter_and_logits_of_two_banks(store: Store) -> None:
    """Reference: each bank's own row and arrays."""
    names = ("r32", "ResNet-50")
    rows, arrays = zip(*(alone(store, bank) for bank in names), strict=True)
    (axes,) = drawn("scatter", store, "r32,ResNet-50").axes
    for container, row in zip(axes.containers, rows, strict=True):
        point = container.lines[0].get_xydata()[0]
        assert_close(point, [row["ece"], row["macro"]], 1e-12, "point")
    order = np.argsort(-Results(store, bank="r32").counts, kind="stable")
    best = sorted((0, 1), key=lambda place: -rows[place]["macro"])
    figure = drawn("logits", store, "r32,ResNet-50")
    for line, place in zip(figure.axes[1].lines, best, strict=False):  # and lines of the groups
        wanted = arrays[place].details["logit_deviation"][order]
        assert_close(line.get_ydata(), wanted, 1e-6, names[place])
    assert [label.split(",")[0] for label in _labels(figure)] == [
        f"crt · {names[place]}" for place in best
    ]


def test_versus_of_two_banks(store: Store) -> None:
    """Reference: the stored histograms; r32 has no class of many, so that steep's are left out."""
    (axes,) = drawn("versus", store, "r32,steep").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["medium", "few"]
    marks = [line.get_ydata()[0] for line in axes.lines]
    wanted = []
    for place in (1, 2):
        for bank in ("r32", "steep"):
            counts = alone(store, bank)[1].details["confidence"][place].astype(float)
            wanted.append(100 * counts[1].sum() / counts.sum())
    assert_close(marks, wanted, 1e-9, "accuracies")


def _labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]
