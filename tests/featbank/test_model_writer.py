"""`BankWriter` given tokens, text and scales that do not fit, or in another order."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featbank import Bank, BankWriter, errors

X, Y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 1, 2])
TEXT = np.ones((2, 3, 3))


def written(path: Path, *uses: Callable[[BankWriter], object]) -> Bank:
    """A bank of one view of D = 3, with further uses of its writer."""
    with BankWriter(path, ["a", "b", "c"], dim=3) as writer:
        writer.split("train", Y)
        writer.features("train", "v").append(X)
        for use in uses:
            use(writer)
    return Bank(path)


@pytest.mark.parametrize(
    ("use", "kind", "message"),
    [
        (lambda w: w.features("train", "t", tokens=0), errors.DataError, "T and D are ≥ 1"),
        (lambda w: w.features("train", "t", dim=0), errors.DataError, "T and D are ≥ 1"),
        (lambda w: w.features("train", "t", tokens=2).append(X),
         errors.DataError, "a block has shape [4, 3], the bank needs [rows, 2, 3]"),
        (lambda w: [w.split("test", Y), w.features("test", "v", dim=4)],
         errors.DataError, "test/v/feature has rows of shape [4], other splits of the view [3]"),
        (lambda w: [w.split("test", Y), w.features("test", "v", tokens=1)],
         errors.DataError, "rows of shape [1, 3], other splits of the view [3]"),
        (lambda w: w.text("v", TEXT[..., :2], 1), errors.DataError, "the bank needs [2, 3, 3]"),
        (lambda w: w.text("v", TEXT[:, :2], 1), errors.DataError, "the bank needs [2, 3, 3]"),
        (lambda w: w.text("v", TEXT[0, 0], 1), errors.DataError, "shape [3], the bank needs"),
        (lambda w: w.text("v", TEXT[:0], 1), errors.DataError, "shape [0, 3, 3], the bank needs"),
        (lambda w: w.text("v", TEXT * math.nan, 1), errors.NotFinite, "NaN or infinity in row 0"),
        (lambda w: w.text("v", TEXT * 0, 1), errors.DataError, "class 0 in prompt 0 is 0"),
        (lambda w: w.text("v", TEXT * 1e-200, 1), errors.DataError, "class 0 in prompt 0 is 0"),
        *((lambda w, s=s: w.text("v", TEXT, s), errors.DataError, f"logit scale is {s:g}")
          for s in (0.0, -1.0, math.nan, math.inf)),
        (lambda w: [w.text("v", TEXT, 1) for _ in range(2)], errors.ConfigError, "comes twice"),
        (lambda w: w.text("w", TEXT, 1), errors.ConfigError, "text/w is given, the views are v"),
        (lambda w: w.default_scale("w", "unit"), errors.ConfigError, "scale/w is given"),
        (lambda w: [w.default_scale("v", "unit") for _ in range(2)],
         errors.ConfigError, "comes twice"),
        *((lambda w, s=s: w.default_scale("v", s), errors.ConfigError, f"is {s!r}. Give none, unit")
          for s in ("", "auto", "0", "-1", "nan", "inf", "1_0", " 1", "0x1", "١")),
        (lambda w: [w.text("z", np.ones((3, 3)), 1), w.features("train", "z", dim=4).append(
            np.ones((4, 4)))], errors.DataError, "text/z has D = 3, its features have 4"),
    ],
)  # fmt: skip
def test_misuse(tmp_path: Path, use: Callable, kind: type[Exception], message: str) -> None:
    """Each has its error, and nothing is left behind."""
    with pytest.raises(kind, match=re.escape(message)):
        written(tmp_path / "b.h5", use)
    assert list(tmp_path.iterdir()) == []


def test_text_of_instance_serves_views_of_its_size(tmp_path: Path) -> None:
    """Also where instance has no features, and where text comes before the view; not another D."""
    uses = (
        lambda w: w.text("instance", TEXT, 7.0),
        lambda w: w.features("train", "wide", dim=5).append(np.ones((4, 5))),
    )
    with written(tmp_path / "b.h5", *uses) as bank:
        text = bank.text("v")
        assert text is not None
        assert (text.features.shape, text.logit_scale) == ((2, 3, 3), 7.0)
        assert bank.text("wide") is None
        assert bank.texts == ("instance",)
        assert (bank.dim, bank.dim_of("wide"), bank.schema) == (3, 5, 5)


def test_the_norm_of_tokens_is_that_of_each(tmp_path: Path) -> None:
    """Recorded as for rows; a classifier of another D does not take it away from a view."""
    tokens = np.random.default_rng(0).normal(size=(4, 2, 5)).astype(np.float32)
    uses = (
        lambda w: w.features("train", "t", tokens=2, dim=5).append(tokens),
        lambda w: w.classifier("v", np.ones((3, 3))),
    )
    with BankWriter(tmp_path / "b.h5", ["a", "b", "c"], dim=3) as writer:
        writer.split("train", Y, seen=False)
        writer.features("train", "v").append(X)
        for use in uses:
            use(writer)
    with Bank(tmp_path / "b.h5") as bank:
        expected = math.sqrt(np.square(tokens, dtype=np.float64).sum(-1).mean())
        assert bank.norm("t") == pytest.approx(expected, rel=1e-6)
        assert bank.norm("v") is None
