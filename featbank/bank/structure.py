"""The structure of a bank: its head and its tree, checked when a bank is opened."""

from __future__ import annotations

from itertools import product

from featbank import errors
from featbank.bank import schema
from featbank.bank.checked import CheckedFile
from featbank.bank.maps import check_maps


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
    file: CheckedFile, version: int, num_classes: int, dim: int
) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Splits, views and the type of the features; every dataset has the shape it must have.

    Raises
    ------
    Corrupt, Truncated, Unsafe
    """
    splits = tuple(split for split in schema.SPLITS if file.has(split))
    if "train" not in splits:
        raise file.corrupt("there is no train split")
    views_of = {split: _views_of(file, split, version) for split in splits}
    views = tuple(views_of["train"])
    if not views:
        raise file.corrupt("there are no features")
    of_row = {view: _shape_of_row(file, version, view, dim) for view in views}
    if of_row[views[0]][-1] != dim:
        raise file.corrupt(f"dim is {dim}, {views[0]} has D = {of_row[views[0]][-1]}")
    for split in splits:
        _check_split(file, version, split, views_of[split], of_row)
    types = {
        str(file.dataset(f"{split}/{view}/feature").dtype): f"{split}/{view}"
        for split, view in product(splits, views)
    }
    if len(types) > 1:
        places = " and ".join(f"{place} is {dtype}" for dtype, place in types.items())
        raise file.corrupt(f"{places}, all features have one type")
    _check_models(file, version, num_classes, of_row)
    if version >= schema.PIXELS:
        _check_classes(file, num_classes)
        check_maps(file, num_classes, of_row)
        if file.has(schema.GROUP_NAMES):
            file.dataset(schema.GROUP_NAMES)
    return splits, views, next(iter(types))


def _views_of(file: CheckedFile, split: str, version: int) -> list[str]:
    """Views of a split: groups with features, or groups of such groups."""
    views = []
    for name in file.members(split):
        if name in schema.split_columns(version):
            continue
        inner = file.members(f"{split}/{name}")
        if "feature" in inner:
            views.append(name)
        else:
            nested = (f"{name}/{member}" for member in inner)
            views += [view for view in nested if file.has(f"{split}/{view}/feature")]
    return sorted(views, key=schema.view_order)


def _shape_of_row(file: CheckedFile, version: int, view: str, dim: int) -> tuple[int, ...]:
    """(D,) of a view, or (T, D) of tokens; banks before schema 5 have one D and no tokens."""
    if version < schema.FOUNDATION:
        return (dim,)
    of_row = file.dataset(f"train/{view}/feature").shape[2:]
    if 0 in of_row:
        raise file.corrupt(f"train/{view}/feature has rows of shape {list(of_row)}")
    return of_row


def _check_models(
    file: CheckedFile, version: int, num_classes: int, of_row: dict[str, tuple[int, ...]]
) -> None:
    """Check the shapes of all that belongs to views, and of what serves those without."""
    widths = {shape[-1] for shape in of_row.values()}
    for view in dict.fromkeys((*of_row, "instance")):
        own = {of_row[view][-1]} if view in of_row else widths
        if any(file.has(f"classifier/{view}/{part}") for part in ("weight", "bias")):
            _require_width(file, f"classifier/{view}/weight", (num_classes,), own)
            file.require_shape(f"classifier/{view}/bias", (num_classes,))
        parts = ("feature", "logit_scale") if version >= schema.FOUNDATION else ()
        if any(file.has(f"text/{view}/{part}") for part in parts):
            _require_width(file, f"text/{view}/feature", (None, num_classes), own)
            file.require_shape(f"text/{view}/logit_scale", (1,))
    for view in of_row:
        if file.has(f"batchnorm/{view}"):
            for layer in file.members(f"batchnorm/{view}"):
                mean = file.dataset(f"batchnorm/{view}/{layer}/mean")
                file.require_shape(f"batchnorm/{view}/{layer}/variance", mean.shape)
        for name in (f"scale/{view}/norm", f"scale/{view}/default", f"experts/{view}/weight"):
            known = version >= schema.FOUNDATION or not name.endswith("/default")
            if known and file.has(name):
                file.require_shape(name, (1,))


def _check_classes(file: CheckedFile, num_classes: int) -> None:
    """Check the shapes of what a bank says of its classes beside names and training counts."""
    shapes = {"full_count": num_classes, "background": 1}
    if any(file.has(f"classes/{name}") for name in schema.CLASS_GROUP):
        shapes |= {"group": num_classes, "group_name": 3, "group_rule": 3}
    for name, length in shapes.items():
        if name in schema.CLASS_GROUP or file.has(f"classes/{name}"):
            file.require_shape(f"classes/{name}", (length,))


def _require_width(
    file: CheckedFile, name: str, lead: tuple[int | None, ...], widths: set[int]
) -> None:
    """Raise unless a dataset has the shape (*lead, D) with a D of `widths`."""
    width = file.dataset(name).shape[-1]
    file.require_shape(name, (*lead, width if width in widths else min(widths)))


def _check_split(
    file: CheckedFile,
    version: int,
    split: str,
    views: list[str],
    of_row: dict[str, tuple[int, ...]],
) -> None:
    rows = file.dataset(f"{split}/label").shape[0]
    file.text(file.dataset(f"{split}/index").attrs, "source")
    for column in schema.split_columns(version):
        if column == "index" or file.has(f"{split}/{column}"):
            file.require_shape(f"{split}/{column}", (rows, *schema.PLACES.get(column, ())))
    if set(views) != set(of_row):
        raise file.corrupt(
            f"{split} has the views {', '.join(views) or 'none'}, train has {', '.join(of_row)}"
        )
    for view, shape in of_row.items():
        file.require_shape(f"{split}/{view}/feature", (None, rows, *shape))
