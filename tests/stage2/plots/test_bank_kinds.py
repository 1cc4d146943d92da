"""Plots of a bank alone: what losses make of its counts, and its BatchNorm statistics."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from featbank import Bank, errors
from featbank.bank import BankWriter, HoldOut
from featbank.bank.split import split_val
from featbank.cli import main
from stage2.methods.presets import PRESETS
from stage2.methods.recipe import Recipe
from stage2.plots import BANK_KINDS, plot_bank
from stage2.plots.figure import STYLE
from stage2.plots.picture import BankPicture
from tests.stage2.compare import assert_close

COUNTS = np.array([40, 160, 10, 20, 5])
LAYERS = {"stem_norm": 4, "blocks.2.norm": 3, "blocks.10.norm": 5}
"""Channels by layer, in the order of the network."""

Moments = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def moments() -> Moments:
    """μ and σ² by view and layer; the second channel of the second layer has no variance."""
    rng = np.random.default_rng(0)
    by_view = {
        view: {
            name: (rng.normal(size=n).astype(np.float32), rng.uniform(1, 4, n).astype(np.float32))
            for name, n in LAYERS.items()
        }
        for view in ("expert0/instance", "expert0/balanced")
    }
    by_view["expert0/instance"]["blocks.2.norm"][1][1] = 0
    by_view |= {view.removeprefix("expert0/"): layers for view, layers in by_view.items()}
    return by_view


def write(
    path: Path, statistics: Moments, counts: np.ndarray = COUNTS, *, ordered: bool = False
) -> Path:
    """A bank of one feature with views and BatchNorm statistics."""
    y = np.repeat(np.arange(len(counts)), counts)
    with BankWriter(path, [f"class {k}" for k in range(len(counts))], dim=1) as writer:
        writer.split("train", y)
        for view in ("instance", "balanced", "expert0/instance", "expert0/balanced"):
            writer.features("train", view).append(np.ones((len(y), 1), np.float32))
        for view, layers in statistics.items():
            writer.batchnorm(view, layers, ordered=ordered)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank with everything."""
    return write(tmp_path_factory.mktemp("kinds") / "bank.h5", moments())


@pytest.fixture
def bank(path: Path) -> Iterator[Bank]:
    """The same, opened."""
    with Bank(path) as opened:
        yield opened


def drawn(kind: str, bank: Bank, **options: Any) -> Figure:
    """A figure, laid out."""
    with warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.simplefilter("error")
        figure = BANK_KINDS[kind].draw(BankPicture(bank, **options))
        figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("width", [3.3, 7.0])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("loss", {"recipes": ("mislas", "disalign", "gradual", "vs", "ldam", "los", "glag")}),
        ("batchnorm", {}),
    ],
)
def test_nothing_is_cut_off(kind: str, options: dict, width: float, bank: Bank) -> None:
    """Reference: the extent of everything that is drawn lies in the figure, labels of one axis do
    not touch; the caption names the bank."""
    figure = drawn(kind, bank, width=width, **options)
    box = figure.get_tightbbox()
    assert box.x0 > -0.02, f"left: {box}"
    assert box.y0 > -0.02, f"below: {box}"
    assert box.x1 < width + 0.02, f"right: {box}"
    assert box.y1 < figure.get_figheight() + 0.02, f"above: {box}"
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            names = [label for label in axis.get_ticklabels() if label.get_text()]
            for one, other in pairwise([name.get_window_extent() for name in names]):
                assert not one.overlaps(other), f"{[n.get_text() for n in names]} of {axes}"
    assert f"bank {bank.fingerprint[:12]}" in figure.get_supxlabel().replace("\u00a0", " ")


def _by_count(values: dict[int, float]) -> tuple[list[float], list[float]]:
    return sorted(values), [values[n] for n in sorted(values)]


