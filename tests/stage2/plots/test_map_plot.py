"""The plot of whole maps: truth, prediction and difference."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.maps import MapArrays, Maps
from stage2.export.headfile import load_head
from stage2.export.maps import MapClassifier
from stage2.plots import BANK_KINDS
from stage2.plots.figure import STYLE
from stage2.plots.maps import PALE, RIGHT, WRONG, labelled_maps
from stage2.plots.picture import BankPicture
from tests.conftest import Run
from tests.stage2.export.test_whole_maps import SIZES, make_bank, make_head, predicted


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank with maps."""
    return make_bank(tmp_path / "bank.h5")


@pytest.fixture
def head(bank: Path, tmp_path: Path) -> Path:
    """A head for it."""
    return make_head(tmp_path / "head.safetensors", bank)


@pytest.mark.parametrize("width", [3.3, 7.0])
def test_images_are_those_of_the_maps(width: float, bank: Path, head: Path) -> None:
    """Reference: predictions of the whole map at once; nothing is cut off."""
    with Bank(bank) as opened, warnings.catch_warnings(), matplotlib.rc_context(STYLE):
        warnings.simplefilter("error")
        figure = BANK_KINDS["maps"].draw(BankPicture(opened, head=head, width=width))
        figure.draw_without_rendering()
    box, (high, wide) = figure.get_tightbbox(), figure.get_size_inches()[::-1]
    assert min(box.x0, box.y0) >= 0
    assert (box.x1, box.y1) <= (wide, high)
    grid = np.array(figure.axes).reshape(len(SIZES), 3)
    for m, row in enumerate(grid):
        truth, classes = predicted(head, bank, m)
        difference = np.asarray(row[2].images[0].get_array())[..., 0]
        assert difference.shape == truth.shape
        known = truth >= 0
        expected = np.where(truth == classes, RIGHT, WRONG)
        np.testing.assert_allclose(difference[known], expected[known])
        assert (difference[~known] == 1).all()
        same = np.asarray(row[0].images[0].get_array()) == np.asarray(row[1].images[0].get_array())
        assert (same.all(-1) == (truth == classes))[known].all()


def test_the_command(bank: Path, head: Path, featbank: Run) -> None:
    """A file is written; a head is needed, and a bank with maps."""
    featbank("plot", "maps", bank, "--head", head, "-o", "maps.png")
    assert Path("maps.png").stat().st_size > 1000
    error = featbank("plot", "maps", bank, "-o", "maps.png", code=2).stderr
    assert "The plot 'maps' is of a head. Add --head head.safetensors." in error
    error = featbank("plot", "loss", bank, "--head", head, "-o", "p.png", code=2).stderr
    assert "The plot 'loss' takes no head. It is for: maps." in error
    plain = make_bank(Path("plain.h5"), maps=None, map_ids=None)
    error = featbank("plot", "maps", plain, "--head", head, "-o", "p.png", code=2).stderr
    assert "has no whole maps of test" in error


def test_maps_are_evenly_spread(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first and the last, where there are more than fit."""
    monkeypatch.setattr("stage2.plots.maps.MOST", 2)
    with Bank(tmp_path / "bank.h5") as opened, matplotlib.rc_context(STYLE):
        figure = BANK_KINDS["maps"].draw(BankPicture(opened, head=head))
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["image 4", "image 12"]


def test_labels_are_read_of_maps_to_be_drawn(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of all 30: those of two maps, and of one more as the last has no labels."""
    x = [np.zeros((2, 2, 3))] * 30
    labels = [np.zeros((2, 2), int)] * 29 + [np.full((2, 2), -1)]
    maps = {"test": MapArrays(np.arange(30), labels, {"instance": x})}
    read = []
    labels_of = Maps.labels
    monkeypatch.setattr(Maps, "labels", lambda self, m: read.append(m) or labels_of(self, m))
    with Bank(make_bank(tmp_path / "b.h5", maps=maps)) as opened:
        chosen = labelled_maps(MapClassifier(load_head(head), opened), 2)
    assert len(read) == 3
    assert read[:2] == [0, 29]
    assert chosen.tolist() == [0, read[2]]


def test_a_file_that_is_no_head(bank: Path) -> None:
    """The message of `load_head`."""
    with Bank(bank) as opened, pytest.raises(errors.ConfigError, match="HDF5 file, not a head"):
        BANK_KINDS["maps"].draw(BankPicture(opened, head=bank))


def test_maps_without_labels_are_left_out(head: Path, tmp_path: Path) -> None:
    """Unlabelled pixels are pale in the prediction; a map of them alone has no place."""
    rng = np.random.default_rng(1)
    labels = [np.full((4, 6), -1), rng.integers(0, 3, (4, 6))]
    labels[1][0] = -1
    x = [rng.normal(size=(4, 6, 3)) for _ in labels]

    def drawn(ids: list[int], labels: list[np.ndarray]) -> np.ndarray:
        maps = {"test": MapArrays(np.array(ids), labels, {"instance": x[: len(ids)]})}
        with (
            Bank(make_bank(tmp_path / "b.h5", maps=maps)) as opened,
            matplotlib.rc_context(STYLE),
        ):
            figure = BANK_KINDS["maps"].draw(BankPicture(opened, head=head))
        return np.array(figure.axes).reshape(-1, 3)

    ((truth, prediction, _),) = drawn([4, 9], labels)
    assert truth.get_ylabel() == "image 9"
    image = np.asarray(prediction.images[0].get_array())
    assert image[0].min() >= 1 - PALE
    assert image[1:].min() < 1 - PALE
    with pytest.raises(errors.DataError, match=r"No pixel of the maps of test has a label"):
        drawn([4], labels[:1])
