"""Every kind of plot: what it draws is what the results hold, and all of it is in the picture."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from featbank import errors
from stage2.methods.recipe import expand
from stage2.plots import FORMATS, KINDS, plot, settings
from stage2.plots.figure import STYLE
from stage2.plots.logits import segment_means, segments_of
from stage2.plots.picture import Picture
from stage2.results.choice import choose
from stage2.results.compare import compare
from stage2.results.grids import Grid
from stage2.results.measured import Measured, measured
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem

GRID = {
    "crt": {"lr": [0.05, 0.1, 0.4], "weight_decay": [0.0, 5e-4], "epochs": [3]},
    "tau_norm": {"tau": [0.0, 0.5, 1.0, 2.0]},
    "ncm": {},
}
TWO = {"versus": {"recipes": ("crt", "ncm")}}
"""Options of the kinds that do not draw every recipe."""

MEASURED = [name for name in KINDS if name not in ("beta", "heatmap", "setting")]


@pytest.fixture(scope="module")
def path(small: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a small sweep with two seeds."""
    folder = tmp_path_factory.mktemp("plots")
    with small.bank(folder / "bank.h5") as bank:
        sweep(bank, expand(GRID, seeds=(0, 1)), results=folder / "r.sqlite")
    return folder / "r.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The same, opened."""
    with Store(path) as opened:
        yield opened


def drawn(kind: str, store: Store, **options: Any) -> Figure:
    """A figure, without the warning of what is left out."""
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.filterwarnings("ignore", message=".* drawn, the best on")
        warnings.filterwarnings("error", message="constrained_layout")
        ranked = {name: options.pop(name, None) for name in ("split", "select_on")}
        results = Results(store, **ranked)
        if KINDS[kind].on_selection:
            results = results.on(results.select_on)
        figure = KINDS[kind].draw(Picture(results, **options))
        figure.draw_without_rendering()
    return figure


_LOS = ("magnitude", "deviation")


def of(store: Store, name: str, **options: Any) -> Measured:
    """The best configuration of a recipe as the picture sees it."""
    choice = choose(Results(store, **options), recipes=[name])
    return measured(choice.results, choice.shown[0].configuration, choice.shown[0].epoch)


@pytest.mark.parametrize("width", [3.3, 7.0])
@pytest.mark.parametrize("kind", [name for name in KINDS if name != "beta"])
def test_nothing_is_cut_off_and_the_caption_says_the_protocol(
    kind: str, width: float, store: Store
) -> None:
    """Reference: the extent of everything that is drawn lies in the figure; labels of one axis do
    not touch; the leaderboard's protocol."""
    figure = drawn(kind, store, width=width, **TWO.get(kind, {}))
    box = figure.get_tightbbox()
    assert box.x0 > -0.02, f"left: {box}"
    assert box.y0 > -0.02, f"below: {box}"
    assert box.x1 < figure.get_figwidth() + 0.02, f"right: {box}"
    assert box.y1 < figure.get_figheight() + 0.02, f"above: {box}"
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            names = [label for label in axis.get_ticklabels() if label.get_text()]
            boxes = [name.get_window_extent() for name in names if name.get_visible()]
            for one, other in pairwise(boxes):
                assert not one.overlaps(other), f"{[n.get_text() for n in names]} of {axes}"
    caption = _caption(figure)
    assert "bank " in caption
    assert "selected on val (macro accuracy)" in caption
    assert "11 configurations tried" in caption
    if kind not in ("setting", "confusion"):  # tau_norm is drawn, which has no seeds
        assert "seeds 0, 1" in caption


@pytest.mark.parametrize("kind", MEASURED)
def test_the_caption_tells_a_selection_on_test(kind: str, store: Store) -> None:
    """Reference: the words of the leaderboard's protocol, which chooses the last epoch then."""
    if kind in {"confidence", "confusion", "versus"}:
        pytest.skip("kept of the epoch that ranks on val")
    caption = _caption(drawn(kind, store, select_on="test"))
    assert "selected on test" in caption
    assert "selected on val" not in caption


@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_is_a_file(form: str, store: Store, tmp_path: Path) -> None:
    """Reference: the first bytes of the formats."""
    begins = {"pdf": b"%PDF-", "png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml"}
    plot("curves", store, tmp_path / f"p.{form}", recipes=["crt"], width=3.3)
    assert (tmp_path / f"p.{form}").read_bytes().startswith(begins[form])


