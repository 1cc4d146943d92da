"""`featbank datasets`, and the way of images in folders from training to the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featbank.bank import Bank
from featbank.bank.verify import verify
from featbank.settings import value_text
from stage1.data.catalogue import DATASETS
from stage1.data.settings import DatasetSettings
from stage1.data.sources import READERS


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 8×8 images, dark and light, twelve each, and a broken one."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for row in range(12):
            array = rng.integers(low, low + 128, (8, 8, 3), np.uint8)
            Image.fromarray(array).save(folder / f"{row}.png")
    (tmp_path / "images/dark/x.png").write_text("broken")
    return tmp_path / "images"


def test_the_table_has_a_line_for_each_data_set(featbank: Callable) -> None:
    """Reference: the registry, row by row."""
    lines = featbank("datasets").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(DATASETS)
    for line, row in zip(lines[1:], DATASETS.values(), strict=False):
        assert line.endswith(row.description)
        assert all(f"{count:,}" in line for count in row.images.values())
        assert all("--" + need.replace("_", "-") in line for need in row.needs)


@pytest.mark.parametrize("name", DATASETS)
def test_a_name_shows_where_it_looks_and_what_it_takes(featbank: Callable, name: str) -> None:
    """Reference: every option and default of the registry's row."""
    row, shown = DATASETS[name], featbank("datasets", name).stdout
    assert row.place in shown
    assert row.description in shown
    for option in row.options:
        assert f"--{option.replace('_', '-')}" in shown
    for default in (*row.defaults.values(), *row.training.values(), *row.files.values()):
        assert f"default {value_text(default)}\n" in shown


def test_every_option_of_a_data_set_is_a_setting_that_some_data_set_takes() -> None:
    """Reference: the fields of `DatasetSettings`; what a data set needs, it takes."""
    fields = {field.name for field in dataclasses.fields(DatasetSettings)} - {"name"}
    assert fields == {option for row in DATASETS.values() for option in row.options}
    for row in DATASETS.values():
        assert {*row.needs, *row.defaults, *row.files} <= {*row.options}
    assert {row.reader for row in DATASETS.values()} == {*READERS}


def test_a_wrong_name_is_one_line(featbank: Callable) -> None:
    """The name that may be meant."""
    shown = featbank("datasets", "imagenet", code=2).stderr
    assert shown == ("featbank: No data set is called 'imagenet'. Did you mean 'imagenet-lt'?\n")


def test_from_a_folder_to_the_oracle(featbank: Callable, images: Path) -> None:
    """Reference: of 13 and 12 files two are for test and one for val, so n_max is 9.

    The broken one of the 13 is reported and in no split; the bank is one that `verify` passes.
    """
    left_out = r"left out, 1 in all: class 'dark' \(dark/x\.png\)\.$"
    with pytest.warns(UserWarning, match=left_out):
        featbank(
            *("train", "--dataset", "folder", "--root", images, "--test-per-class", 2),
            *("--val-per-class", 1, "--imbalance", 3, "--train-balanced", "--skip-unreadable"),
            *("--backbone", "resnet8", "--epochs", 1, "--batch-size", 4, "-o", "run"),
        )
    with pytest.warns(UserWarning, match=left_out):
        featbank("extract", "run", "-o", "bank.h5")
    assert all(check.status in ("ok", "note") for check in verify("bank.h5"))
    with Bank("bank.h5") as bank:
        counts = {split: np.bincount(bank.labels(split)).tolist() for split in bank.splits}
        assert list(bank.class_names) == ["dark", "light"]
        assert set(bank.paths("train") or ()) < set(bank.paths("train_balanced") or ())
    assert counts == {"train": [8, 3], "val": [1, 1], "test": [2, 2], "train_balanced": [8, 9]}
    shown = featbank("sweep", "bank.h5", "--recipe", "oracle", "-o", "r.sqlite").stdout
    assert "Wrote r.sqlite" in shown
