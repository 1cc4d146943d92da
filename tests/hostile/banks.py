"""A bank with everything a bank can have, and a reader of all its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featbank import Bank, BankWriter, errors
from featbank.bank import schema
from tests.hostile.children import in_child

FEATURE = "train/instance/feature"
VIEWS = ("instance", "balanced")
COPIES, ROWS, DIM, CLASSES = 2, 24, 8, 3
TOKENS, WIDTH = 5, 6


def write_full(
    path: Path,
    *,
    rows: int = ROWS,
    dim: int = DIM,
    dtype: str = "float32",
    seed: int = 0,
    foundation: bool = False,
) -> Path:
    """Write a bank with splits, views, copies, paths, classifier, batchnorm and provenance, and
    that of a `foundation` model with tokens, views of two widths, text and a default scale.

    Features come in blocks of a third of the rows.
    """
    rng = np.random.default_rng(seed)
    names = ["apple", "bär", "猫"]
    with BankWriter(
        path, names, dim=dim, dtype=dtype, provenance={"made_by": "a test"}, overwrite=True
    ) as writer:
        for split, count in (("train", rows), ("test", rows // 2)):
            writer.split(
                split,
                rng.integers(0, 3, count),
                index=rng.permutation(count),
                paths=[f"{split}/{i}.png" for i in range(count)],
                source=f"the {split} images",
            )
            for view in VIEWS:
                features = writer.features(split, view, copies=COPIES)
                for block in np.array_split(rng.normal(size=(COPIES * count, dim)), 6):
                    features.append(block)
            if foundation:
                features = writer.features(split, "tokens", tokens=TOKENS, dim=WIDTH)
                features.append(rng.normal(size=(count, TOKENS, WIDTH)))
        for view in VIEWS:
            writer.batchnorm(view, {"bn1": (rng.normal(size=4), rng.uniform(size=4))})
        writer.classifier("instance", rng.normal(size=(3, dim)), rng.normal(size=3))
        if foundation:
            writer.text("instance", rng.normal(size=(2, 3, dim)), 100.0)
            writer.text("tokens", rng.normal(size=(3, WIDTH)), 14.3)
            writer.default_scale("tokens", "unit")
    return path


def everything(path: Path) -> dict[str, Any]:
    """Open a bank and read all its content."""
    with Bank(path) as bank:
        content: dict[str, Any] = {
            name: getattr(bank, name)
            for name in "splits views num_classes dim class_names fingerprint".split()  # noqa: SIM905
        }
        content |= {"provenance": bank.provenance, "digests": bank.digests}
        content |= {"classifiers": bank.classifiers, "train_counts": bank.train_counts.tolist()}
        for split in bank.splits:
            content[f"{split}/label"] = bank.labels(split).tolist()
            content[f"{split}/index"] = bank.index(split).tolist()
            content[f"{split}/source"] = bank.source(split)
            content[f"{split}/path"] = bank.paths(split)
            for view in bank.views:
                copies, rows, *_ = content[f"{split}/{view}"] = bank.shape(split, view)
                content[f"{split}/{view}/type"] = bank.dtype
                for copy in range(copies):
                    block = bank.read(split, view, 0, rows, copy=copy)
                    content[f"{split}/{view}/{copy}"] = block.tobytes()
        for view in bank.views:
            if text := bank.text(view):
                content[f"{view}/text"] = text.features.tobytes(), text.logit_scale
            content[f"{view}/scale"] = bank.default_scale(view)
            content[f"{view}/classifier"] = [a.tobytes() for a in bank.classifier(view) or ()]
            content[f"{view}/batchnorm"] = {
                layer: [a.tobytes() for a in pair] for layer, pair in bank.batchnorm(view).items()
            }
    return content


def opened(path: Path) -> h5py.File:
    """A bank opened for a change, in the format banks are written in."""
    return h5py.File(path, "r+", libver=schema.LIBVER)


def replace(path: Path, name: str, array: object, **options: object) -> None:
    """Put another dataset in the place of `name`, with checksums, its attributes kept."""
    with opened(path) as file:
        attributes = dict(file[name].attrs) if name in file else {}
        if name in file:
            del file[name]
        data = None if array is None else np.asarray(array)
        chunked = {"fletcher32": bool(data.size)} if data is not None and data.shape else {}
        dataset = file.create_dataset(name, data=data, **{**chunked, **options})
        for key, value in attributes.items():
            dataset.attrs[key] = value


def assert_refused(path: Path, kind: type[errors.BankError], says: str) -> None:
    """Reading all of a bank ends with this error, in one line that names the file."""
    with pytest.raises(errors.BankError) as caught:
        everything(path)
    assert_one_line(path, caught.type.__name__, str(caught.value), kind, says)


def assert_refused_in_time(path: Path, kind: type[errors.BankError], says: str) -> None:
    """The same in a child process, for files that could kill, block or fill their reader."""
    outcome = in_child(lambda: str(everything(path)))
    assert_one_line(path, outcome.kind, outcome.text, kind, says)


def assert_one_line(path: Path, error: str, text: str, kind: type, says: str) -> None:
    """The error has this kind, and its text one line that names the file and says this."""
    assert error == kind.__name__, f"{error}: {text}"
    assert says in text, text
    assert path.name in text, text
    assert "\n" not in text, text
