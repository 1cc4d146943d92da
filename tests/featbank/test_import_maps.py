"""Importing maps of features: pixels become rows, maps of val and test stay whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank
from featbank.exchange import ondisk
from featbank.exchange.dense import PixelSample
from tests.conftest import Run

SHAPES = {"train": (5, 4, 6), "val": (2, 4, 6), "test": (3, 4, 6)}
"""Maps, height and width of features; labels are twice as high and three times as wide."""
IGNORED = 255


def write(path: Path, **changed: Any) -> dict[str, np.ndarray]:
    """An archive of maps with labels 1…3, a few pixels ignored."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, (maps, h, w) in SHAPES.items():
        arrays[f"x_{split}"] = rng.normal(size=(maps, h, w, 5)).astype(np.float32)
        labels = rng.choice([1, 2, 3, IGNORED], (maps, 2 * h, 3 * w), p=[0.7, 0.15, 0.05, 0.1])
        arrays[f"y_{split}"] = labels.astype(np.uint8)
    arrays |= {name: value for name, value in changed.items() if value is not None}
    np.savez(path, **{n: a for n, a in arrays.items() if changed.get(n, a) is not None})
    return arrays


OPTIONS = ("--maps", "--ignore-label", str(IGNORED), "--label-base", "1", "-o", "bank.h5")


def test_every_pixel_becomes_a_row(featbank: Run) -> None:
    """Reference: a loop over cells; the label of a cell is that of the pixel at its middle."""
    arrays = write(Path("dense.npz"))
    done = featbank("import", "dense.npz", *OPTIONS)
    first = 0
    with Bank("bank.h5") as bank:
        assert bank.class_names == ["1", "2", "3"]
        for split, (maps, h, w) in SHAPES.items():
            x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
            rows = [
                (x[m, i, j], int(y[m, 2 * i + 1, 3 * j + 1]) - 1, first + m, (i, j))
                for m in range(maps)
                for i in range(h)
                for j in range(w)
                if y[m, 2 * i + 1, 3 * j + 1] != IGNORED
            ]
            features, labels, groups, cells = zip(*rows, strict=True)
            stored = bank.load(split)
            np.testing.assert_array_equal(stored[0], features)
            np.testing.assert_array_equal(stored[1], labels)
            np.testing.assert_array_equal(bank.source_groups(split), groups)
            np.testing.assert_array_equal(bank.cells(split), cells)
            left = maps * h * w - len(rows)
            assert bank.provenance["ignored"][split] == left
            assert f"{left} pixels of {split}" in done.stdout
            first += maps


def test_maps_of_val_and_test_are_kept(featbank: Run) -> None:
    """Whole, in float16, with labels at their own resolution and the numbers that they had."""
    arrays = write(Path("dense.npz"))
    featbank("import", "dense.npz", *OPTIONS)
    with Bank("bank.h5") as bank:
        assert list(bank.mapped) == ["val", "test"]
        assert bank.map_ids.tolist() == [1, 2, 3]
        maps = bank.maps("test")
        assert maps.images.tolist() == [7, 8, 9]
        for m in range(3):
            y = arrays["y_test"][m].astype(int)
            np.testing.assert_array_equal(maps.labels(m), np.where(y == IGNORED, -1, y - 1))
            x = arrays["x_test"][m].astype(np.float16)
            np.testing.assert_array_equal(maps.features(m), x)


