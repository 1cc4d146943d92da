"""Plots of stored results: what is drawn, in which files, and of which runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection

from featbank import errors
from stage2.methods.recipe import Recipe
from stage2.plots import KINDS, plot
from stage2.plots.beta import MOST, NEIGHBOURS, beta
from stage2.plots.picture import Picture
from stage2.results.results import Results
from stage2.results.store import Store
from tests.stage2.compare import assert_close
from tests.stage2.results.trajectories import START, moved, walk, write

COUNTS = (300, 90, 60, 30, 15, 10, 10, 4)
TAIL = [1, 2, 3, 4, 5, 6, 7]
EPOCHS = 12
WALKS = [walk(COUNTS, epochs=EPOCHS, seed=seed) for seed in (0, 1)]
RECIPES = [Recipe("crt", epochs=EPOCHS, seed=seed) for seed in (0, 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Results with a configuration of two seeds that moved β in all classes but the largest, a
    third seed that diverged, and a recipe without β."""
    path = tmp_path / "results.sqlite"
    runs = [moved(recipe, walked) for recipe, walked in zip(RECIPES, WALKS, strict=True)]
    broken = {**moved(Recipe("crt", epochs=EPOCHS, seed=2), WALKS[0]), "status": "diverged"}
    write(path, [*runs, broken, moved(Recipe("ncm"), None)], COUNTS)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """The same, opened."""
    with Store(path) as opened:
        yield opened


@pytest.mark.parametrize("name", ["b.pdf", "b.png", "b.svg", "B.PDF"])
def test_the_ending_is_the_format(name: str, store: Store, tmp_path: Path) -> None:
    """Reference: the first bytes that each format prescribes; a file that is there is replaced."""
    begins = {"pdf": b"%PDF-", "png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml"}
    output = tmp_path / name
    output.write_text("an older plot")
    plot("beta", store, output)
    assert output.read_bytes().startswith(begins[output.suffix[1:].lower()])


def test_the_plot_says_what_it_shows(store: Store, tmp_path: Path) -> None:
    """Reference: the words of the field, the configuration, its finished seeds and the bank, as
    text in the SVG; matplotlib's settings are as before."""
    before = dict(matplotlib.rcParams)
    plot("beta", store, tmp_path / "b.svg")
    text = (tmp_path / "b.svg").read_text()
    for words in (
        f"{RECIPES[0].id} · seeds 0, 1<",
        "bank ab1200000000",
        "moved by its accuracy on val",
        "bars from the lowest to the highest seed",
        "few, mean",
        "medium, mean",
        "start",
        "epoch",
        "training samples of a class",
        "β",
    ):
        assert words in text.replace("\u00a0", " "), words
    assert "many, mean" not in text, "no class of that group has β"
    assert dict(matplotlib.rcParams) == before


def test_one_line_and_one_point_per_class(store: Store) -> None:
    """Reference: means over the two finished seeds in float64; the class without β is left out."""
    ((left, right),) = _panels(beta(Picture(Results(store))).axes)
    mean = np.mean(np.array(WALKS, np.float64), axis=0)[:, TAIL]
    (lines,) = _of(left, LineCollection)
    drawn = np.array([segment[:, 1] for segment in lines.get_segments()])
    assert_close(drawn, mean.T, 1e-6, "lines, large classes first")
    assert_close(lines.get_segments()[0][:, 0], np.arange(1, EPOCHS + 1), 0.0, "epochs")
    (points,) = _of(right, PathCollection)
    counts = np.array(COUNTS)[TAIL]
    assert_close(points.get_offsets(), np.column_stack([counts, mean[-1]]), 1e-6, "points")
    (bars,) = _of(right, LineCollection)
    ends = np.array(WALKS)[:, -1, TAIL]
    low, high = ends.min(0), ends.max(0)
    assert_close(np.array(bars.get_segments())[:, :, 1], np.c_[low, high], 1e-6, "bars")
    assert (low < high).any(), "the seeds must differ"