def test_smoothing_by_count(bank: Bank) -> None:
    """Reference: MiSLAS eq. 1–3, class by class, with n from 5 to 160; a line for each form on
    axes that are not logarithmic [Fig. 6 and 8]."""
    figure = drawn(
        "loss", bank, recipes=("mislas",), overrides=("smooth_shape=concave,linear,convex",)
    )
    (axes,) = figure.axes
    head, tail = (Recipe("mislas").settings[f"smooth_{end}"] for end in ("head", "tail"))
    r = {n: (n - 5) / 155 for n in COUNTS.tolist()}
    forms = {
        "concave": {n: tail + (head - tail) * np.sin(r[n] * np.pi / 2) for n in r},
        "linear": {n: tail + (head - tail) * r[n] for n in r},
        "convex": {n: head + (head - tail) * np.sin(3 * np.pi / 2 + r[n] * np.pi / 2) for n in r},
    }
    assert _labels(figure) == [f"mislas smooth_shape={form}" for form in forms]
    for line, values in zip(axes.lines, forms.values(), strict=True):
        x, y = _by_count(values)
        assert_close(line.get_xdata(), x, 0.0, "n")
        assert_close(line.get_ydata(), y, 1e-12, "ε")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    assert axes.get_ylabel() == "smoothing ε"


def test_weights_by_count(bank: Bank) -> None:
    """Reference: ω = K n^−ρ / Σ n^−ρ class by class [DisAlign eq. 11, Fig. 3]."""
    figure = drawn("loss", bank, recipes=("disalign",), overrides=("rho=0,0.5,1.5",))
    (axes,) = figure.axes
    counts = COUNTS.tolist()
    for line, rho in zip(axes.lines, (0, 0.5, 1.5), strict=True):
        total = sum(n**-rho for n in counts)
        x, y = _by_count({n: 5 * n**-rho / total for n in counts})
        assert_close(line.get_xdata(), x, 0.0, "n")
        assert_close(line.get_ydata(), y, 1e-12, f"ω at ρ = {rho}")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_the_prior_over_the_epochs(bank: Bank) -> None:
    """Reference: α = s(c^e − 1)/(c − 1), at c = 1 its limit s·e, for e = 0, ⅓, ⅔, 1 [GLAG eq. 3,
    Fig. 3]; the lines by class say no more than α and are left out."""
    figure = drawn(
        "loss", bank, recipes=("gradual",), overrides=("base=0.5,1,4", "strength=2", "epochs=4")
    )
    (axes,) = figure.axes
    e = np.arange(4) / 3
    for line, c in zip(axes.lines, (0.5, 1, 4), strict=True):
        wanted = 2 * e if c == 1 else 2 * (c**e - 1) / (c - 1)
        assert_close(line.get_xdata(), [1, 2, 3, 4], 0.0, "epochs")
        assert_close(line.get_ydata(), wanted, 1e-9, f"α at c = {c}")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "α of m = α log π")


def test_margins_and_what_is_deferred(bank: Bank) -> None:
    """Reference: Δ = s·m·(n/n_min)^−¼ [LDAM eq. 13]; ω of the smallest class by effective numbers
    from epoch ``defer`` on and 1 before it [CB eq. 4], in the last epoch by class."""
    overrides = ("defer=2", "epochs=4", "loss.beta=0.9", "loss.scale=10")
    figure = drawn("loss", bank, recipes=("ldam",), overrides=overrides)
    by_class, over_epochs, margin = figure.axes
    counts = np.sort(COUNTS).astype(float)
    weight = (1 - 0.9) / (1 - 0.9**counts)
    weight *= 5 / weight.sum()
    assert_close(by_class.lines[0].get_ydata(), weight, 1e-9, "ω")
    assert over_epochs.get_ylabel() == "ω of the smallest class"
    assert_close(over_epochs.lines[0].get_ydata(), [1, 1, weight[0], weight[0]], 1e-9, "by epoch")
    largest = Recipe("ldam").settings["max_margin"]
    assert_close(margin.lines[0].get_ydata(), 10 * largest * (counts / 5) ** -0.25, 1e-9, "Δ")
    assert "by class: in the last epoch" in figure.get_supxlabel().replace("\u00a0", " ")


def test_only_losses_that_use_a_parameter_have_its_line(bank: Bank) -> None:
    """Reference: the parameters of each; constant smoothing is a line, left-out classes are not."""
    figure = drawn("loss", bank, recipes=("los", "balanced_softmax"))
    smoothing, shift = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [1, 1]
    assert_close(smoothing.lines[0].get_ydata(), [Recipe("los").settings["smoothing"]] * 5, 0, "ε")
    assert_close(shift.lines[0].get_ydata(), np.log(np.sort(COUNTS)), 1e-12, "m")


