"""The rules that select, against their definitions by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stage2.results.selection import Correctness, Ranking, chosen


def random_rows(configurations: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Right seeds of three [R, N], and labels of uneven classes."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(5), [30, 11, 5, 2, 1]))
    return random.integers(0, 4, (configurations, len(labels))).astype(np.uint8), labels


def test_paired_standard_errors() -> None:
    """Reference: the formula, row by row in float64."""
    correct, labels = random_rows()
    of = Correctness.of(correct, labels, 3)
    weight = np.array([1 / (5 * (labels == k).sum()) for k in labels])
    for b, errors in zip((4, 0), of.errors([4, 0]), strict=True):
        for j in range(6):
            d = (correct[b].astype(float) - correct[j]) / 3
            mean = (weight * d).sum()
            expected = 100 * np.sqrt((weight**2 * (d - mean) ** 2).sum())
            assert errors[j] == pytest.approx(expected, abs=1e-3), f"{b} and {j}"


def test_accuracy_finds_the_top_and_likelihood_the_first_of_it() -> None:
    """Three that are close, of which the second best has the lowest NLL,T; one far below has a
    lower one still."""
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(10), 20)
    correct = (random.random((4, 200)) < [[0.6], [0.6], [0.6], [0.2]]).astype(np.uint8)
    correct = correct[np.argsort(-correct.sum(1))]
    macro = dict(zip("abcd", 100 * correct.mean(1), strict=True))
    nll = {"a": 1.3, "b": 1.1, "c": 1.2, "d": 0.5}
    ids, names = list("abcd"), {id_: id_ for id_ in "abcd"}
    of = Correctness.of(correct, labels)

    def order(rule: str | None) -> str:
        return "".join(Ranking(rule, names, macro, nll, ids, of).order(ids))

    assert order("macro") == "abcd"
    assert order("nll") == "dbca"
    near = [macro["a"] - macro[c] <= of.errors([0])[0, place] for place, c in enumerate("abcd")]
    assert near[1], "the second is within an error of the first"
    assert order("1se") == ("bcad" if near[2] else "bacd")
    scores = of.means(of.weight[None])
    for rule in ("macro", "nll", "1se"):
        (first,) = chosen(rule, scores, np.array(list(nll.values())), of)
        assert ids[first] == order(rule)[0], rule


def test_the_rule_holds_within_any_part() -> None:
    """Reference: a ranking of that part alone."""
    correct, labels = random_rows(20)
    ids = [f"c{n}" for n in range(20)]
    of = Correctness.of(correct, labels, 3)
    macro = dict(zip(ids, of.means(of.weight[None])[:, 0].tolist(), strict=True))
    nll = dict(zip(ids, np.random.default_rng(2).random(20).tolist(), strict=True))
    names = {id_: id_ for id_ in ids}
    part = ids[3:11]
    alone = Ranking("1se", names, macro, nll, part, Correctness.of(correct[3:11], labels, 3))
    assert Ranking("1se", names, macro, nll, ids, of).order(part) == alone.order(part)


def test_where_nothing_selects_presets_are_as_published() -> None:
    """Reference: the docstring; names order, and a preset stands for its recipe."""
    keys = {"a2": ("a", True), "a1": ("a", False), "b1": ("b", True), "b2": ("b", True, 2)}
    ranking = Ranking(None, keys, {}, published=frozenset({"a1"}))
    assert ranking.order(list(keys)) == ["a1", "a2", "b1", "b2"]
    assert ranking.best(["a2", "a1"]) == ["a1"]
    assert ranking.best(["b1", "b2"]) == ["b1", "b2"], "nothing tells them apart"
