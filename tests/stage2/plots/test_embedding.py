"""t-SNE of a bank: which rows, that it keeps neighbours, and what is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_limits

from featbank import Bank, errors, write_bank
from stage2.plots.embedding import chosen_classes, draw, embed, write_embedding
from tests.conftest import Toy
from tests.stage2.compare import assert_close

COUNTS = (300, 150, 60, 25, 12, 5, 4)
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
ROWS = 30


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """Seven well-separated classes, D = 60."""
    rng = np.random.default_rng(0)
    centres = 6 * rng.normal(size=(7, 60))
    labels = {"train": np.repeat(np.arange(7), COUNTS), "test": np.repeat(np.arange(7), ROWS)}
    features = {
        split: {"instance": (centres[y] + rng.normal(size=(len(y), 60))).astype(np.float32)}
        for split, y in labels.items()
    }
    path = tmp_path_factory.mktemp("embed") / "bank.h5"
    write_bank(path, features, labels, class_names=NAMES)
    with Bank(path) as opened:
        yield opened


def test_it_is_scikit_learn_on_principal_components(bank: Bank) -> None:
    """Reference: scikit-learn's PCA and TSNE on the rows as they lie in the bank, by hand."""
    embedding = embed(bank, classes="many:2,few:1", perplexity=10, seed=3)
    x, y = bank.load("test")
    rows = np.flatnonzero(np.isin(y, [0, 1, 4]))
    assert np.array_equal(embedding.rows, rows)
    assert np.array_equal(embedding.labels, y[rows])
    with threadpool_limits(1):
        reduced = PCA(50, svd_solver="full").fit_transform(x[rows].astype(np.float64))
        wanted = TSNE(perplexity=10, init="pca", random_state=3).fit_transform(reduced)
    assert_close(embedding.points, wanted, 1e-5, "points")


def test_the_mean_of_experts(tmp_path: Path) -> None:
    """Reference: the embedding of a bank whose features are the mean, computed here in float64
    [SLA Fig. 5]; one expert by its own name; two joined by a plus; the caption says which."""
    rng = np.random.default_rng(1)
    y = np.repeat(np.arange(3), (20, 12, 9))
    sixths = [rng.integers(-40, 40, (41, 6)) + 120 * y[:, None] for _ in range(3)]
    experts = [6 * each.astype(np.float32) for each in sixths]  # whose means are exact in float32
    mean = (experts[0].astype(float) + experts[1] + experts[2]) / 3
    pair = (experts[0].astype(float) + experts[2]) / 2
    views = {f"expert{e}/instance": x for e, x in enumerate(experts)}
    write_bank(tmp_path / "experts.h5", {"train": views}, {"train": y})
    for name, view, x, words in (
        ("mean", None, mean, "mean of expert0+1+2/instance"),
        ("named", "instance", mean, "mean of expert0+1+2/instance"),
        ("one", "expert1/instance", experts[1], "view expert1/instance"),
        ("pair", "expert0/instance+expert2/instance", pair, "mean of expert0+2/instance"),
    ):
        write_bank(tmp_path / f"{name}.h5", {"train": {"instance": x}}, {"train": y})
        with Bank(tmp_path / "experts.h5") as bank, Bank(tmp_path / f"{name}.h5") as plain:
            got, wanted = embed(bank, view=view, classes="0,1,2"), embed(plain, classes="0,1,2")
            assert_close(got.points, wanted.points, 0.0, name)
            caption = draw(got, bank).get_supxlabel().replace("\u00a0", " ").replace("\n", " ")
            assert f"train, {words}, 41 rows" in caption, caption


def test_neighbours_stay_and_classes_stay_apart(bank: Bank) -> None:
    """Reference: trustworthiness by scikit-learn, and the class of the nearest point."""
    embedding = embed(bank)
    x, _ = bank.load("test")
    assert trustworthiness(x[embedding.rows], embedding.points, n_neighbors=5) > 0.85
    far = ((embedding.points[:, None] - embedding.points) ** 2).sum(2)
    np.fill_diagonal(far, np.inf)
    assert (embedding.labels[far.argmin(1)] == embedding.labels).mean() > 0.99


