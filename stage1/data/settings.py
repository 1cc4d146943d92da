"""Options of a data set: name, type, range and help of each; nothing here loads PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from featbank.settings import option


@dataclass(frozen=True)
class DatasetSettings:
    """A data set by name, with its options; None stands for the data set's default.

    `stage1.data.catalogue.DATASETS` has the options that each data set takes, and their defaults.
    """

    name: str
    root: str | None = option(None, "Folder of the images.")
    download: bool = option(False, "Download to --root.")
    imbalance: float | None = option(
        None, "n_max / n_min of the training counts.", low=1, default_help="as they are"
    )
    val_per_class: int | None = option(
        None, "Training images of each class held out for val, which stage 1 never sees.", low=0
    )
    val_fraction: float | None = option(
        None,
        "Or a share of each class, at most 0.5, at least one image of a class of two or more.",
        above=0,
        high=0.5,
        default_help="none",
    )
    test_per_class: int | None = option(
        None, "Training images of each class held out for test, before those for val.", low=0
    )
    data_seed: int | None = option(
        None,
        "Seed of what is held out and of the long tail.",
        low=0,
        high=2**32 - 1,  # the range of numpy.random.RandomState
    )
    train_balanced: bool = option(
        False,
        "Keep the training images before the long tail, too, as the split train_balanced of the "
        "bank: what `oracle` learns from.",
    )
    train_list: str | None = option(
        None,
        "File of lines 'relative/path label' for the train split; published lists are expected in "
        "--root.",
    )
    test_list: str | None = option(None, "The same, of the test split.")
    val_list: str | None = option(None, "The same, of the val split.", default_help="no val split")
    train_balanced_list: str | None = option(
        None,
        "The same, of the split train_balanced of the bank, what `oracle` learns from: the images "
        "before the long tail was cut.",
        default_help="none",
    )
    class_names: str | None = option(
        None, "File with one class name per line.", default_help="classes are numbers"
    )
    image_size: int | None = option(
        None,
        "Resize the shorter side, keep the centre.",
        low=1,
        default_help="the images' own size",
    )
    resize: int | None = option(
        None,
        "Shorter side before the centre of --image-size is kept, as 256 before 224; 0 keeps the "
        "largest centre square.",
        low=0,
        default_help="0",
    )
    allow_outside: bool = option(
        False, "Read images outside --root, which lists name by .. or from /."
    )
    skip_unreadable: bool = option(False, "Leave missing and broken images out, with a warning.")
    stream: bool = option(
        False,
        "Decode images as they are used, in place of keeping them all in memory.",
        default_help="where they do not fit",
    )
