"""Views made of others, rows of one length, and text, against the same numbers stored plainly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from featbank import Bank, write_bank
from featbank.bank.expressions import as_tokens, is_composed, parts_of
from featbank.errors import ConfigError
from stage2.engine.streamed import StreamedRows
from stage2.export.exporting import export_head
from stage2.export.headfile import load_head
from stage2.features.loading import BankFeatures, load_view
from stage2.features.scale import scaling_of
from stage2.methods.heads import HEADS
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import PUBLISHED_NORM
from stage2.sweep import sweep

COUNTS = (24, 12, 6, 4)
TOKENS, WIDTH = 5, 3


def arrays(seed: int = 0) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Rows a [N, 4] and b [N, 3], and tokens t [N, 5, 3], of train and test."""
    rng = np.random.default_rng(seed)
    y = {"train": np.repeat(np.arange(4), COUNTS), "test": np.arange(20) % 4}
    x = {
        split: {
            "a": rng.normal(size=(len(labels), 4)) + labels[:, None],
            "b": 3 * rng.normal(size=(len(labels), WIDTH)) - labels[:, None],
            "t": rng.normal(size=(len(labels), TOKENS, WIDTH)) + labels[:, None, None],
        }
        for split, labels in y.items()
    }
    return {s: {v: f.astype(np.float32) for v, f in of.items()} for s, of in x.items()}, y


def made(path: Path, **more: Any) -> Bank:
    """A bank of `arrays`."""
    x, y = arrays()
    for of in x.values():
        of["t"] = of["t"][None]  # with three axes the first would be copies
    write_bank(path, x, y, class_names=list("klmn"), **more)
    return Bank(path)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x, dtype=np.float64).sum(-1).mean()))


def gem(x: np.ndarray) -> np.ndarray:
    return np.cbrt((np.maximum(x.astype(np.float64), 1e-6) ** 3).mean(1))


X, Y = arrays()
EXPRESSIONS = {
    "t:mean": lambda x: x["t"].mean(1),
    "t:max": lambda x: x["t"].max(1),
    "t:gem": lambda x: gem(x["t"]),
    "t:tokens": lambda x: x["t"].reshape(len(x["t"]), -1),
    "2*a": lambda x: 2 * x["a"],
    "a|b": lambda x: np.hstack([x[v] / rms(X["train"][v]) for v in "ab"]),
    "0.5*a|b": lambda x: np.hstack([0.5 * x["a"], x["b"] / rms(X["train"]["b"])]),
    "b:tokens|2*t:tokens": lambda x: np.hstack(
        [x["b"] / rms(X["train"]["b"]), 2 * x["t"].reshape(len(x["t"]), -1)]
    ),
    "t:mean|a": lambda x: np.hstack(
        [x["t"].mean(1) / rms(X["train"]["t"].mean(1)), x["a"] / rms(X["train"]["a"])]
    ),
}


