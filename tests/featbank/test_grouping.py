"""Groups of classes by counts, shares and lists, against loops over the classes."""

from __future__ import annotations

import numpy as np
import pytest

from featbank import errors
from featbank.bank import GROUPS, ClassGroups, class_groups

COUNTS = np.array([5000, 101, 100, 20, 19, 0, 7])


def by_loop(counts: np.ndarray, high: float, low: float, background: int | None) -> list[int]:
    """The group of each class, one comparison at a time."""
    member = []
    for k, n in enumerate(counts.tolist()):
        if k == background:
            member.append(-1)
        elif n > high:
            member.append(0)
        elif n < low:
            member.append(2)
        else:
            member.append(1)
    return member


@pytest.mark.parametrize("background", [None, 0, 6])
def test_thresholds(background: int | None) -> None:
    """A count at a threshold is in the middle group; the background is in none."""
    usual = ClassGroups.usual(COUNTS, background)
    assert usual.member.tolist() == by_loop(COUNTS, 100, 20, background)
    assert (usual.stated, usual.names) == (GROUPS, tuple(GROUPS))
    assert usual.equals(ClassGroups.by_thresholds(COUNTS, 100, 20, background=background))
    other = ClassGroups.by_thresholds(COUNTS, 1000, 7, ("a", "b", "c"), background)
    assert other.member.tolist() == by_loop(COUNTS, 1000, 7, background)
    assert other.rules == ("n > 1000", "7 ≤ n ≤ 1000", "n < 7")
    assert not other.equals(usual)


def test_masks_are_those_without_a_background() -> None:
    """As `class_groups` has them: by key, whatever the names."""
    groups = ClassGroups.by_thresholds(COUNTS, 100, 20, ("head", "body", "tail"))
    for key, mask in class_groups(COUNTS).items():
        np.testing.assert_array_equal(groups.masks[key], mask)
    assert groups.shown == {"many": "head", "medium": "body", "few": "tail"}
    assert [groups.key(n) for n in ("tail", "few", "top1")] == ["few", "few", "top1"]
    assert groups.of_classes() == [
        next(key for key, mask in groups.masks.items() if mask[k]) for k in range(len(COUNTS))
    ]


@pytest.mark.parametrize("background", [None, 0])
def test_shares(background: int | None) -> None:
    """Of the sum of all classes but the background, as ADE20K's of pixels."""
    counts = np.array([10**10, 10**8, 10**6, 99_000, 1_000_000, 10_000_001])
    groups = ClassGroups.by_shares(counts, background=background)
    total = sum(n for k, n in enumerate(counts.tolist()) if k != background)
    shares = np.array([n / total for n in counts.tolist()])
    assert groups.member.tolist() == by_loop(shares, 0.01, 0.001, background)
    assert groups.names == ("head", "body", "tail")
    assert groups.rules == ("share > 1 %", "0.1 % ≤ share ≤ 1 %", "share < 0.1 %")


def test_lists() -> None:
    """Names, initials in any case, numbers, and classes in no group."""
    groups = ClassGroups.by_list(["r", "C", "frequent", "-", 2, "1"])
    assert groups.member.tolist() == [2, 1, 0, -1, 2, 1]
    assert groups.names == ("frequent", "common", "rare")
    assert groups.of_classes("none")[3] == "none"
    assert ClassGroups.by_list(["r", "c"], background=1).member.tolist() == [2, -1]
    with pytest.raises(errors.DataError, match="Class 1 is listed in group 'x', the groups are"):
        ClassGroups.by_list(["r", "x"])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a", "b"), "2 names of class groups"),
        (("a", "b", "b"), "Give three different names"),
        (("few", "medium", "many"), "keep this order"),
        (("a", "b", "c" * 21), "at most 20 printable"),
        (("a", "b", "c\n"), "at most 20 printable"),
        (("a", "b", ""), "'' cannot name a class group"),
        (("a", "b", "<c>"), "cannot name a class group"),
    ],
)
def test_names_that_cannot_be(names: tuple[str, ...], says: str) -> None:
    """Each in one line."""
    with pytest.raises(errors.ConfigError, match=says) as caught:
        ClassGroups.by_thresholds(COUNTS, 100, 20, names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("high", "low"), [(20, 100), (0, 0), (-1, -2), (np.nan, 1)])
def test_bounds_that_cannot_be(high: float, low: float) -> None:
    """The higher first, both above 0; shares at most 1."""
    with pytest.raises(errors.ConfigError, match="cannot be bounded by"):
        ClassGroups.by_thresholds(COUNTS, high, low)
    with pytest.raises(errors.ConfigError, match="at most 1"):
        ClassGroups.by_shares(COUNTS, 2, 1)


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ([0, 3], "Class 1 is in group 3"),
        ([-2, 0], "Class 0 is in group -2"),
        ([-1, -1], "No class is in a group"),
        ([0.5, 1], "type float64"),
        ([[0]], "shape"),
    ],
)
def test_members_that_cannot_be(member: list, says: str) -> None:
    """Anything but 0…2 and −1 for none."""
    with pytest.raises(errors.DataError, match=says):
        ClassGroups(tuple(GROUPS), tuple(GROUPS.values()), np.array(member))
