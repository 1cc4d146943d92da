"""Source groups, cells and facts of classes of any content: refused in one line, or read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import Bank, errors
from featbank.bank import schema
from featbank.bank.verify import verify
from tests.featbank.test_pixel_banks import write
from tests.hostile.banks import (
    assert_one_line,
    assert_refused_in_time,
    everything,
    opened,
    replace,
)

GROUP, CELL, COUNT = "train/source_group", "train/cell", "classes/full_count"
BACKGROUND, MEMBER = "classes/background", "classes/group"
NAME, RULE = "classes/group_name", "classes/group_rule"
NAMES, ROWS = schema.GROUP_NAMES, 24
NAMED = {"source_group_names": [f"p{g}" for g in range(103)]}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank with all that schema 6 added for rows and classes."""
    return write(tmp_path / "full.h5", **NAMED)


def all_of(path: Path) -> dict[str, Any]:
    """All content of a bank, what schema 6 added included."""
    content = everything(path)
    with Bank(path) as bank:
        for split, name in ((s, n) for s in bank.splits for n in schema.PLACES):
            place = bank.place(split, name)
            content[f"{split}/{name}"] = None if place is None else place.tolist()
        content["names"] = bank.source_group_names
        content["outside"] = bank.full_counts.tolist()
        content["background"] = bank.background
        groups = bank.class_groups
        content["groups"] = groups.names, groups.rules, groups.member.tolist()
    return content


def outcome(path: Path) -> dict[str, Any] | None:
    """The content, or None where reading it ends with an error, in one line."""
    refusal = ""
    try:
        return all_of(path)
    except errors.BankError as error:
        refusal = str(error)
    assert "\n" not in refusal
    return None


def assert_refused(path: Path, kind: type[errors.BankError], says: str) -> None:
    """Reading all of a bank ends with this error."""
    with pytest.raises(errors.BankError) as caught:
        all_of(path)
    assert_one_line(path, caught.type.__name__, str(caught.value), kind, says)


ARRAYS = {
    "groups of another count": (GROUP, np.zeros(9, int), f"{GROUP} has shape [9], not [24]"),
    "groups below 0": (GROUP, np.arange(ROWS) - 5, f"{GROUP}: -5 in row 0 is negative"),
    "groups float": (GROUP, np.zeros(ROWS), f"{GROUP} has type float64"),
    "groups of two axes": (GROUP, np.zeros((ROWS, 1), int), "2 axes, not int64 and 1"),
    "numbers as names of groups": (NAMES, np.arange(103), f"{NAMES} has type int64"),
    "names of groups not UTF-8": (NAMES, np.array([b"a", b"\xff"]), f"{NAMES}: row 1 is not UTF-8"),
    "cells of three": (CELL, np.zeros((ROWS, 3), int), f"{CELL} has shape [24, 3], not [24, 2]"),
    "cells of one axis": (CELL, np.zeros(ROWS, int), "1 axes, not int64 and 2"),
    "cells below 0": (CELL, np.full((ROWS, 2), -1), f"{CELL}: -1 in row 0 is negative"),
    "counts of other classes": (COUNT, np.ones(4, int), f"{COUNT} has shape [4], not [3]"),
    "counts below 0": (COUNT, np.array([1, -2, 3]), f"{COUNT}: -2 in row 1 is negative"),
    "counts float": (COUNT, np.ones(3), f"{COUNT} has type float64"),
    "background beyond": (BACKGROUND, np.array([3]), f"{BACKGROUND} is 3, the classes are 0…2"),
    "background below 0": (BACKGROUND, np.array([-1]), f"{BACKGROUND} is -1, the classes are"),
    "two backgrounds": (BACKGROUND, np.array([0, 1]), f"{BACKGROUND} has shape [2], not [1]"),
    "background in a group": (BACKGROUND, np.array([1]), "has the background, class 1, in a group"),
    "members of other classes": (MEMBER, np.zeros(5, int), f"{MEMBER} has shape [5], not [3]"),
    "a fourth group": (MEMBER, np.array([0, 1, 3]), f"{MEMBER}: Class 2 is in group 3"),
    "no member": (MEMBER, np.array([-1, -1, -1]), "No class is in a group"),
    "two names": (NAME, np.array([b"a", b"b"]), f"{NAME} has shape [2], not [3]"),
    "a name twice": (NAME, np.array([b"a", b"a", b"b"]), "a, a, b cannot name class groups"),
    "names of others": (NAME, np.array([b"few", b"b", b"many"]), "cannot name class groups"),
    "a name with a control": (NAME, np.array([b"a", b"\x1b[31m", b"b"]), "cannot be one of the"),
    "a name not UTF-8": (NAME, np.array([b"a", b"\xff", b"b"]), "row 1 is not UTF-8"),
    "a name as markup": (NAME, np.array([b"a", b"<b>", b"c"]), "cannot name a class group"),
    "a long name": (NAME, np.array([b"a", b"b" * 21, b"c"]), "cannot be one of the names"),
    "a long rule": (RULE, np.array([b"a", b"b" * 61, b"c"]), "cannot be one of the rules"),
    "a rule of lines": (RULE, np.array([b"a", b"b\nc", b"c"]), "cannot be one of the rules"),
}


