"""The split train_balanced of a second list file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featbank import Bank, errors
from featbank.bank.verify import verify
from stage1.data.datasets import load_dataset
from stage1.data.settings import DatasetSettings
from stage1.extraction.extract import extract
from stage1.training.settings import default_settings
from stage1.training.train import train
from tests.stage1.conftest import MakeLists


@pytest.fixture
def options(make_lists: MakeLists, tmp_path: Path) -> dict[str, Any]:
    """A tail of eight images and two, and the list of all sixteen before it was cut."""
    options: dict[str, Any] = make_lists(all=[0] * 8 + [1] * 8, test=[0, 1])
    file = Path(options.pop("all_list"))
    lines = file.read_text().splitlines(keepends=True)
    train_list = tmp_path / "train.txt"
    train_list.write_text("".join(lines[:10]))
    return {**options, "train_list": str(train_list), "train_balanced_list": str(file)}


def test_the_list_of_all_images_becomes_a_split(
    options: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Reference: the lines of both lists; in the bank, the rows that stage 1 saw, by path."""
    settings = default_settings(
        DatasetSettings("lists", **options), backbone="resnet8", epochs=1, batch_size=4
    )
    train(settings, tmp_path / "run")
    extract(tmp_path / "run", tmp_path / "bank.h5", balanced_batches=1)
    with Bank(tmp_path / "bank.h5") as bank:
        assert bank.labels("train_balanced").tolist() == [0] * 8 + [1] * 8
        assert bank.paths("train_balanced")[:10] == bank.paths("train")  # type: ignore[index]
        assert bank.seen("train_balanced").tolist() == [True] * 10 + [False] * 6
        assert bank.train_counts.tolist() == [8, 2]
        here, there = bank.load("train_balanced")[0][:10], bank.load("train")[0]
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5)
    assert [check.name for check in verify(tmp_path / "bank.h5") if check.status == "failed"] == []
    assert not [w for w in recwarn if "share" in str(w.message)]


def test_images_held_out_for_val_are_no_part_of_it(options: dict[str, Any]) -> None:
    """Reference: the paths of both splits together are those of the list, each once."""
    dataset = load_dataset(DatasetSettings("lists", **options, val_per_class=1))
    val, whole = dataset.splits["val"].paths, dataset.splits["train_balanced"].paths
    assert val
    assert whole
    assert len(val) == 2
    assert sorted(val + whole) == sorted(f"all/{row} of all.png" for row in range(16))
    assert dataset.splits["train_balanced"].index.tolist() == [
        row for row in range(16) if f"all/{row} of all.png" not in val
    ]


def test_lists_of_val_alone_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """Reference: the sentence; and a data set that cuts its own tail takes no list."""
    settings = DatasetSettings("lists", **options, val_per_class=1)
    val = load_dataset(settings).splits["val"].paths
    assert val
    few = tmp_path / "few.txt"
    few.write_text("".join(f"{path} 0\n" for path in val))
    options["train_balanced_list"] = str(few)
    with pytest.raises(errors.DataError, match="names only images that are held out for val"):
        load_dataset(DatasetSettings("lists", **options, val_per_class=1))
    with pytest.raises(errors.ConfigError, match="does not take --train-balanced-list; it takes"):
        load_dataset(DatasetSettings("digits-lt", train_balanced_list=str(few)))


def test_images_of_a_val_list_are_a_warning(options: dict[str, Any], tmp_path: Path) -> None:
    """Reference: the sentence on shared images: an oracle must not learn from val."""
    val = tmp_path / "val.txt"
    val.write_text("all/15 of all.png 1\n")
    with pytest.warns(UserWarning, match="lists of val and train_balanced share 1 image"):
        load_dataset(DatasetSettings("lists", **options, val_list=str(val)))
