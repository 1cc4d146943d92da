"""Every bank is read back as it was written, and other content has another fingerprint."""

from __future__ import annotations

import copy as copy_module
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featbank import Bank, BankWriter
from featbank.bank import ClassGroups
from featbank.bank.class_table import CLASS_FACTS
from featbank.bank.schema import is_view_name

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
VIEWS = st.from_regex(
    r"[a-z0-9_][A-Za-z0-9_.\-]{0,5}(/[a-z0-9_][A-Za-z0-9_.\-]{0,5})?", fullmatch=True
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FINITE = st.floats(-6e4, 6e4, width=16)
SIZE = st.integers(1, 3)
COUNT = st.integers(0, 2**63 - 1)
DIRECTIONS = st.floats(0.5, 6e4, width=16)


@st.composite
def views_of_a_bank(draw: st.DrawFn) -> list[str]:
    """One to three names, none within another."""
    drawn = draw(st.lists(VIEWS.filter(is_view_name), min_size=1, max_size=3, unique=True))
    groups = {name.split("/")[0] for name in drawn if "/" in name}
    return [name for name in drawn if name not in groups]


@st.composite
def class_facts(draw: st.DrawFn, classes: int) -> dict[str, Any]:
    """Some of counts from outside, a background, and groups without it."""
    facts: dict[str, Any] = {}
    if draw(st.booleans()):
        elements = st.integers(1, 2**63 - 1)
        facts["outside_counts"] = draw(arrays(np.int64, classes, elements=elements))
    if draw(st.booleans()):
        facts["background"] = draw(st.integers(0, classes - 1))
    if draw(st.booleans()):
        member = draw(arrays(np.int64, classes, elements=st.integers(-1, 2)))
        member[facts.get("background", 0)] = -1
        if (member >= 0).any():
            rules = draw(st.tuples(*[st.text("n <>≤%.0123", max_size=9)] * 3))
            facts["class_groups"] = ClassGroups(("head", "body", "tail"), rules, member)
    return facts


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Small arguments for `BankWriter`: everything a bank can have, and banks of nothing."""
    classes, dim = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(["float32", "float16"]))
    views = draw(views_of_a_bank())
    of_row = {
        view: draw(st.just((dim,)) | st.tuples(SIZE) | st.tuples(SIZE, SIZE)) for view in views
    }
    splits = {}
    for split in ["train", *draw(st.lists(st.sampled_from(["val", "test"]), unique=True))]:
        rows = draw(st.integers(0, 6))
        index = st.lists(st.integers(0, 2**63 - 1), min_size=rows, max_size=rows, unique=True)
        splits[split] = {
            "labels": draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1))),
            "index": np.array(draw(index), np.int64),
            "paths": draw(st.none() | st.lists(TEXT, min_size=rows, max_size=rows)),
            "source": f"{split} {draw(TEXT)}",
            "source_group": draw(st.none() | arrays(np.int64, rows, elements=COUNT)),
            "cell": draw(st.none() | arrays(np.int64, (rows, 2), elements=COUNT)),
            "features": {
                view: draw(arrays(dtype, (draw(SIZE), rows, *of_row[view]), elements=FINITE))
                for view in views
            },
        }
    vector = arrays("f4", classes, elements=FINITE)
    some = st.lists(st.sampled_from(views), unique=True)
    sizes = {view: (classes, of_row[view][-1]) for view in views}
    return {
        "class_names": draw(st.lists(TEXT, min_size=classes, max_size=classes)),
        "dim": dim,
        "dtype": dtype,
        "provenance": draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3)),
        "splits": splits,
        "classifier": {
            view: (draw(arrays("f4", sizes[view], elements=FINITE)), draw(vector))
            for view in draw(some)
        },
        "text": {
            view: (
                draw(arrays("f4", (draw(st.integers(1, 3)), *sizes[view]), elements=DIRECTIONS)),
                draw(st.floats(1e-3, 1e3)),
            )
            for view in draw(some)
        },
        "scales": {view: draw(st.sampled_from(["unit", "none", "0.5"])) for view in draw(some)},
        "batchnorm": draw(
            st.dictionaries(st.sampled_from(["bn1", "layer1.0.bn2"]), st.tuples(vector, vector))
        ),
        "views": views,
        "facts": draw(class_facts(classes)),
    }


def write_content(path: Path, content: dict[str, Any], blocks: Sequence[int] = (1,)) -> str:
    """Write it, features in blocks of these sizes, again and again; the fingerprint."""
    names = content["class_names"]
    options = {name: content[name] for name in ("dim", "dtype", "provenance")}
    with BankWriter(path, names, overwrite=True, **options) as writer:
        for split, parts in content["splits"].items():
            names = ("labels", "index", "paths", "source", "source_group", "cell")
            columns = {name: parts[name] for name in names}
            writer.split(split, **columns)
            for view, copies in parts["features"].items():
                *tokens, dim = of_row = copies.shape[2:]
                appended = writer.features(
                    split, view, copies=len(copies), tokens=tokens[0] if tokens else None, dim=dim
                )
                rows, sizes = copies.reshape(-1, *of_row), itertools.cycle(blocks)
                while len(rows):
                    size = next(sizes)
                    appended.append(rows[:size])
                    rows = rows[size:]
        for view, (weight, bias) in content["classifier"].items():
            writer.classifier(view, weight, bias)
        for view, text in content["text"].items():
            writer.text(view, *text)
        for view, scale in content["scales"].items():
            writer.default_scale(view, scale)
        writer.batchnorm(content["views"][0], content["batchnorm"])
        for name, fact in content["facts"].items():
            getattr(writer, name)(fact)
    with Bank(path) as bank:
        return bank.fingerprint


@settings(max_examples=30, deadline=None)
@given(content=contents(), blocks=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_round_trip(
    content: dict[str, Any], blocks: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any sizes, types, names and texts, written in blocks of any sizes, are read back."""
    path = tmp_path_factory.getbasetemp() / "round_trip.h5"
    fingerprint = write_content(path, content, blocks)
    assert fingerprint == write_content(path, content, [100])
    with Bank(path) as bank:
        assert set(bank.splits) == set(content["splits"])
        assert set(bank.views) == set(content["views"])
        first = content["splits"]["train"]["features"][bank.views[0]]
        assert (bank.num_classes, bank.dim) == (len(content["class_names"]), first.shape[-1])
        assert bank.class_names == content["class_names"]
        assert bank.provenance == content["provenance"]
        counts = np.bincount(content["splits"]["train"]["labels"], minlength=bank.num_classes)
        np.testing.assert_array_equal(bank.train_counts, counts)
        for name in CLASS_FACTS:
            fact, stored = content["facts"].get(name), bank.class_fact(name)
            if isinstance(fact, ClassGroups):
                assert fact.equals(stored)
            else:
                np.testing.assert_array_equal(fact, stored)
        for split, parts in content["splits"].items():
            for place in ("source_group", "cell"):
                np.testing.assert_array_equal(bank.place(split, place), parts[place])
            np.testing.assert_array_equal(bank.labels(split), parts["labels"])
            np.testing.assert_array_equal(bank.index(split), parts["index"])
            assert (bank.paths(split), bank.source(split)) == (parts["paths"], parts["source"])
            for view, copies in parts["features"].items():
                assert bank.shape(split, view) == copies.shape
                assert bank.dtype == content["dtype"]
                for copy, expected in enumerate(copies):
                    x, y = bank.load(split, view, copy=copy)
                    assert (x.dtype, y.dtype) == (np.float32, np.int64)
                    np.testing.assert_array_equal(x, expected.astype(np.float32))
        for view, pair in content["classifier"].items():
            np.testing.assert_equal(bank.classifier(view), pair)
        for view, (embeddings, logit_scale) in content["text"].items():
            text = bank.text(view)
            assert text is not None
            np.testing.assert_array_equal(text.features, embeddings)
            assert text.logit_scale == logit_scale
        for view in bank.views:
            assert bank.default_scale(view) == content["scales"].get(view)
        sizes = {copies.shape[2:] for copies in content["splits"]["train"]["features"].values()}
        plain = len(sizes) == 1 and len(min(sizes)) == 1
        beyond = not plain or content["text"] or content["scales"]
        splits = content["splits"].values()
        placed = any(parts[p] is not None for parts in splits for p in ("source_group", "cell"))
        placed = placed or bool(content["facts"])
        assert (bank.schema == 6) == placed
        assert placed or (bank.schema == 5) == bool(beyond)
        np.testing.assert_equal(bank.batchnorm(content["views"][0]), content["batchnorm"])


@settings(max_examples=15, deadline=None)
@given(content=contents(), data=st.data())
def test_another_content_has_another_fingerprint(
    content: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One changed value of any array, or one changed name, changes it."""
    path = tmp_path_factory.getbasetemp() / "changed.h5"
    before = write_content(path, content)
    other = copy_module.deepcopy(content)
    train = other["splits"]["train"]
    choices = ["class name"] + ["label", "index", "feature"] * (len(train["labels"]) > 0)
    match data.draw(st.sampled_from(choices)):
        case "class name":
            other["class_names"][-1] += "x"
        case "label":
            train["labels"][-1] = (train["labels"][-1] + 1) % len(content["class_names"])
        case "index":
            train["index"][-1] = next(i for i in range(9) if i not in train["index"])
        case "feature":
            train["features"][content["views"][-1]][-1, -1, -1] += 32
    assert write_content(path, other) != before