@pytest.mark.parametrize("view", EXPRESSIONS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_made_view_has_the_numbers_of_numpy(tmp_path: Path, view: str, split: str) -> None:
    expected = EXPRESSIONS[view](X[split]).astype(np.float32)
    with made(tmp_path / "bank.h5") as bank:
        x, labels = bank.load(split, view)
        assert bank.shape(split, view) == (1, *expected.shape)
        np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(labels, Y[split])
        part = bank.read(split, view, 3, 9)
        np.testing.assert_array_equal(part, x[3:9])
        blocks = np.concatenate([rows for _, rows in bank.blocks(split, view)])
        np.testing.assert_array_equal(blocks, x)
        tokens = bank.tokens(view)
        train = EXPRESSIONS[view](X["train"])
        of_tokens = train.reshape(-1, WIDTH) if tokens else train
        assert bank.norm(view) == pytest.approx(rms(of_tokens), rel=1e-5)
        assert bank.classifier(view) is bank.text(view) is None


def test_streamed_rows_are_those_in_memory(tmp_path: Path) -> None:
    with made(tmp_path / "bank.h5") as bank:
        whole = load_view(bank, "t:mean|a").train
        features = BankFeatures(bank, "train", "t:mean|a", scaling_of(bank, "t:mean|a", None))
        streamed = StreamedRows(features, torch.from_numpy(bank.labels("train")), budget=1 << 20)
        rows = [torch.cat([x for x, _ in each.blocks()]) for each in (whole, streamed)]
    np.testing.assert_allclose(rows[1] / rows[0], PUBLISHED_NORM / np.sqrt(2), rtol=1e-6)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ("t", "'t' of .* has 5 tokens a row. Pool them with --set view=t:mean, or take a head"),
        ("a|t", "'t' has tokens, 'a|t' needs rows. Pool them, as in t:mean."),
        ("a:mean", "'a' has rows of features and nothing to pool. Leave out :mean."),
        ("a|c", "needs the view 'c', .* has: a, b, t."),
        ("t:median", "pools by 'median'. Did you mean 'mean'"),
        ("x*a", "has a factor 'x'. Give a number > 0, as in 2"),
        ("0*a|b", "has a factor '0'"),
        ("a|", "has a part ''. Write parts as view, 2"),
    ],
)
def test_a_wrong_view_is_one_line_with_its_remedy(tmp_path: Path, view: str, message: str) -> None:
    with made(tmp_path / "bank.h5") as bank, pytest.raises(ConfigError, match=message) as caught:
        sweep(bank, [Recipe("crt", view=view, epochs=1)])
    assert "\n" not in str(caught.value)


NAMES = st.from_regex(r"[a-z0-9_.-]{1,8}(/[a-z0-9_.-]{1,8})?", fullmatch=True)
PARTS = st.builds(
    lambda factor, view, pool: f"{factor}{view}{pool}",
    st.sampled_from(["", "2*", "0.25*"]),
    NAMES,
    st.sampled_from(["", ":mean", ":max", ":gem", ":tokens"]),
)


@given(st.lists(PARTS, min_size=1, max_size=4))
def test_expressions_are_read_as_they_are_written(texts: list[str]) -> None:
    expression = "|".join(texts)
    assert "|".join(map(str, parts_of(expression))) == expression
    assert is_composed(expression) == (len(texts) > 1 or "*" in expression or ":" in expression)
    kept = as_tokens(expression)
    assert as_tokens(kept) == kept
    assert all(part.pool for part in parts_of(kept))


def plain(path: Path, x: Mapping[str, np.ndarray], **more: Any) -> Bank:
    """A bank of one view."""
    write_bank(
        path, {s: {"instance": f} for s, f in x.items()}, Y, class_names=list("klmn"), **more
    )
    return Bank(path)


def parameters(bank: Bank, recipe: Recipe) -> dict[str, np.ndarray]:
    (outcome,) = sweep(bank, [recipe]).outcomes
    return {name: values.numpy() for name, values in outcome.parameters.items()}


@pytest.mark.parametrize("name", ["crt", "cosine", "lws", "ncm", "ridge"])
def test_recipes_on_a_made_view_are_those_on_its_numbers(tmp_path: Path, name: str) -> None:
    """A view that is joined from two, and a bank that stores it joined."""
    joined = {split: EXPRESSIONS["a|b"](x).astype(np.float32) for split, x in X.items()}
    short = {"epochs": 2} if Recipe(name).trained else {}
    with made(tmp_path / "bank.h5") as bank, plain(tmp_path / "plain.h5", joined) as stored:
        got = parameters(bank, Recipe(name, view="a|b", **short))
        expected = parameters(stored, Recipe(name, **short))
    for part, values in expected.items():
        np.testing.assert_allclose(got[part], values, rtol=2e-4, atol=2e-5)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", ["crt", "lws", "mislas", "lda", "tau_norm"])
