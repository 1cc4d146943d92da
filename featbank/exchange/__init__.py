"""Arrays in other file formats, in and out: `featbank import` and `export-features`."""

from featbank.exchange.arrays import Arrays
from featbank.exchange.collect import (
    add_classifier,
    add_pair,
    add_text,
    add_view,
    read_file,
)
from featbank.exchange.dense import PixelSample, unfold_maps
from featbank.exchange.export import export_features
from featbank.exchange.exported import is_export, read_export
from featbank.exchange.formats import files_of, read_array
from featbank.exchange.origins import add_cells, add_source_groups
from featbank.exchange.report import provenance, report
from featbank.exchange.settle import settle
from featbank.exchange.val_split import hold_out_val, mark_seen

__all__ = [
    "Arrays",
    "PixelSample",
    "add_cells",
    "add_classifier",
    "add_pair",
    "add_source_groups",
    "add_text",
    "add_view",
    "export_features",
    "files_of",
    "hold_out_val",
    "is_export",
    "mark_seen",
    "provenance",
    "read_array",
    "read_export",
    "read_file",
    "report",
    "settle",
    "unfold_maps",
]