def test_a_class_without_samples(tmp_path: Path) -> None:
    """Reference: left out of the loss, it is no point; without that an error of one line."""
    with Bank(write(tmp_path / "bank.h5", {}, np.array([30, 0, 4]))) as bank:
        ignored = ("empty_classes=ignore",)
        (axes,) = drawn("loss", bank, recipes=("balanced_softmax",), overrides=ignored).axes
        assert_close(axes.lines[0].get_xdata(), [4, 30], 0.0, "n")
        with pytest.raises(errors.EmptyClass, match="Use empty_classes=ignore"):
            drawn("loss", bank, recipes=("balanced_softmax",))


WITH_LOSS = [
    name for name, preset in PRESETS.items() if not preset.variant and "loss" in preset.settings
]


@pytest.mark.parametrize("name", WITH_LOSS)
def test_every_loss_can_be_drawn(name: str, bank: Bank) -> None:
    """Reference: a finite line, or one error for cross-entropy and focal losses without weights."""
    if name == "oracle":
        pytest.skip("trained on a split that this bank does not have")
    if PRESETS[name].settings["loss"] in ("ce", "focal"):
        with pytest.raises(errors.ConfigError, match="treats all classes and epochs alike"):
            drawn("loss", bank, recipes=(name,))
        return
    for axes in drawn("loss", bank, recipes=(name,)).axes:
        assert np.isfinite(axes.lines[0].get_ydata()).all(), name


def test_equal_counts(tmp_path: Path) -> None:
    """Reference: α of a prior that is the same for all classes is 0; nothing is divided by 0."""
    with Bank(write(tmp_path / "bank.h5", {}, np.array([7, 7]))) as bank:
        error = "treats all classes and epochs alike"
        figure = drawn("loss", bank, recipes=("gradual", "mislas", "vs"))
        assert all(np.isfinite(line.get_ydata()).all() for a in figure.axes for line in a.lines)
        with pytest.raises(errors.ConfigError, match=error):
            drawn("loss", bank, recipes=("ce",))


@pytest.mark.parametrize(("view", "before"), [(None, "instance"), ("expert0/balanced", "expert0")])
def test_batchnorm(view: str | None, before: str, bank: Bank) -> None:
    """Reference: (μ′ − μ)/σ and σ′²/σ² channel by channel in float64, the channel without variance
    left out; root mean squares; blocks in the order of their numbers [MiSLAS Fig. 7]."""
    figure = drawn("batchnorm", bank, view=view)
    shift, ratio, mean, variance, last_mean, last_variance = _in_columns(figure.axes)
    old, new = (moments()[name] for name in ("instance", "balanced"))
    shifts, ratios = [], []
    for name, channels in LAYERS.items():
        alive = [c for c in range(channels) if old[name][1][c] > 0]
        pairs = [[each[name][i].astype(float) for i in (0, 1)] for each in (old, new)]
        (mu, var), (new_mu, new_var) = pairs
        shifts.append([(new_mu[c] - mu[c]) / np.sqrt(var[c]) for c in alive])
        ratios.append([new_var[c] / var[c] for c in alive])
    x = [1] * 4 + [2] * 2 + [3] * 5
    for axes, wanted in ((shift, shifts), (ratio, ratios)):
        (dots,) = [each for each in axes.collections if isinstance(each, PathCollection)]
        assert_close(dots.get_offsets(), np.c_[x, np.concatenate(wanted)], 1e-6, "channels")
    rms = [np.sqrt(np.mean(np.square(each))) for each in shifts]
    assert_close(shift.lines[0].get_ydata(), rms, 1e-6, "root mean square")
    rms = [np.exp(np.sqrt(np.mean(np.log(each) ** 2))) for each in ratios]
    assert_close(ratio.lines[0].get_ydata(), rms, 1e-6, "root mean square of logarithms")
    for above, below, name in (
        (mean, variance, "stem_norm"),
        (last_mean, last_variance, "blocks.10.norm"),
    ):
        assert above.get_title(loc="left") == name
        for place, axes in enumerate((above, below)):
            for line, each in zip(axes.lines, (old, new), strict=True):
                assert_close(line.get_ydata(), each[name][place], 0.0, f"{place} of {name}")
    assert _labels(figure)[0].startswith(before)