def test_rows_of_one_length_are_those_stored_so(tmp_path: Path, name: str) -> None:
    """``feature_scale=unit`` and a bank of rows of length 10.6 that are taken as they are."""
    x = {split: of["a"] for split, of in X.items()}
    long = {split: (PUBLISHED_NORM * unit(rows)).astype(np.float32) for split, rows in x.items()}
    short = {"epochs": 2} if Recipe(name).stepped else {}
    short |= {"view": "instance"}
    with plain(tmp_path / "a.h5", x) as bank, plain(tmp_path / "b.h5", long) as stored:
        got = parameters(bank, Recipe(name, feature_scale="unit", **short))
        expected = parameters(stored, Recipe(name, feature_scale="none", **short))
    for part, values in expected.items():
        np.testing.assert_allclose(got[part], values, rtol=1e-3, atol=1e-4)


def test_unit_takes_a_probe_in_place_of_the_classifier_of_the_bank(tmp_path: Path) -> None:
    x = {split: of["a"] for split, of in X.items()}
    weight = np.full((4, 4), 7, np.float32)
    with (
        plain(tmp_path / "a.h5", x, classifier={"instance": (weight, None)}) as with_one,
        plain(tmp_path / "b.h5", x) as without,
    ):
        recipe = Recipe("tau_norm", feature_scale="unit")
        one, other = parameters(with_one, recipe), parameters(without, recipe)
        np.testing.assert_allclose(one["weight"], other["weight"], rtol=1e-4)
        (left,) = sweep(with_one, [Recipe("tau_norm", tau=0)]).outcomes
        np.testing.assert_array_equal(left.parameters["weight"], weight)


@pytest.fixture
def with_text(tmp_path: Path) -> Bank:
    """A bank whose classes have two prompts each, of any length."""
    prompts = np.random.default_rng(5).normal(size=(2, 4, 4)).astype(np.float32)
    prompts[1] *= 9
    x = {split: of["a"] for split, of in X.items()}
    return plain(tmp_path / "text.h5", x, text={"instance": (prompts, 20.0)})


def text_logits(bank: Bank, x: np.ndarray) -> np.ndarray:
    text = bank.text()
    assert text is not None
    mean = unit(unit(text.features.astype(np.float64)).mean(0))
    return text.logit_scale * unit(x.astype(np.float64)) @ mean.T


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("crt", init="text", lr=1e-12, epochs=1),
        Recipe("lws", init="text", lr=1e-12, epochs=1),
        Recipe("disalign", init="text", lr=1e-12, epochs=1),
        Recipe("mislas", init="text", lr=1e-12, epochs=1, view="instance"),
    ],
    ids=lambda recipe: recipe.name,
)
def test_heads_that_start_from_text_start_as_its_classifier(
    with_text: Bank, recipe: Recipe, tmp_path: Path
) -> None:
    """Reference: s·cos with the mean over prompts, in float64; and exported, from raw rows."""
    path = tmp_path / "results.sqlite"
    with with_text:
        x, y = with_text.load("test")
        expected = text_logits(with_text, x)
        (outcome,) = sweep(with_text, [recipe], results=path).outcomes
        top1 = outcome.evaluations["test", "last"].metrics["top1"]
        assert top1 == pytest.approx(100 * (expected.argmax(1) == y).mean())
        export_head(path, recipe.id, tmp_path / "head.safetensors")
    head = load_head(tmp_path / "head.safetensors")
    with torch.no_grad():
        z = head(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-4)


def test_text_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    with made(tmp_path / "bank.h5") as bank, pytest.raises(ConfigError, match="--text text.npy"):
        sweep(bank, [Recipe("crt", init="text", view="a")])
    with pytest.raises(ConfigError, match="Leave feature_scale out"):
        Recipe("crt", init="text", feature_scale="standardise")
    with pytest.raises(ConfigError, match="Leave z0 out"):
        HEADS["disalign"].check(Recipe("disalign", init="text", z0="cosine").part("head"), 4)