def test_a_seed_gives_one_picture(bank: Bank) -> None:
    """Reference: the same call again, to the last bit; another seed draws other rows."""
    options = {"classes": "many:2,few:1", "split": "train", "per_class": 20}
    one, again = embed(bank, **options), embed(bank, **options)
    assert np.array_equal(one.points, again.points)
    assert np.array_equal(one.rows, again.rows)
    assert np.bincount(one.labels).tolist() == [20, 20, 0, 0, 12]
    assert not np.array_equal(one.rows, embed(bank, seed=1, **options).rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6]),
        ("few:2", [4, 6]),
        ("few:9", [4, 5, 6]),
        ("eel, bee", [1, 4]),
        ("2,dog,many:1", [0, 2, 3]),
        ("ant,0", [0]),
    ],
)
def test_classes(text: str | None, expected: list[int], bank: Bank) -> None:
    """Reference: the training counts by hand, most first; a group's are evenly spaced."""
    assert chosen_classes(bank, text) == expected


def test_a_table(bank: Bank, tmp_path: Path) -> None:
    """Reference: the embedding, to the six digits that are written."""
    embedding = embed(bank, classes="cat,gnu", perplexity=5)
    write_embedding(embedding, bank, tmp_path / "e.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "e.csv").read_text())))
    assert [int(row["row"]) for row in rows] == embedding.rows.tolist()
    assert {(row["class"], row["name"], row["group"]) for row in rows} == {
        ("2", "cat", "medium"),
        ("6", "gnu", "few"),
    }
    points = [[float(row["x"]), float(row["y"])] for row in rows]
    assert_close(points, embedding.points, 1e-4, "points")


def test_a_picture(bank: Bank, tmp_path: Path) -> None:
    """Reference: every row a point of its class; names do not cover one another; the caption."""
    embedding = embed(bank, perplexity=5)
    figure = draw(embedding, bank, 3.3)
    (axes,) = figure.axes
    for k, points in enumerate(axes.collections):
        assert_close(points.get_offsets(), embedding.points[embedding.labels == k], 1e-6, NAMES[k])
    assert [text.get_text() for text in axes.texts] == NAMES
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place]), NAMES[place]
    caption = figure.get_supxlabel().replace("\u00a0", " ").replace("\n", " ")
    for words in (bank.fingerprint[:12], "test, view instance", "210 rows of 7 of 7", "seed 0"):
        assert words in caption
    write_embedding(embedding, bank, tmp_path / "e.svg")
    assert "gnu" in (tmp_path / "e.svg").read_text()


def test_labels_on_one_spot_are_moved_apart(bank: Bank) -> None:
    """Reference: the boxes of the names where all classes lie on the same points."""
    embedding = embed(bank, perplexity=5)
    embedding.points[:] = np.random.default_rng(0).normal(size=embedding.points.shape)
    figure = draw(embedding, bank, 3.3)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place]), NAMES[place]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": "foxx"}, "has no class 'foxx'. Write a name, an index below 7 or many:3."),
        ({"classes": "foxx"}, "Did you mean 'fox'?"),
        ({"classes": "7"}, "has no class '7'"),
        ({"classes": "few:0"}, "has no class 'few:0'"),
        ({"perplexity": 0.5}, "must be a float ≥ 1 and below the 210 rows, got 0.5."),
        ({"perplexity": 210.0}, "below the 210 rows, got 210."),
        (
            {"classes": "ant", "per_class": 3},
            "3 of them drawn; t-SNE needs 4. Raise --per-class.",
        ),
        ({"split": "val"}, "val"),
        ({"view": "balanced"}, "balanced"),
    ],
)
def test_bad_input(options: dict, message: str, bank: Bank) -> None:
    """Reference: one ConfigError with a remedy."""
    with pytest.raises(errors.ConfigError) as caught:
        embed(bank, **options)
    assert message in str(caught.value), caught.value


def test_a_group_without_classes(make_toy: Callable[..., Toy], tmp_path: Path) -> None:
    """Reference: the default leaves it out, asking for it is an error."""
    with Bank(make_toy((90, 50, 5)).write(tmp_path / "toy.h5")) as bank:
        assert chosen_classes(bank) == [0, 1, 2]
        with pytest.raises(errors.ConfigError, match="has no class with n > 100. Leave many:3 out"):
            chosen_classes(bank, "many:3")