def test_groups(store: Store) -> None:
    """Reference: the leaderboard's means, best on val above, written beside the dots; dots that tie
    with the best are filled."""
    figure = drawn("groups", store)
    rows = choose(Results(store)).rows
    names = [axes.get_title(loc="left") for axes in figure.axes]
    assert names == ["gain", "macro", "medium", "few"], "no class has over 100 samples"
    for axes, name in zip(figure.axes[1:], names[1:], strict=True):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        values = [float(line.get_xdata()[0]) for line in dots]
        assert_close(values, [row[name] for row in rows], 1e-12, name)
        filled = [line.get_markerfacecolor() != "white" for line in dots]
        assert filled == [row["tied"] for row in rows]
        texts = [text.get_text().split(" ±")[0] for text in axes.texts]
        assert texts == [f"{row[name]:.1f}" for row in rows]
        assert np.ptp(axes.get_xlim()) >= 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        each.label for each in choose(Results(store)).shown
    ]


def test_gains_over_the_baseline(small: Problem, tmp_path: Path) -> None:
    """Reference: `featbank compare` with plain re-training, its differences and intervals."""
    recipes = expand({"ce": {"epochs": [2]}, "crt": {"epochs": [2]}, "ncm": {}}, seeds=(0, 1))
    with small.bank(tmp_path / "bank.h5") as bank:
        sweep(bank, recipes, results=tmp_path / "r.sqlite")
    with Store(tmp_path / "r.sqlite") as opened:
        figure, results = drawn("groups", opened), Results(opened)
        rows = choose(results).rows
        compared = compare(results, ["ce", *(r["name"] for r in rows if r["name"] != "ce")])
    gain = figure.axes[0]
    assert gain.get_title(loc="left") == "gain"
    measures = [each.measures["macro"] for each in compared.comparisons]
    dots = [float(line.get_xdata()[0]) for line in gain.lines if line.get_marker() == "o"]
    assert_close(dots, [m.difference for m in measures], 1e-9, "gains")
    ends = [each.get_segments()[0][:, 0] for each in gain.collections]
    assert_close(ends, [[m.low, m.high] for m in measures], 0.7, "intervals of another draw")
    assert "over plain re-training (ce epochs=2), 95 % paired intervals" in _caption(figure)


def test_classes_and_norms(store: Store, small: Problem) -> None:
    """Reference: means over seeds in the order of the training counts; the strip is the counts."""
    order = np.argsort(-small.counts, kind="stable")
    one = of(store, "crt")
    for kind, values in (("classes", one.per_class), ("norms", one.details["weight_norm"])):
        above, below = drawn(kind, store, recipes=["crt"]).axes
        (points,) = [each for each in below.collections if isinstance(each, PathCollection)]
        assert_close(points.get_offsets()[:, 1], values[order], 1e-9, kind)
        assert above.get_yscale() == "log"
    with pytest.raises(errors.ConfigError, match="No head asked for in .* has a weight per class"):
        drawn("norms", store, recipes=["ncm"])


def test_the_bound_of_a_head_on_balanced_data(small: Problem, tmp_path: Path) -> None:
    """Reference: accuracies of the stored run, in black and without points of its own [DisAlign
    Fig. 1]; other kinds draw it as any."""
    y = {**small.y, "train_balanced": small.y["val"]}
    x = {view: small.x["val", view] for view in ("instance", "balanced")}
    balanced = replace(small, y=y, x={**small.x, **{("train_balanced", v): x[v] for v in x}})
    with balanced.bank(tmp_path / "bank.h5") as bank:
        sweep(bank, expand({"crt": {}, "oracle": {}}), results=tmp_path / "r.sqlite")
    order = np.argsort(-small.counts, kind="stable")
    with Store(tmp_path / "r.sqlite") as store:
        figure = drawn("classes", store)
        _, below = figure.axes
        lines = {str(line.get_label()): line for line in below.lines}
        assert lines["oracle: the bound"].get_color() == "black"
        values = of(store, "oracle").per_class[order]
        assert_close(lines["oracle: the bound"].get_ydata(), values, 1e-9, "bound")
        assert len([each for each in below.collections if isinstance(each, PathCollection)]) == 1
        assert "the bound, of macro accuracy: a head trained on balanced data" in _caption(figure)
        _, below = drawn("norms", store).axes
        assert len([each for each in below.collections if isinstance(each, PathCollection)]) == 2


