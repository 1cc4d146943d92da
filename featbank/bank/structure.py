"""The structure of a bank: its head and its tree, checked when a bank is opened."""

from __future__ import annotations

from itertools import product

from featbank import errors
from featbank.bank import schema
from featbank.bank.checked import CheckedFile


def read_head(file: CheckedFile) -> tuple[int, int, int]:
    """Schema, K and D of a finished bank.

    Raises
    ------
    NotABank, TooNew, Incomplete, Corrupt
    """
    attributes = file.attributes
    if "format" not in attributes or file.text(attributes, "format") != schema.FORMAT:
        raise errors.NotABank(
            f"{file.path} is an HDF5 file, but not a bank. "
            "Bring features in with `featbank import`."
        )
    version = file.number(attributes, "schema")
    if version > schema.SCHEMA:
        raise errors.TooNew(
            f"{file.path} has schema {version}, this version reads up to {schema.SCHEMA}. "
            "Update featbank."
        )
    if version < 1:
        raise file.corrupt(f"it has schema {version}, the first is 1")
    if file.number(attributes, "complete") != 1:
        raise errors.Incomplete(
            f"{file.path} was not finished by the run that wrote it. Run that command again."
        )
    num_classes, dim = (file.number(attributes, name) for name in ("num_classes", "dim"))
    for name, value, least in (("num_classes", num_classes, 2), ("dim", dim, 1)):
        if value < least:
            raise file.corrupt(f"{name} is {value}, the least is {least}")
    return version, num_classes, dim


def read_tree(
    file: CheckedFile, num_classes: int, dim: int
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Splits, views and the type of the features; every dataset has the shape it must have.

    Raises
    ------
    Corrupt, Truncated, Unsafe
    """
    splits = tuple(split for split in schema.SPLITS if file.has(split))
    if "train" not in splits:
        raise file.corrupt("there is no train split")
    views_of = {split: _views_of(file, split) for split in splits}
    views = tuple(views_of["train"])
    if not views:
        raise file.corrupt("there are no features")
    for split in splits:
        _check_split(file, split, views_of[split], views, dim)
    types = {
        str(file.dataset(f"{split}/{view}/feature").dtype): f"{split}/{view}"
        for split, view in product(splits, views)
    }
    if len(types) > 1:
        places = " and ".join(f"{place} is {dtype}" for dtype, place in types.items())
        raise file.corrupt(f"{places}, all features have one type")
    for view in dict.fromkeys((*views, "instance")):
        if any(file.has(f"classifier/{view}/{part}") for part in ("weight", "bias")):
            file.require_shape(f"classifier/{view}/weight", (num_classes, dim))
            file.require_shape(f"classifier/{view}/bias", (num_classes,))
        if view in views and file.has(f"batchnorm/{view}"):
            for layer in file.members(f"batchnorm/{view}"):
                mean = file.dataset(f"batchnorm/{view}/{layer}/mean")
                file.require_shape(f"batchnorm/{view}/{layer}/variance", mean.shape)
        if view in views and file.has(f"scale/{view}/norm"):
            file.require_shape(f"scale/{view}/norm", (1,))
        if view in views and file.has(f"experts/{view}/weight"):
            file.require_shape(f"experts/{view}/weight", (1,))
    return splits, views, next(iter(types))


def _views_of(file: CheckedFile, split: str) -> list[str]:
    """Views of a split: groups with features, or groups of such groups."""
    views = []
    for name in file.members(split):
        if name in schema.SPLIT_COLUMNS:
            continue
        inner = file.members(f"{split}/{name}")
        if "feature" in inner:
            views.append(name)
        else:
            nested = (f"{name}/{member}" for member in inner)
            views += [view for view in nested if file.has(f"{split}/{view}/feature")]
    return sorted(views, key=lambda view: (view != "instance", view))


def _check_split(
    file: CheckedFile, split: str, views: list[str], of_train: tuple[str, ...], dim: int
) -> None:
    rows = file.dataset(f"{split}/label").shape[0]
    file.text(file.dataset(f"{split}/index").attrs, "source")
    for column in ("index", "path", *schema.FLAGS):
        if column == "index" or file.has(f"{split}/{column}"):
            file.require_shape(f"{split}/{column}", (rows,))
    if set(views) != set(of_train):
        raise file.corrupt(
            f"{split} has the views {', '.join(views) or 'none'}, train has {', '.join(of_train)}"
        )
    for view in of_train:
        file.require_shape(f"{split}/{view}/feature", (None, rows, dim))