@pytest.mark.parametrize("ordered", [True, False])
def test_layers_stand_in_the_order_of_the_network(ordered: bool, tmp_path: Path) -> None:
    """Reference: the order in which they were written, where the bank has it; else their names, as
    in banks of older versions. A copy of the bank keeps either."""
    layers = {name: (np.zeros(2), np.ones(2)) for name in ("conv.bn", "late.bn", "early.bn")}
    statistics = {"instance": layers, "balanced": layers}
    path = write(tmp_path / "bank.h5", statistics, ordered=ordered)
    split_val(path, tmp_path / "split.h5", HoldOut(per_class=1))
    expected = list(layers) if ordered else sorted(layers)
    for each in (path, tmp_path / "split.h5"):
        with Bank(each) as bank:
            assert bank.is_ordered("balanced") == ordered
            assert list(bank.batchnorm("balanced")) == expected
            figure = drawn("batchnorm", bank)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title for title in titles if title in layers] == [expected[0], expected[-1]]
    (text,) = [text.get_text() for text in figure.texts]
    order = "the network" if ordered else "their names"
    assert f"in the order of {order}" in " ".join(text.split())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lose", {}, "Unknown plot 'lose'. Did you mean 'loss'?"),
        ("loss", {}, "Name the recipes whose losses are drawn, such as --recipe mislas."),
        ("loss", {"recipes": ["ncm"]}, "Recipe 'ncm' has no loss: its head is not trained."),
        ("loss", {"recipes": ["ce"]}, "The loss of ce treats all classes and epochs alike."),
        ("loss", {"recipes": ["mislass"]}, "Did you mean 'mislas'?"),
        ("loss", {"recipes": ["mislas"], "overrides": ["tau=1"]}, "tau"),
        ("loss", {"recipes": ["oracle"]}, "train_balanced"),
        ("loss", {"view": "balanced"}, "The plot 'loss' takes no view. It is for: batchnorm."),
        ("batchnorm", {"recipes": ["crt"]}, "The plot 'batchnorm' takes no recipe. It is for: l"),
        ("batchnorm", {"view": "instance"}, "'instance' is what other views are compared with."),
        ("batchnorm", {"view": "balance"}, "has no view 'balance'. Did you mean 'balanced'?"),
    ],
)
def test_bad_input(kind: str, options: dict, message: str, bank: Bank, tmp_path: Path) -> None:
    """Reference: one error of one line; nothing is written."""
    with pytest.raises(errors.FeatbankError) as caught:
        plot_bank(kind, bank, tmp_path / "p.pdf", **options)
    assert message in str(caught.value), f"got {caught.value}"
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({}, "has no BatchNorm statistics of the view 'instance'. `featbank extract` stores"),
        ({"instance": moments()["instance"]}, "has no BatchNorm statistics of the view 'balanced'"),
        (
            {
                "instance": moments()["instance"],
                "balanced": {"stem_norm": moments()["balanced"]["stem_norm"]},
            },
            "has other BatchNorm layers under 'balanced' than under 'instance'.",
        ),
    ],
)
def test_without_the_statistics_of_two_views(
    statistics: Moments, message: str, tmp_path: Path
) -> None:
    """Reference: one ConfigError."""
    with Bank(write(tmp_path / "bank.h5", statistics)) as bank:
        with pytest.raises(errors.ConfigError) as caught:
            drawn("batchnorm", bank)
        assert message in str(caught.value), f"got {caught.value}"


def test_the_command(path: Path, tmp_path: Path) -> None:
    """Reference: a file with the first bytes of a PNG; options of the other plots are refused in a
    line each, a results file too."""
    out = str(tmp_path / "p.png")

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["plot", *words, "-o", out])
        return done.exit_code, done.output

    code, text = run("loss", str(path), "--recipe", "disalign", "--set", "rho=0,1")
    assert (code, text) == (0, f"Wrote {out}.\n")
    assert Path(out).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for words, message in (
        (("loss", str(path), "--split", "val"), "'loss' is of a bank and takes no --split."),
        (("batchnorm", str(path), "--set", "lr=1"), "'batchnorm' takes no set. It is for: loss."),
        (("groups", "r.sqlite", "--set", "lr=1"), "'groups' is of results and takes no --set."),
        (("groups", "r.sqlite", "--view", "x"), "'groups' is of results and takes no --view."),
        (("lose", str(path)), "Unknown plot 'lose'. Did you mean 'loss'?"),
    ):
        code, text = run(*words)
        assert code == 2
        assert message in text.replace("\n", " "), text


def _labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def _in_columns(axes: list[Axes]) -> list[Axes]:
    """Upper and lower axes of each panel, from left to right."""
    above, below = axes[: len(axes) // 2], axes[len(axes) // 2 :]
    return [each for pair in zip(above, below, strict=True) for each in pair]