def test_the_thick_lines_are_means(store: Store) -> None:
    """Reference: means over medium (20…100) and few (< 20), and over the classes that have at most
    1.5 times a size, or it 1.5 times theirs, one by one in float64; dashed is the start."""
    ((left, right),) = _panels(beta(Picture(Results(store))).axes)
    mean = np.mean(np.array(WALKS, np.float64), axis=0)
    named = {line.get_label(): line for line in left.lines}
    assert set(named) == {"medium, mean", "few, mean", "start"}
    assert_close(named["medium, mean"].get_ydata(), mean[:, 1:4].mean(1), 1e-6, "medium")
    assert_close(named["few, mean"].get_ydata(), mean[:, 4:].mean(1), 1e-6, "few")
    assert_close(named["start"].get_ydata(), [START, START], 1e-6, "start")
    running, start = right.lines
    sizes = [4, 10, 15, 30, 60, 90]
    wanted = [
        np.mean([mean[-1, k] for k in TAIL if 1 / 1.5 <= COUNTS[k] / n <= 1.5]) for n in sizes
    ]
    assert NEIGHBOURS == 1.5
    assert_close(running.get_xdata(), sizes, 0.0, "sizes")
    assert_close(running.get_ydata(), wanted, 1e-6, "running mean")
    assert_close(start.get_ydata(), [START, START], 1e-6, "start")


def test_small_classes_are_dark(store: Store) -> None:
    """Reference: luminance (Rec. 709) rises with the training count, for grey print."""
    ((left, _),) = _panels(beta(Picture(Results(store))).axes)
    (lines,) = _of(left, LineCollection)
    luminance = lines.get_colors()[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luminance) <= 0).all(), f"large classes first, got {luminance}"
    assert luminance[0] > luminance[-1] + 0.3, f"got {luminance}"


def test_the_best_on_val_are_drawn_and_the_rest_named(tmp_path: Path) -> None:
    """Reference: the order of macro accuracy on val; titles name the settings that differ."""
    rates = (0.1, 0.3, 0.2, 0.5, 0.4, 0.6)
    recipes = {lr: Recipe("crt", epochs=EPOCHS, lr=lr) for lr in rates}
    runs = [moved(recipe, WALKS[0], macro=100 * lr) for lr, recipe in recipes.items()]
    write(tmp_path / "r.sqlite", runs, COUNTS)
    best = [recipes[lr].id for lr in sorted(rates, reverse=True)]
    with Store(tmp_path / "r.sqlite") as store:
        with pytest.warns(UserWarning, match=f"4 of 6 .* Left out: {best[4]}, {best[5]}. Choose"):
            figure = beta(Picture(Results(store)))
        rows = _panels(figure.axes)
        assert [left.get_title(loc="left") for left, _ in rows] == [
            f"{name} · seed 0" for name in best[:MOST]
        ]
        assert [right.get_title(loc="right") for _, right in rows] == [
            "lr=0.6", "lr=0.5", "lr=0.4", "lr=0.3",
        ]  # fmt: skip
        ((left, right),) = _panels(beta(Picture(Results(store), tuple([best[5]]))).axes)
        assert left.get_title(loc="left").startswith(best[5])
        assert right.get_title(loc="right") == ""
        assert not _of(right, LineCollection), "one seed has no bars"


def test_recipes_by_name_and_by_beginning_of_the_id(tmp_path: Path) -> None:
    """Reference: the configurations that begin so or have that name, each once."""
    recipes = [Recipe("crt", epochs=EPOCHS, lr=lr) for lr in (0.1, 0.2)]
    recipes += [Recipe("lws"), Recipe("crt-cifar")]
    write(tmp_path / "r.sqlite", [moved(recipe, WALKS[0]) for recipe in recipes], COUNTS)
    crt, other, lws, variant = (recipe.id for recipe in recipes)
    with Store(tmp_path / "r.sqlite") as store:
        for wanted, ids in (
            (["lws"], {lws}),
            (["crt"], {crt, other}),
            ([crt[:-2]], {crt}),
            ([lws, "lws", other], {lws, other}),
            (["crt-"], {crt, other, variant}),
            ([], {crt, other, lws, variant}),
        ):
            rows = _panels(beta(Picture(Results(store), tuple(wanted))).axes)
            titles = [left.get_title(loc="left") for left, _ in rows]
            assert sorted(titles) == sorted(f"{name} · seed 0" for name in ids), wanted
        with pytest.raises(errors.ConfigError, match="no 'lsw' that moved β. Did you mean 'lws'?"):
            beta(Picture(Results(store), tuple(["lsw"])))


def test_a_bank_of_several(path: Path) -> None:
    """Reference: the configuration of the bank that is asked for; without, the question which."""
    other = Recipe("lws", epochs=EPOCHS)
    write(path, [moved(other, WALKS[0])], COUNTS, fingerprint="cd34")
    with Store(path) as store:
        with pytest.raises(errors.ConfigError, match="results of 2 banks. Choose one with --bank"):
            beta(Picture(Results(store)))
        ((left, _),) = _panels(beta(Picture(Results(store, bank="cd"))).axes)
        assert left.get_title(loc="left") == f"{other.id} · seed 0"


