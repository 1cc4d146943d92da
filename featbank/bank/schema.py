"""The bank format, schema 6: the datasets and attributes of a bank.

::

    /                         attributes: format, schema, complete, num_classes, dim, fingerprint
    /provenance          [n]  uint8: a JSON document that records how the bank was made
    /classes/name        [K]  fixed-length UTF-8 bytes
    /classes/train_count [K]  int64, samples of each class in the train split
    /classes/full_count  [K]  int64, counts of each class where the rows are a sample of the data
                              (optional, schema 6)
    /classes/background  [1]  int64, the background class (optional, schema 6)
    /classes/group       [K]  int64, 0…2, the group of a class, −1 for none, and
    /classes/group_name  [3]  fixed-length UTF-8 bytes, names from most to least frequent, and
    /classes/group_rule  [3]  fixed-length UTF-8 bytes, what makes a class a member (optional,
                              schema 6)
    /<split>/label       [N]  int64, 0…K−1
    /<split>/index       [N]  int64, row in the source data, which its attribute `source` names
    /<split>/path        [N]  fixed-length UTF-8 bytes (optional)
    /<split>/seen        [N]  uint8, whether stage 1 was trained on the row (optional, schema 2)
    /<split>/held_out    [N]  uint8, whether the row was taken out of train (optional, schema 2)
    /<split>/from_test   [N]  uint8, whether the row was taken out of test (optional, schema 3)
    /<split>/source_group [N] int64 ≥ 0, the image, patient or recording that a row comes from, the
                              same number in all splits (optional, schema 6)
    /source_groups/name  [G]  fixed-length UTF-8 bytes, names of the source groups 0…G−1 (optional,
                              schema 6)
    /<split>/cell     [N, 2]  int64 ≥ 0, row and column of a pixel in the grid of its image
                              (optional, schema 6)
    /<split>/<view>/feature [A, N, D]   float32 or float16; A augmentation copies, 1 by default;
                              [A, N, T, D] with T tokens per row, D may differ by view (schema 5)
    /maps/<split>/image  [M]  int64 ≥ 0, the source group of each whole map of val or test
    /maps/<split>/size [M, 4] int64 ≥ 1, height H and width W of its labels, h and w of its features
    /maps/<split>/label [Σ H·W] int64, 0…K−1, or −1 for pixels that are left out
    /maps/<split>/<view>/feature [1, Σ h·w, D]    float32 or float16
    /maps/id             [K]  int64, the number of each class in the label maps (all of maps
                              optional, schema 6)
    /classifier/<view>/weight [K, D], bias [K]    float32, the stage-1 classifier (optional)
    /batchnorm/<view>/<layer>/mean, variance      float32, BatchNorm statistics (optional); the
                              attribute `place` of a mean is the layer's place in the network
    /scale/<view>/norm   [1]  float32, root mean square norm of the rows of train (schema 3),
                              where stage 1 was not trained on them
    /experts/<view>/weight [1] float64, weight of the view's expert in averages over several views,
                              where it is not 1 (schema 4)
    /text/<view>/feature [P, K, D] float32, embeddings of P prompts for each class, and
    /text/<view>/logit_scale [1] float64, the factor of their cosines (optional, schema 5)
    /scale/<view>/default [1] fixed-length UTF-8 bytes, the default of recipes' `feature_scale`
                              (optional, schema 5)

``complete`` is 0 until everything else is on disk. Every dataset is chunked, with a fletcher32
checksum per chunk and the attribute ``sha256``, the digest of its content
(`featbank.bank.fingerprint`). Numbers are int64 attributes, texts fixed-length byte attributes:
variable-length attributes are stored in a heap without a checksum, where a flipped bit goes
unnoticed. docs/format.md describes the format for readers and writers in other languages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

FORMAT = "featbank"
SCHEMA = 6
"""A bank is written in the lowest schema that has its datasets, for older readers."""

LIBVER = ("v110", "v110")

SPLITS = ("train", "val", "test", "train_balanced")
EVALUATED = ("val", "test")
"""Splits that results are measured on."""

NORM, EXPERTS, FOUNDATION, PIXELS = 3, 4, 5, 6
"""The least schemas of a bank with a norm; with weights of experts; with tokens, views of several
widths, text or a default scale; with source groups, cells, counts from outside, a background,
class groups or maps."""

FLAGS = {"seen": 2, "held_out": 2, "from_test": 3}
"""Columns of 0 and 1, one per row of a split, each by the schema that a bank with it has."""

PLACES = {"source_group": (), "cell": (2,)}
"""Columns that say where a row comes from, by the axes that each has after the rows (`PIXELS`)."""

GROUP_NAMES = "source_groups/name"
"""The names of source groups (`PIXELS`)."""

SPLIT_COLUMNS = ("label", "index", "path", *FLAGS, *PLACES)
CLASS_GROUP = ("group", "group_name", "group_rule")
"""Datasets of ``classes`` that come together (`PIXELS`)."""

DTYPES = ("float32", "float16")

CHUNK_BYTES = 1 << 18
"""Size of a chunk: 256 KiB fit the processor's cache, so that reading with checksums is about as
fast as a plain read, and are small enough to shuffle by (scripts/benchmark_bank.py)."""

FEATURE_AXES = (3, 4)
"""[A, N, D], or [A, N, T, D] for tokens."""

LONGEST_SIDE = 1 << 20
"""The largest height or width of a map."""

SCALES = ("none", "unit", "standardise")
"""Scales of features that have a name; the others are factors > 0."""

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.\-]*"
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?")
_VIEW = re.compile(rf"{_NAME}(/{_NAME})?")


@dataclass(frozen=True)
class Layout:
    """Types and numbers of axes that a dataset may have; the type ``S`` is bytes of any length."""

    dtypes: tuple[str, ...]
    axes: tuple[int, ...]


_LAYOUTS = {
    r"provenance": Layout(("uint8",), (1,)),
    r"classes/name": Layout(("S",), (1,)),
    r"classes/(train_count|full_count|background|group)": Layout(("int64",), (1,)),
    r"classes/group_(name|rule)": Layout(("S",), (1,)),
    GROUP_NAMES: Layout(("S",), (1,)),
    r"[^/]+/(label|index)": Layout(("int64",), (1,)),
    r"[^/]+/path": Layout(("S",), (1,)),
    rf"[^/]+/({'|'.join(FLAGS)})": Layout(("uint8",), (1,)),
    r"maps/(id|[^/]+/(image|label))": Layout(("int64",), (1,)),
    r"maps/[^/]+/size": Layout(("int64",), (2,)),
    r"[^/]+/source_group": Layout(("int64",), (1,)),
    r"[^/]+/cell": Layout(("int64",), (2,)),
    r"classifier/.+/weight": Layout(("float32",), (2,)),
    r"classifier/.+/bias": Layout(("float32",), (1,)),
    r"batchnorm/.+/(mean|variance)": Layout(("float32",), (1,)),
    r"scale/.+/norm": Layout(("float32",), (1,)),
    r"experts/.+/weight": Layout(("float64",), (1,)),
    r"scale/.+/default": Layout(("S",), (1,)),
    r"text/.+/logit_scale": Layout(("float64",), (1,)),
    r"text/.+/feature": Layout(("float32",), (3,)),
    r"[^/]+/.+/feature": Layout(DTYPES, FEATURE_AXES),
}


def layout_of(name: str) -> Layout:
    """Layout of the dataset `name`, such as ``train/label``."""
    return next(layout for pattern, layout in _LAYOUTS.items() if re.fullmatch(pattern, name))


def split_columns(version: int) -> tuple[str, ...]:
    """Columns that a split of a bank of this schema may have."""
    return tuple(c for c in SPLIT_COLUMNS if version >= PIXELS or c not in PLACES)


def is_rows(name: str) -> bool:
    """Whether the dataset `name` holds the features of a split, or of its maps."""
    return name.endswith("/feature") and not name.startswith("text/")


def is_scale(text: str) -> bool:
    """Whether `text` is one of `SCALES`, or a number > 0."""
    return text in SCALES or (bool(_NUMBER.fullmatch(text)) and 0 < float(text) < math.inf)


def is_name(name: str) -> bool:
    """Whether `name` can be a part of a path in a bank: letters, digits, ``_``, ``.``, ``-``."""
    return bool(re.fullmatch(_NAME, name))


def is_view_name(name: str) -> bool:
    """Whether `name` can name a view: ``instance``, or two levels such as ``expert0/instance``."""
    first, _, second = name.partition("/")
    return bool(_VIEW.fullmatch(name)) and first not in SPLIT_COLUMNS and second != "feature"


def borrows(view: str) -> bool:
    """Whether a view without classifier or text can use those of ``instance``: not an inner layer
    of a backbone, ``layer11/cls``, whatever its D."""
    return not re.fullmatch(r"layer[0-9]+/.+", view)


def view_order(view: str) -> tuple[bool, str]:
    """Key that sorts views: ``instance``, then the others by name."""
    return view != "instance", view


def chunk_rows(rows: int, row_bytes: int) -> int:
    """Rows of one chunk: about `CHUNK_BYTES`, at least one row."""
    return max(1, min(rows, CHUNK_BYTES // max(1, row_bytes)))


def chunk_shape(name: str, shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Shape of the chunks of the dataset `name`: whole rows, in features of one copy or prompt."""
    lead = (1,) if name.endswith("/feature") else ()
    rows, *rest = shape[len(lead) :]
    return (*lead, chunk_rows(rows, math.prod(rest) * itemsize), *rest)