def test_reliability(store: Store) -> None:
    """Reference: the stored diagram, rows, confidence and accuracy; ECE of the leaderboard."""
    above, below = drawn("reliability", store, recipes=["crt"]).axes
    rows, confidence, accuracy = of(store, "crt").details["reliability"]
    filled = rows > 0
    bars, gaps = above.containers
    assert_close([bar.get_height() for bar in bars], accuracy[filled], 1e-9, "accuracy")
    tops = [gap.get_y() + gap.get_height() for gap in gaps]
    assert_close(tops, confidence[filled], 1e-9, "confidence")
    assert_close([bar.get_height() for bar in below.patches], rows, 1e-9, "rows")
    assert [text.get_text() for text in below.texts] == [f"most: {int(rows.max()):,}"]
    assert f"rows: {int(rows.sum()):,} in all" in _caption(above.figure)
    row = choose(Results(store), recipes=["crt"]).rows[0]
    title = above.get_title(loc="left")
    assert title.endswith(f"ECE {row['ece']:.1f} ± {row['ece_std']:.1f} %")


def test_confidence(store: Store) -> None:
    """Reference: accuracies of the groups, the widest bin of each violin at 0.46."""
    (axes,) = drawn("confidence", store, recipes=["crt"]).axes
    counts = of(store, "crt").details["confidence"].astype(float)[1:]  # medium, few
    marks = [line.get_ydata()[0] for line in axes.lines]
    assert_close(marks, 100 * counts[:, 1].sum(1) / counts.sum((1, 2)), 1e-9, "accuracy")
    halves = [each for each in axes.collections if len(each.get_paths()[0].vertices) > 10]
    for place in (0, 1):
        sides = [each.get_paths()[0].vertices[:, 0] for each in halves[2 * place : 2 * place + 2]]
        widest = max(np.abs(side - place).max() for side in sides)
        assert widest == pytest.approx(0.46)


def test_versus(store: Store) -> None:
    """Reference: the stored histograms, wrong and right rows together; both halves of a violin have
    the same area, its widest bin is at 0.46."""
    (axes,) = drawn("versus", store, recipes=["crt", "ncm"]).axes
    shown = choose(Results(store), recipes=["crt", "ncm"]).shown
    names = [text.get_text() for text in axes.figure.legends[0].get_texts()][:2]
    sides = zip(shown, ("left", "right"), strict=True)
    assert names == [f"{each.label} ({side})" for each, side in sides]
    counts = [
        measured(Results(store), each.configuration, each.epoch).details["confidence"].astype(float)
        for each in shown
    ]  # [3, wrong or right, bins] each, without any of many
    halves = [each for each in axes.collections if len(each.get_paths()[0].vertices) > 10]
    marks = [line.get_ydata()[0] for line in axes.lines]
    for place in (0, 1):
        shares = [each[1 + place].sum(0) / each[1 + place].sum() for each in counts]
        for side, sign in ((0, -1), (1, 1)):
            x = halves[2 * place + side].get_paths()[0].vertices[:, 0]
            wanted = place + sign * 0.46 * shares[side] / np.max(shares)
            assert {*np.round(x, 9)} == {*np.round(wanted, 9), place}, f"{place}, {side}"
            group = counts[side][1 + place]
            accuracy = 100 * group[1].sum() / group.sum()
            assert_close(marks[2 * place + side], accuracy, 1e-9, "accuracy")


def test_logits(store: Store, small: Problem) -> None:
    """Reference: the stored arrays of each class, means over segments one by one in float64;
    the best on test is first in the legend."""
    figure = drawn("logits", store, recipes=["crt", "ncm"])
    left, right = figure.axes
    order = np.argsort(-small.counts, kind="stable")
    segments = [order[i : i + 1] for i in range(len(order))]
    assert len(order) <= 10, "one class each"
    rows = {row["name"]: row for row in choose(Results(store), recipes=["crt", "ncm"]).rows}
    names = sorted(rows, key=lambda name: -rows[name]["macro"])
    wanted = [f"{name}, {rows[name]['macro']:.1f} %" for name in names]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.split()[0].rstrip(",") for text in texts] == names
    assert [text.split(", ")[-1] for text in texts] == [text.split(", ")[-1] for text in wanted]
    for place, name in enumerate(names):
        details = of(store, name).details
        size, deviation = (details[f"logit_{each}"].astype(float) for each in _LOS)
        share = [100 * size[part].mean() / np.abs(size).sum() for part in segments]
        assert_close(left.lines[place].get_ydata(), share, 1e-5, f"magnitude of {name}")
        spread = [deviation[part].mean() for part in segments]
        assert_close(right.lines[place].get_ydata(), spread, 1e-5, f"deviation of {name}")