def test_configurations_share_the_axes(tmp_path: Path) -> None:
    """Reference: the most epochs and the widest range of β, whichever comes last."""
    runs = [
        moved(Recipe("crt", epochs=epochs), walk(COUNTS, epochs=epochs, seed=0), macro=epochs)
        for epochs in (3, 8)
    ]
    write(tmp_path / "r.sqlite", runs, COUNTS)
    with Store(tmp_path / "r.sqlite") as store:
        rows = _panels(beta(Picture(Results(store))).axes)
    assert [left.get_xlim() for left, _ in rows] == [(0.5, 8.5)] * 2
    traces: list[np.ndarray] = [run["traces"]["beta"][:, TAIL] for run in runs]
    ends = min(trace.min() for trace in traces), max(trace.max() for trace in traces)
    for panel in (panel for row in rows for panel in row):
        assert_close(panel.get_ylim(), [ends[0] - 0.05, ends[1] + 0.05], 1e-6, "β")


@pytest.mark.parametrize(
    ("counts", "epochs"),
    [
        (COUNTS, 1),
        ((20,) * 6, 5),
        ((7,), 5),
        ((30, 1), 3),
        ((90, 0, 3), 4),
        (tuple(range(1, 101)) * 6, 3),
    ],
    ids=["one epoch", "equal counts", "one class", "two classes", "an empty class", "600 classes"],
)
def test_edges(counts: tuple[int, ...], epochs: int, tmp_path: Path) -> None:
    """Reference: nothing to warn of; many classes are pixels in a drawing whose text stays text."""
    walks = [walk(counts, epochs=epochs, seed=seed) for seed in (0, 1)]
    runs = [moved(recipe, walked) for recipe, walked in zip(RECIPES, walks, strict=True)]
    write(tmp_path / "r.sqlite", runs, counts)
    with warnings.catch_warnings(), Store(tmp_path / "r.sqlite") as store:
        warnings.simplefilter("error")
        for form in ("png", "svg"):
            plot("beta", store, tmp_path / f"b.{form}")
        ((_, right),) = _panels(beta(Picture(Results(store))).axes)
    (points,) = _of(right, PathCollection)
    assert len(points.get_offsets()) == sum(0 < n <= 100 for n in counts)
    svg = (tmp_path / "b.svg").read_text()
    assert "training samples of a class" in svg
    bar = len(set(counts)) > 1  # always an image
    assert svg.count("<image") == bar + 3 * (len(counts) > 500), "lines, bars and points"


def test_without_beta_there_is_nothing_to_draw(tmp_path: Path) -> None:
    """Reference: one ConfigError with the path; fixed β, β of no class and older files count as
    none."""
    nowhere = np.full((3, len(COUNTS)), np.nan, np.float32)
    write(tmp_path / "r.sqlite", [moved(Recipe("ncm"), None), moved(RECIPES[0], nowhere)], COUNTS)
    with (
        Store(tmp_path / "r.sqlite") as store,
        pytest.raises(errors.ConfigError, match=r"No run in .*r\.sqlite moved β\. Sweep"),
    ):
        plot("beta", store, tmp_path / "b.pdf")
    assert not (tmp_path / "b.pdf").exists()


@pytest.mark.parametrize(
    ("kind", "output", "message"),
    [
        ("betta", "b.pdf", "Unknown plot 'betta'. Did you mean 'beta'?"),
        ("beta", "b.jpg", "b.jpg does not end in the name of a plot's format. Choose .pdf, .png"),
        ("beta", "b", "b does not end in the name"),
        ("beta", "none/b.pdf", "none is not a folder. Create it first."),
    ],
)
def test_bad_input(kind: str, output: str, message: str, store: Store, tmp_path: Path) -> None:
    """Reference: one ConfigError; nothing is written."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(errors.ConfigError) as caught:
        plot(kind, store, tmp_path / output)
    assert message in str(caught.value), f"got {caught.value}"
    assert sorted(tmp_path.iterdir()) == before


def test_every_kind_is_described() -> None:
    """Reference: the registry's own form, a line without a full stop."""
    for name, kind in KINDS.items():
        assert kind.description, name
        assert not kind.description.endswith("."), name


def _panels(axes: list[Axes]) -> list[tuple[Axes, Axes]]:
    """Left and right panels, row by row, without the colour bar."""
    panels = [each for each in axes if each.get_label() != "<colorbar>"]
    return list(zip(panels[::2], panels[1::2], strict=True))


def _of(axes: Axes, kind: type) -> list:
    return [each for each in axes.collections if isinstance(each, kind)]
