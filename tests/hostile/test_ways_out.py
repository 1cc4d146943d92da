"""Banks that lead elsewhere: links, foreign storage, cycles. Nothing outside the file is opened.

What lies outside is a named pipe: who opens it hangs. So each bank is read in a child process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featbank import errors
from tests.hostile.banks import (
    COPIES,
    DIM,
    FEATURE,
    ROWS,
    assert_refused_in_time,
    everything,
    opened,
    replace,
)
from tests.hostile.children import in_child


def outside(path: Path) -> str:
    """A place outside the bank: a pipe that hangs who opens it."""
    pipe = path.with_name("outside")
    if not pipe.exists():
        os.mkfifo(pipe)
    return str(pipe)


def external_link_to_a_dataset(path: Path) -> None:
    with opened(path) as file:
        del file[FEATURE]
        file[FEATURE] = h5py.ExternalLink(outside(path), "/x")


def external_link_to_a_column(path: Path) -> None:
    with opened(path) as file:
        del file["train/label"]
        file["train/label"] = h5py.ExternalLink(outside(path), "/x")


def external_link_to_a_view(path: Path) -> None:
    with opened(path) as file:
        del file["train/instance"]
        file["train/instance"] = h5py.ExternalLink(outside(path), "/x")


def external_link_to_a_split(path: Path) -> None:
    with opened(path) as file:
        del file["train"]
        file["train"] = h5py.ExternalLink(outside(path), "/train")


def external_link_to_the_classes(path: Path) -> None:
    with opened(path) as file:
        del file["classes"]
        file["classes"] = h5py.ExternalLink(outside(path), "/classes")


def external_link_to_a_classifier(path: Path) -> None:
    with opened(path) as file:
        del file["classifier/instance/weight"]
        file["classifier/instance/weight"] = h5py.ExternalLink(outside(path), "/x")


def external_link_to_the_batchnorm(path: Path) -> None:
    with opened(path) as file:
        del file["batchnorm"]
        file["batchnorm"] = h5py.ExternalLink(outside(path), "/x")


def external_link_beside_the_views(path: Path) -> None:
    with opened(path) as file:
        file["train/third"] = h5py.ExternalLink(outside(path), "/x")


def soft_link_to_a_dataset(path: Path) -> None:
    with opened(path) as file:
        file.move("train/label", "elsewhere")
        file["train/label"] = h5py.SoftLink("/elsewhere")


def soft_link_to_a_split(path: Path) -> None:
    with opened(path) as file:
        file["val"] = h5py.SoftLink("/test")


def soft_link_to_nothing(path: Path) -> None:
    with opened(path) as file:
        file["val"] = h5py.SoftLink("/nowhere")


def soft_link_to_itself(path: Path) -> None:
    with opened(path) as file:
        file["val"] = h5py.SoftLink("/val")


def split_twice(path: Path) -> None:
    with opened(path) as file:
        file["val"] = file["test"]


def dataset_twice(path: Path) -> None:
    with opened(path) as file:
        del file["test/label"], file["test/index"]
        file["test/label"] = file["train/label"]
        file["test/index"] = file["train/label"]


def group_in_itself(path: Path) -> None:
    with opened(path) as file:
        file["train/instance/instance"] = file["train/instance"]


def split_in_itself(path: Path) -> None:
    with opened(path) as file:
        file["train/train"] = file["train"]


def external_storage(path: Path) -> None:
    outer = [(outside(path), 0, 8 * ROWS)]
    replace(path, "train/label", None, shape=(ROWS,), dtype="i8", external=outer)


def virtual_dataset(path: Path) -> None:
    layout = h5py.VirtualLayout((COPIES, ROWS, DIM), np.float32)
    layout[:] = h5py.VirtualSource(outside(path), "x", (COPIES, ROWS, DIM))
    with opened(path) as file:
        del file[FEATURE]
        file.create_virtual_dataset(FEATURE, layout)


def virtual_dataset_that_grows(path: Path) -> None:
    """Asking for its shape opens the source."""
    layout = h5py.VirtualLayout((COPIES, ROWS, DIM), np.float32, maxshape=(COPIES, None, DIM))
    source = h5py.VirtualSource(
        outside(path), "x", (COPIES, ROWS, DIM), maxshape=(COPIES, None, DIM)
    )
    layout[:, : h5py.h5s.UNLIMITED, :] = source[:, : h5py.h5s.UNLIMITED, :]
    with opened(path) as file:
        del file[FEATURE]
        file.create_virtual_dataset(FEATURE, layout)


def virtual_dataset_within_the_file(path: Path) -> None:
    with opened(path) as file:
        file.move("train/label", "elsewhere")
        layout = h5py.VirtualLayout((ROWS,), np.int64)
        layout[:] = h5py.VirtualSource(".", "elsewhere", (ROWS,))
        file.create_virtual_dataset("train/label", layout)


WAYS_OUT = [
    (external_link_to_a_dataset, "train/instance/feature is a link"),
    (external_link_to_a_column, "train/label is a link"),
    (external_link_to_a_view, "train/instance is a link"),
    (external_link_to_a_split, "train is a link"),
    (external_link_to_the_classes, "classes is a link"),
    (external_link_to_a_classifier, "classifier/instance/weight is a link"),
    (external_link_to_the_batchnorm, "batchnorm is a link"),
    (external_link_beside_the_views, "train/third is a link"),
    (soft_link_to_a_dataset, "train/label is a link"),
    (soft_link_to_a_split, "val is a link"),
    (soft_link_to_nothing, "val is a link"),
    (soft_link_to_itself, "val is a link"),
    (split_twice, "are one dataset"),
    (dataset_twice, "are one dataset"),
    (split_in_itself, "are one dataset"),
    (external_storage, "stored in another file"),
    (virtual_dataset, "made of other datasets"),
    (virtual_dataset_that_grows, "made of other datasets"),
    (virtual_dataset_within_the_file, "made of other datasets"),
]


@pytest.mark.parametrize(("attack", "says"), WAYS_OUT)
def test_a_way_out_of_the_file(bank: Path, attack: Callable[[Path], None], says: str) -> None:
    """Links, foreign storage, cycles: refused, and nothing outside is opened."""
    attack(bank)
    assert_refused_in_time(bank, errors.Unsafe, says)


def test_a_group_in_itself_is_never_entered(bank: Path) -> None:
    """Below a view nothing but its features is looked at."""
    before = everything(bank)
    group_in_itself(bank)
    assert in_child(lambda: str(everything(bank) == before)).text == "True"


def test_nothing_else_is_looked_at(bank: Path) -> None:
    """Names the schema does not have may be anything: nobody reads them."""
    before = everything(bank)
    with opened(bank) as file:
        file["other"] = h5py.ExternalLink(outside(bank), "/x")
        file.attrs["other"] = "a text"
        file["train/instance/notes"] = json.dumps({"a": 1})
        for i in range(40):  # more than its header has room for
            file[FEATURE].attrs[f"note {i}"] = np.ones(20)
    assert in_child(lambda: str(everything(bank) == before)).text == "True"
