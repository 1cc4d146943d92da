"""The roles of the arrays of a table or a file, by the names that they have."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

COLUMNS: Mapping[str, Sequence[str]] = {
    "features": (
        *("embedding", "npy", "embeddings", "feature", "features", "f", "emb", "feat", "feats"),
    ),
    "label": ("label", "labels", "cls"),
    "split": ("split",),
    "index": ("index",),
    "path": ("path", "__key__"),
    "source_group": ("source_group",),
    "cell": ("cell",),
}
"""Columns of a table given alone, each by the names it may have."""

FILES = ("path", "file", "filename", "file_name", "name", "image_id", "slide_id", "id")
"""Names of the column of a table that has the names of a folder's files."""


def column_of(table: Container[str], names: Sequence[str]) -> str | None:
    """The first of `names` that is a column, or None."""
    return next((name for name in names if name in table), None)