def test_segments_of_many_classes() -> None:
    """Reference: by hand; 100 classes are segments of 10, as in LOS, 23 ones of 3 and 2."""
    for classes, sizes in ((100, [10] * 10), (23, [3] * 3 + [2] * 7), (4, [1] * 4)):
        values = np.random.default_rng(0).normal(size=classes)
        values[3] = np.nan
        order = np.random.default_rng(1).permutation(classes)
        ends = np.cumsum(sizes)
        parts = [order[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        got = segments_of(order)
        assert [part.tolist() for part in got] == [part.tolist() for part in parts]
        for mean, part in zip(segment_means(values, got), parts, strict=True):
            known = [values[k] for k in part if k != 3]
            assert np.isnan(mean) if not known else mean == pytest.approx(sum(known) / len(known))


def test_scatter(store: Store) -> None:
    """Reference: the leaderboard's means and deviations over seeds, of the best of each recipe."""
    (axes,) = drawn("scatter", store).axes
    rows = choose(Results(store)).rows
    for container, row in zip(axes.containers, rows, strict=True):
        point, _, bars = container.lines
        assert_close(point.get_xydata()[0], [row["ece"], row["macro"]], 1e-12, row["name"])
        assert (point.get_markerfacecolor() != "white") == row["tied"]
        if row["ece_std"] is not None:
            along, up = (bar.get_segments()[0] for bar in bars)
            assert_close(np.ptp(along[:, 0]) / 2, row["ece_std"], 1e-9, "bar of ECE")
            assert_close(np.ptp(up[:, 1]) / 2, row["macro_std"], 1e-9, "bar of macro")
    (axes,) = drawn("scatter", store, recipes=["crt"], metric="logit_deviation").axes
    (crt,) = [row for row in rows if row["name"] == "crt"]
    assert axes.containers[0].lines[0].get_xdata() == [crt["logit_deviation"]]
    assert axes.get_xlabel() == "deviation"


def test_heatmap(store: Store) -> None:
    """Reference: every run of the recipe, looked at one by one; the frame is around the best."""
    figure = drawn("heatmap", store, recipes=["crt"], by=["weight_decay"])
    axes = figure.axes[0]
    fingerprint, _ = store.one_bank()
    by_settings: dict[tuple[float, float], list[float]] = {}
    for run in store.runs(fingerprint):
        if run.name == "crt":
            macro = run.metrics["val", "selected"]["macro"]
            key = run.parameters["lr"], run.parameters["weight_decay"]
            by_settings.setdefault(key, []).append(macro or 0.0)
    wanted = [[np.mean(by_settings[lr, decay]) for decay in (0.0, 5e-4)] for lr in (0.05, 0.1, 0.4)]
    (image,) = axes.images
    assert_close(image.get_array(), wanted, 1e-12, "cells")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weight_decay", "lr")
    y, x = np.unravel_index(np.argmax(wanted), (3, 2))
    assert axes.patches[-1].get_xy() == (x - 0.5, y - 0.5)
    assert "val, selected epoch" in _caption(figure)
    macro = by_settings[0.05, 0.0]
    text = f"{np.mean(macro):.1f}*\n± {np.std(macro, ddof=1):.1f}"
    assert axes.texts[0].get_text() in (text, text.replace("*", ""))
    row = next(r for r in Results(store).on("val").board.rows if r["macro"] == np.mean(macro))
    assert ("*" in axes.texts[0].get_text()) == row["tied"]
    assert "±: standard deviation over seeds, at most" in _caption(figure)


def test_colours_of_a_heatmap_span_what_one_row_can_change(store: Store, small: Problem) -> None:
    """Reference: by hand, a row of the smallest class of val: 100 / K / its rows."""
    results = Results(store).on("val")
    rows = np.bincount(small.y["val"])
    least = 100 / np.count_nonzero(rows) / rows[rows > 0].min()
    low, high, is_widened = settings._range(np.array([50.0, 50.0 + least / 9]), results, "macro")
    assert is_widened
    assert (low + high) / 2 == pytest.approx(50 + least / 18)
    assert high - low == pytest.approx(least)
    ends = 50.0, 50.0 + 2 * least
    assert settings._range(np.array(ends), results, "macro") == (*ends, False)
    low, high, _ = settings._range(np.array([1.0, 1.001]), results, "nll")
    assert (low, high) == (1.0, 1.001)


@pytest.mark.parametrize("place", [0, 1])
def test_many_values_of_a_heatmap_stay_readable(place: int) -> None:
    """Reference: the extents of the labels of 500 values, none of which touch."""
    values = [round(0.001 * n, 3) for n in range(500)]
    grid = Grid("crt", ("lr", "lr"), (values, values), {}, 500)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4, 4))
        axes = figure.subplots()
        axes.imshow(np.zeros((500, 500)), origin="lower")
        axis = (axes.xaxis, axes.yaxis)[place]
        settings._ticks(axis, grid, place, 3.0 / 500, 0.0 if place else 0.055)
        figure.draw_without_rendering()
    labels = [label for label in axis.get_ticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    assert 4 <= len(boxes) <= 40
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_setting(store: Store) -> None:
    """Reference: every run of the recipe, looked at one by one; one metric where asked for."""
    fingerprint, _ = store.one_bank()
    runs = sorted(
        (run for run in store.runs(fingerprint) if run.name == "tau_norm"),
        key=lambda run: run.parameters["tau"],
    )
    runs = [run for run in runs if run.seed == 0]
    (axes,) = drawn("setting", store).axes
    macro, medium, few, chosen = axes.lines
    for line, name in ((macro, "macro"), (medium, "medium"), (few, "few")):
        assert_close(line.get_xdata(), [0.0, 0.5, 1.0, 2.0], 0.0, "tau")
        values = [run.metrics["test", "last"][name] for run in runs]
        assert_close(line.get_ydata(), values, 1e-12, name)
    best = next(run for run in runs if run.id == Results(store).find("tau_norm").id)
    assert_close(chosen.get_xdata(), [best.parameters["tau"]] * 2, 0.0, "selected")
    assert "dashed: the value selected" in _caption(axes.figure)
    (axes,) = drawn("setting", store, recipes=["tau_norm"], by=["tau"], metric="ece").axes
    line, _ = axes.lines
    assert_close(line.get_ydata(), [run.metrics["test", "last"]["ece"] for run in runs], 1e-12, "")


def test_shift(store: Store) -> None:
    """Reference: the stored accuracies, from the steepest prior over the uniform one to the
    steepest reversed one."""
    (axes,) = drawn("shift", store, recipes=["crt"]).axes
    one = of(store, "crt")
    forward, backward = one.details["shift_forward"], one.details["shift_backward"]
    wanted = [*forward[::-1], np.nanmean(one.per_class), *backward]
    assert_close(axes.lines[0].get_ydata(), wanted, 1e-9, "accuracy")
    forward, backward = (one.details[f"shift_{way}_known"] for way in ("forward", "backward"))
    assert_close(axes.lines[1].get_ydata(), [*forward[::-1], *backward[1:]], 1e-9, "prior known")
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["50", "25", "10", "5", "2", "1", "2", "5", "10", "25", "50"]


def test_curves(store: Store) -> None:
    """Reference: means over seeds of the stored curves; what does not train is left out."""
    loss, macro = drawn("curves", store).axes
    curves = of(store, "crt").curves
    for axes, name in ((loss, "loss"), (macro, "val_macro")):
        (line,) = axes.lines
        assert_close(line.get_ydata(), curves[name].mean(0), 1e-9, name)
        assert_close(line.get_xdata(), [1, 2, 3], 0.0, "epochs")
    with pytest.raises(errors.ConfigError, match="Nothing asked for in .* trains in epochs"):
        drawn("curves", store, recipes=["ncm"])


def test_confusion(store: Store, small: Problem) -> None:
    """Reference: as the problem has few classes, all their confusions: those of a class and its
    accuracy are 100 % of its rows."""
    (axes,) = drawn("confusion", store, recipes=["crt"]).axes
    wrong = np.ma.filled(axes.images[0].get_array(), np.nan)
    shown = [int(label.get_text().removeprefix("class")) for label in axes.get_yticklabels()]
    order = np.argsort(-small.counts, kind="stable")
    assert shown == [k for k in order if k in shown], "largest class first"
    if len(shown) == len(small.counts):
        total = np.nansum(wrong, 1) + of(store, "crt").per_class[shown]
        assert_close(total, np.full(len(shown), 100.0), 1e-9, "rows")
    assert np.nansum(wrong) > 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("heatmap", {"recipes": ["tau_norm"]}, "varies two settings. Sweep a grid"),
        ("setting", {"recipes": ["ncm"]}, "varies a setting. Sweep a grid"),
        ("setting", {"by": ["rate"]}, "No recipe varies 'rate'. Choose from: "),
        ("setting", {"by": ["lr", "tau"]}, "Give one setting, got lr, tau."),
        ("heatmap", {"by": ["lr", "lr"]}, "Give 2 different settings, got lr, lr."),
        ("heatmap", {"metric": "makro"}, "No metric is called 'makro'. Did you mean 'macro'?"),
        ("groups", {"recipes": ["crd"]}, "has no configuration 'crd'. Did you mean 'crt'?"),
        ("groups", {"split": "dev"}, "has no results on 'dev'. It has: val, test."),
        ("groups", {"metric": "ece"}, "takes no metric. It is for: scatter, heatmap, set"),
        ("beta", {"select_on": "test"}, "'beta' takes no select-on. It is for: groups, classes"),
        ("scatter", {"metric": "makro"}, "No metric is called 'makro'. Did you mean 'macro'?"),
        ("scatter", {"metric": "macro"}, "macro is on the other axis. Choose another --metric."),
        ("scatter", {"metric": "nll_t"}, "has nll_t and macro on test. Choose another --metric"),
        ("versus", {"recipes": ["crt"]}, "'versus' is of two configurations, got 1. Choose"),
        ("versus", {}, "'versus' is of two configurations, got 3. Choose two recipes"),
        ("confidence", {"split": "val"}, "has no confidences on val at the"),
        (
            "confusion",
            {"split": "val"},
            "has no confusions on val at the last epoch. They are kept on test",
        ),
    ],
)
def test_bad_input(
    kind: str, options: dict[str, Any], message: str, store: Store, tmp_path: Path
) -> None:
    """Reference: one ConfigError; nothing is written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(errors.ConfigError) as caught:
            plot(kind, store, tmp_path / "p.pdf", **options)
    assert message in str(caught.value), f"got {caught.value}"
    assert not list(tmp_path.iterdir())


def _caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\u00a0", " ").replace("\n", " ")


@pytest.mark.parametrize("kind", [name for name, row in KINDS.items() if row.banks])
def test_kinds_of_several_banks(kind: str, tmp_path: Path, several: Path) -> None:
    """Reference: the names of the banks, which the picture and its caption carry as text."""
    with Store(several) as store, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* drawn, the best on|.*none of the recipes")
        warnings.filterwarnings("ignore", message="the figure has too little room")
        chosen = ["crt"] if kind == "versus" else []
        plot(kind, store, tmp_path / "p.svg", bank="r32,ResNet-50", recipes=chosen, width=9)
    text = (tmp_path / "p.svg").read_text()
    assert text.count("· ResNet-50") == text.count("· r32") > 0
    assert "[r32] bank" in text.replace("\xa0", " ")
    assert "[ResNet-50]" in text


def test_kinds_of_one_bank_refuse_several(tmp_path: Path, several: Path) -> None:
    """Reference: the messages: what the kind draws, what was asked for, and which kinds do."""
    with Store(several) as store:
        for kind, row in KINDS.items():
            if not row.banks:
                message = f"The plot '{kind}' draws one bank, got 2: r32, steep. .* groups, classes"
                with pytest.raises(errors.ConfigError, match=message):
                    plot(kind, store, tmp_path / "p.svg", bank="r32,steep")
        with pytest.raises(errors.ConfigError, match="r32 and steep have other counts"):
            plot("classes", store, tmp_path / "p.svg", bank="r32,steep")
