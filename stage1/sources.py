"""Where the images come from: a function per source, settings in, data set in memory out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from featbank import errors
from stage1.images import DatasetSettings, ImageDataset, Split, preprocessing_for
from stage1.lists import decode_images, read_class_names, read_list
from stage1.longtail import long_tail_split


def long_tailed(
    settings: DatasetSettings,
    train: tuple[np.ndarray, np.ndarray],
    *,
    class_names: Sequence[str],
    pad: int,
    flip: bool,
    source: str = "train",
    held_out: Mapping[str, int] | None = None,
    test: tuple[np.ndarray, np.ndarray] | None = None,
) -> ImageDataset:
    """Make arrays in memory a long-tailed data set (`stage1.longtail.long_tail_split`).

    Parameters
    ----------
    settings
        With `imbalance` and `data_seed`.
    train
        Images [N, C, H, W] uint8 and labels [N]: what is long-tailed, after `held_out`.
    class_names, pad, flip
        As in `ImageDataset` and `Preprocessing`.
    source
        Name of `train`, which the rows of every split but `test` point into.
    held_out
        Images per class of splits to take from `train` first.
    test
        The official test split, taken whole, where there is one.
    """
    images, labels = train
    assert settings.imbalance is not None
    assert settings.data_seed is not None
    rows = long_tail_split(labels, settings.imbalance, seed=settings.data_seed, held_out=held_out)
    splits = {name: _take(images, labels, chosen, source) for name, chosen in rows.items()}
    if test is not None:
        splits["test"] = _take(*test, np.arange(len(test[1])), "test")
    splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
    preprocessing = preprocessing_for(splits["train"].images, pad=pad, flip=flip)
    return ImageDataset(settings, splits, tuple(class_names), preprocessing)


def _take(images: np.ndarray, labels: np.ndarray, rows: np.ndarray, source: str) -> Split:
    chosen = torch.from_numpy(np.ascontiguousarray(images[rows]))
    return Split(chosen, torch.from_numpy(labels[rows].astype(np.int64)), rows, source=source)


def digits(settings: DatasetSettings) -> ImageDataset:
    """scikit-learn's 1,797 handwritten digits, 8×8, grey 0…16; loaded where they are asked for."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return long_tailed(
        settings,
        (source.images.astype(np.uint8)[:, None], source.target),
        class_names=[str(name) for name in source.target_names],
        pad=1,
        flip=False,
        source="digits",
        held_out={"val": 15, "test": 40},
    )


def cifar(settings: DatasetSettings) -> ImageDataset:
    """CIFAR-10 or CIFAR-100 from torchvision, which is loaded where it is asked for."""
    from torchvision import datasets

    kind = datasets.CIFAR100 if settings.name == "cifar100-lt" else datasets.CIFAR10
    try:
        sources = [
            kind(settings.root, train=train, download=settings.download) for train in (True, False)
        ]
    except RuntimeError:
        folder = Path(settings.root or "") / kind.base_folder
        raise errors.ConfigError(
            f"{folder} does not hold {kind.__name__} as its authors publish it. "
            "Add --download, or give --root the folder that holds it."
        ) from None
    train, test = ((s.data.transpose(0, 3, 1, 2), np.array(s.targets)) for s in sources)
    return long_tailed(
        settings,
        train,
        class_names=sources[0].classes,
        pad=4,
        flip=True,
        held_out={"val": settings.val_per_class} if settings.val_per_class else None,
        test=test,
    )


def lists(settings: DatasetSettings) -> ImageDataset:
    """Images named by list files; K from the class names, else the highest label of all lists."""
    assert settings.root is not None
    root = Path(settings.root)
    if not root.is_dir():
        raise errors.ConfigError(f"{root} is not a folder. Give --root the folder of the images.")
    names = read_class_names(Path(settings.class_names)) if settings.class_names else None
    entries_of = {
        split: read_list(Path(file), num_classes=len(names) if names else None)
        for split, file in (
            ("train", settings.train_list),
            ("val", settings.val_list),
            ("test", settings.test_list),
        )
        if file is not None
    }
    if names is None:
        top = max(entry.label for entries in entries_of.values() for entry in entries)
        names = tuple(str(k) for k in range(top + 1))
    if len(names) < 2:
        raise errors.DataError(f"{settings.train_list} has one class only. Give 2 or more.")
    splits: dict[str, Split] = {}
    for split, entries in entries_of.items():
        shape = tuple(splits["train"].images.shape[1:]) if splits else None
        splits[split] = Split(
            decode_images(entries, root, image_size=settings.image_size, shape=shape),
            torch.tensor([entry.label for entry in entries]),
            np.arange(len(entries)),
            tuple(entry.path for entry in entries),
        )
    images = splits["train"].images
    # CIFAR's 4 pixels of 32, in proportion.
    preprocessing = preprocessing_for(images, pad=min(images.shape[2:]) // 8, flip=True)
    return ImageDataset(settings, splits, names, preprocessing)