@pytest.mark.parametrize("sample", [(), ("--pixels-per-image", "3")])
def test_maps_on_disk_are_read_one_at_a_time(
    sample: tuple[str, ...], featbank: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the bank of the same arrays in an archive, which are in memory."""
    groups = {f"source_group_{split}": np.arange(m) for split, (m, _, _) in SHAPES.items()}
    arrays = write(Path("dense.npz"), **groups)
    featbank("import", "dense.npz", *OPTIONS, *sample)
    with h5py.File("dense.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    monkeypatch.setattr(ondisk, "HELD_BYTES", 0)
    longest = []
    rows_of = ondisk.OnDisk._rows

    def rows(self: ondisk.OnDisk, start: int, stop: int) -> np.ndarray:
        if self.path.suffix == ".h5" and self.dtype == np.float32 and self.ndim == 4:
            longest.append(stop - start)
        return rows_of(self, start, stop)

    monkeypatch.setattr(ondisk.OnDisk, "_rows", rows)
    featbank("import", "dense.h5", *OPTIONS[:-1], "streamed.h5", *sample)
    assert set(longest) == {1}
    with Bank("bank.h5") as held, Bank("streamed.h5") as streamed:
        assert held.fingerprint == streamed.fingerprint


def test_pixels_are_sampled_per_image(featbank: Run) -> None:
    """As many of every map, the same ones again; another seed draws others."""
    write(Path("dense.npz"))
    sampled = ("--pixels-per-image", "7", "--overwrite")
    prints = []
    for seed in ("0", "0", "1"):
        featbank("import", "dense.npz", *OPTIONS, *sampled, "--pixel-seed", seed)
        with Bank("bank.h5") as bank:
            prints.append(bank.fingerprint)
            for split, (maps, *_) in SHAPES.items():
                counts = np.bincount(bank.source_groups(split))
                assert counts[counts > 0].tolist() == [7] * maps
            assert bank.provenance["pixels_per_image"] == 7
    assert prints[0] == prints[1] != prints[2]


def test_balanced_pixels() -> None:
    """Rare classes give all they have, the others share the rest; those of test are as likely as
    they come, in the mean."""
    labels = np.repeat([0, 1, 2, -1], [900, 90, 3, 7])
    rng = np.random.default_rng(0)
    labels = rng.permutation(labels)
    drawn = labels[PixelSample(43, balanced=True).draw(labels, "train", 0)]
    assert np.bincount(drawn).tolist() == [20, 20, 3]
    means = np.mean(
        [
            np.bincount(labels[PixelSample(100, True, seed).draw(labels, "test", 0)], minlength=3)
            for seed in range(200)
        ],
        axis=0,
    )
    np.testing.assert_allclose(means, [90.6, 9.06, 0.3], atol=1)


def test_names_groups_and_renumbering(featbank: Run) -> None:
    """Ids become names, source groups are those of maps, and names of the classes are their own."""
    arrays = write(Path("dense.npz"))
    ids = {f"y_{split}": arrays[f"y_{split}"].astype(np.int64) for split in SHAPES}
    ids = {name: np.where(y == IGNORED, y, 100 * y) for name, y in ids.items()}
    groups = {
        f"source_group_{split}": np.array([f"{split}{m // 2}" for m in range(maps)])
        for split, (maps, *_) in SHAPES.items()
    }
    write(Path("ids.npz"), **ids, **groups)
    featbank("import", "ids.npz", "--maps", "--renumber", "--ignore-label", "255", "-o", "ids.h5")
    with Bank("ids.h5") as bank:
        assert (bank.class_names, bank.map_ids.tolist()) == (["100", "200", "300"], [100, 200, 300])
        assert bank.maps("test").images.tolist() == [0, 0, 1]  # sorted by name: test before train
        assert set(bank.source_groups("test").tolist()) == {0, 1}
    Path("names.txt").write_text("road\ntree\ncar\n")
    featbank("import", "dense.npz", *OPTIONS, "--class-names", "names.txt")
    with Bank("bank.h5") as bank:
        assert bank.class_names == ["road", "tree", "car"]
    featbank("import", "dense.npz", "--maps", *OPTIONS[1:3], "--ignore-label", "2", "-o", "two.h5",
             "--label-base", "1")  # fmt: skip
    with Bank("two.h5") as bank:
        assert (bank.class_names, bank.map_ids.tolist()) == (["1", "3"], [1, 3])


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        (
            {},
            ("--maps", "--label-base", "1", "--class-names", "n.txt"),
            "the label 255, the classes",
        ),
        (
            {},
            ("--maps", "--ignore-label", "255", "--pixel-seed", "1", "-o", "b.h5"),
            "--pixel-seed is for a sample of pixels.",
        ),
        ({}, ("--pixels-per-image", "3", "-o", "b.h5"), "Give --maps as well."),
        ({}, (*OPTIONS, "--copies", "2"), "--copies is not for maps."),
        ({}, ("--maps", "--ignore-label", "sky", "-o", "b.h5"), "'sky' is a name"),
        ({"x_test": np.zeros((3, 24, 5))}, OPTIONS, "features have shape [3, 24, 5]"),
        ({"y_test": np.zeros((3, 8, 18))}, OPTIONS, "labels of maps have type float64"),
        ({"y_test": np.full((3, 8, 18), 255)}, OPTIONS, "test: no pixel has a label (3 maps)."),
        ({"y_test": np.full((3, 8, 18), 9)}, (*OPTIONS, "--class-names", "n.txt"), "the label 9"),
        (
            {"x_val": np.zeros((0, 4, 6, 5)), "y_val": np.zeros((0, 8, 18), int)},
            OPTIONS,
            "val has no maps. Leave the split out.",
        ),
        (
            {f"y_{split}": np.full((m, 2 * h, 3 * w), 255) for split, (m, h, w) in SHAPES.items()},
            OPTIONS,
            "No pixel of train, val, test has a label but 255. Check --ignore-label.",
        ),
        ({"source_group_test": np.arange(4)}, OPTIONS, "test/source_group has shape [4], test has"),
    ],
)
def test_what_cannot_be_imported(
    changed: dict[str, Any], options: tuple[str, ...], message: str, featbank: Run
) -> None:
    """One line each, and no bank."""
    write(Path("dense.npz"), **changed)
    Path("n.txt").write_text("road\ntree\ncar\n")
    error = featbank("import", "dense.npz", "-o", "b.h5", *options, code=2).stderr
    assert message in error, error
    assert error.count("\n") == 1
    assert not list(Path().glob("*.h5"))


def test_a_label_that_looks_ignored(featbank: Run) -> None:
    """A hint, as 255 would be a class of 256; a note where another number is ignored in vain."""
    write(Path("dense.npz"))
    done = featbank("import", "dense.npz", "--maps", "--dry-run")
    assert "if 255 stands for pixels without one, add --ignore-label 255" in done.stdout
    done = featbank("import", "dense.npz", "--maps", "--ignore-label", "254", "--dry-run")
    assert "ignored label 254: no pixel has it" in done.stdout


def test_an_image_without_a_label(featbank: Run) -> None:
    """It gives no rows; as a map it is there."""
    arrays = write(Path("dense.npz"))
    y = arrays["y_test"]
    y[1] = IGNORED
    write(Path("dense.npz"), y_test=y)
    featbank("import", "dense.npz", *OPTIONS)
    with Bank("bank.h5") as bank:
        assert set(bank.source_groups("test").tolist()) == {7, 9}
        assert (bank.maps("test").labels(1) == -1).all()


def test_a_val_of_whole_maps(featbank: Run) -> None:
    """Rows of a map are in train or in val."""
    write(Path("dense.npz"), x_val=None, y_val=None)
    done = featbank("import", "dense.npz", *OPTIONS, "--val-fraction", "0.2")
    assert "1 whole source group held out of train" in done.stdout
    with Bank("bank.h5") as bank:
        held = set(bank.source_groups("val"))
        assert len(held) == 1
        assert set(bank.source_groups("train")) == {0, 1, 2, 3, 4} - held