@pytest.mark.parametrize("case", ARRAYS.values(), ids=ARRAYS.keys())
def test_another_array(bank: Path, case: tuple[str, np.ndarray, str]) -> None:
    """Type, axes, shape and values."""
    name, array, says = case
    options = {"chunks": array.shape} if array.ndim == 2 else {}
    replace(bank, name, array, **options)
    assert_refused(bank, errors.Corrupt, says)


@pytest.mark.parametrize("name", [MEMBER, NAME, RULE])
def test_a_third_of_the_groups(bank: Path, name: str) -> None:
    """Members, names and rules come together."""
    with opened(bank) as file:
        del file[name]
    assert_refused(bank, errors.Corrupt, f"{name} is missing")


@pytest.mark.parametrize("name", [GROUP, CELL, COUNT])
def test_more_bytes_than_the_file_has(bank: Path, name: str) -> None:
    """Refused before memory is allocated, whatever the other columns have."""
    shape = (1 << 40, 2) if name == CELL else (1 << 40,)
    chunks = (24, *shape[1:])
    replace(bank, name, None, shape=shape, dtype="i8", chunks=chunks, fletcher32=True)
    assert_refused_in_time(bank, errors.Truncated, f"{name} declares")


def test_one_dataset_under_two_names(bank: Path) -> None:
    """As for features."""
    with opened(bank) as file:
        del file[COUNT]
        file[COUNT] = file[MEMBER]
    assert_refused(bank, errors.Unsafe, "are one dataset")


def test_schema_5_has_none_of_it(bank: Path) -> None:
    """A file that claims an earlier schema has no such columns, and its classes say no more."""
    with opened(bank) as file:
        file.attrs["schema"] = np.int64(5)
    assert_refused(bank, errors.Corrupt, f"{CELL} is not a group")


def test_verify_finds_what_opening_does_not(bank: Path) -> None:
    """Values of columns and facts, by the checks of their names."""
    replace(bank, GROUP, np.arange(ROWS) - 2)
    replace(bank, CELL, np.full((ROWS, 2), -1), chunks=(ROWS, 2))
    replace(bank, BACKGROUND, np.array([7]))
    found = {check.name: check.findings for check in verify(bank)}
    assert found["sources"] == (
        f"{CELL}: 24 rows negative, first 0",
        f"{GROUP}: 2 rows negative, first 0",
    )
    assert any(f"{BACKGROUND} is 7" in finding for finding in found["class facts"])
    assert {GROUP, CELL, BACKGROUND} == {finding.split(":")[0] for finding in found["digests"]}
    replace(bank, BACKGROUND, np.array([0]))
    replace(bank, COUNT, np.array([9, 0, 9]))
    replace(bank, GROUP, np.arange(ROWS))
    replace(bank, CELL, np.zeros((ROWS, 2), int), chunks=(ROWS, 2))
    replace(bank, NAMES, np.array([b"a", b"b"]))
    found = {check.name: check.findings for check in verify(bank)}
    assert found["class facts"] == (f"{COUNT} is 0 for class 1, which train has",)
    assert found["sources"] == (f"there is a source group 102, {NAMES} has 2 names",)
    replace(bank, NAMES, np.array([b"a", b"\xff"]))
    found = {check.name: check.findings for check in verify(bank)}
    assert found["sources"] == (f"{NAMES}: 1 row not UTF-8, first 1",)


def test_flips_anywhere(bank: Path) -> None:
    """Random bits: the same content or an error."""
    before, data = all_of(bank), bank.read_bytes()
    draw = np.random.default_rng(6)
    for _ in range(150):
        flipped = bytearray(data)
        flipped[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        bank.write_bytes(flipped)
        assert outcome(bank) in (before, None)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from([GROUP, CELL, COUNT, BACKGROUND, MEMBER, NAME, RULE, NAMES]),
    shape=st.lists(st.integers(0, 25), max_size=3),
    dtype=st.sampled_from(["f4", "i8", "S4", "u1"]),
)
def test_any_array_is_an_error_or_a_bank(
    name: str, shape: list[int], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any type and shape in the place of a dataset."""
    path = write(tmp_path_factory.getbasetemp() / "any6.h5", overwrite=True, **NAMED)
    array = np.ones(shape, dtype)
    replace(path, name, array, **({"chunks": tuple(shape)} if array.size and shape else {}))
    outcome(path)
