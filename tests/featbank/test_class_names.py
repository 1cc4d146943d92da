"""Classes matched by name: subsets, other orders, other spellings, and names that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import errors
from featbank.bank.class_names import match_classes
from featbank.exchange.embeddings import Embeddings

HEAD = ["ape", "bee", "maple_tree", "Straße", "C++"]


def places(names: list[str], head: list[str] = HEAD) -> list[int]:
    return match_classes(names, head, "bank.h5").places.tolist()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (HEAD, [0, 1, 2, 3, 4]),
        (["bee", "ape"], [1, 0]),
        (["cat", "ape"], [-1, 0]),
        (["Maple Tree", "maple-palm"], [2, -1]),
        (["maple\u00a0\u2010 tree "], [2]),
        (["STRASSE", "BEE"], [3, 1]),
        (["ape\u200b", "\ufeffbee"], [0, 1]),
        (["\uff41\uff50\uff45"], [0]),  # full width
        (["Ape", "ape"], [-1, 0]),  # two classes of the bank, one of the head
        (["Ape", "APE", "bee"], [-1, -1, 1]),
        (["c", "c#", "bee"], [-1, -1, 1]),
    ],
)
def test_names(names: list[str], expected: list[int]) -> None:
    """By hand."""
    assert places(names) == expected


def test_unicode_forms() -> None:
    """é of one character and of two; an exact name wins over another spelling of it."""
    assert places(["cafe\u0301"], ["ape", "caf\u00e9"]) == [1]
    assert places(["ape"], ["Ape", "ape"]) == [1]
    assert places(["aPe", "bee"], ["Ape", "ape", "bee"]) == [-1, 2]  # which of the two is open


def test_equal_lists_need_no_names() -> None:
    """Numbers and repeated names, as ImageNet's two cranes, in the same order."""
    assert places(["crane", "ox", "crane"], ["crane", "ox", "crane"]) == [0, 1, 2]
    assert places(["0", "1"], ["0", "1"]) == [0, 1]
    assert places(["7", "3"], [str(k) for k in range(10)]) == [7, 3]  # digits by name


@pytest.mark.parametrize(
    ("names", "head", "message"),
    [
        (["0", "1"], HEAD, "bank.h5 has no names for its 2 classes, the head has 5 ('ape', "),
        (["0", "1"], ["0", "1", "2"], "nothing says which is which. Give --class-names FILE"),
        (["cat", "dog"], HEAD, "No class of bank.h5 ('cat', 'dog') is one of the head ('ape', "),
        (["ape", "ape"], HEAD, "bank.h5 has several classes named 'ape'"),
        (["ox", "bee"], ["ox", "ox", "bee"], "the head has several classes named 'ox'"),
        (["\x1b[2J\n"], HEAD, r"('\x1b[2J\n')"),
        (["x" * 10_000], HEAD, "…"),
    ],
)
def test_nothing_says_which_is_which(names: list[str], head: list[str], message: str) -> None:
    """One printable line with both sides and a remedy."""
    with pytest.raises(errors.Mismatch) as caught:
        places(names, head)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_labels_and_notes() -> None:
    """Labels become the head's, those of unknown classes K and more; what differs is told."""
    match = match_classes(["cat", "BEE", "dog", "ape"], HEAD, "bank.h5")
    assert match.labels(np.array([0, 1, 2, 3, 0])).tolist() == [5, 1, 6, 0, 5]
    assert match.unknown == ["cat", "dog"]
    assert match.present.tolist() == [0, 1]
    assert match.absent == ["maple_tree", "Straße", "C++"]
    assert match.note == (
        "bank.h5 lacks 3 classes ('maple_tree', 'Straße', 'C++') of the head; the head does not "
        "know 2 classes ('cat', 'dog') of bank.h5; bank.h5 has its classes in another order, they "
        "are matched by name; taken for the same: 'BEE' as 'bee'"
    )
    same = match_classes(HEAD, HEAD, "bank.h5")
    assert same.same
    assert same.note == ""


@given(st.permutations(range(12)), st.integers(1, 12))
@settings(deadline=None)
def test_every_subset_in_every_order(order: list[int], size: int) -> None:
    """Reference: the places they were taken from."""
    head = [f"class {k}" for k in range(12)]
    assert places([head[k] for k in order[:size]], head) == order[:size]


def test_text_in_another_order_and_spelling() -> None:
    """Text embeddings go to the classes of their names, as labels do."""
    text = Embeddings(np.arange(8.0).reshape(1, 4, 2), ["Bee", "yak", "maple tree", "APE"], 1, "t")
    ordered = text.of_classes(["ape", "bee", "maple_tree"], 3)
    assert ordered.features[0, :, 0].tolist() == [6, 0, 4]
    with pytest.raises(errors.DataError, match=r"t has no text of 1 class: cat"):
        text.of_classes(["ape", "cat"], 2)
    with pytest.raises(errors.Mismatch, match=r"No class of t .* is one of the bank \('ox'\)"):
        text.of_classes(["ox"], 1)
