"""Metrics against scikit-learn, SciPy and slow loops [METHODS §8]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn import metrics as sk

from featbank.bank import class_groups
from stage2.engine.metrics import BINS, METRICS, Evaluation, Tally, macro_accuracy
from tests.stage2.compare import assert_close, assert_relative

CLASSES = 7
TRAIN = np.array([150, 101, 100, 60, 20, 19, 3])


def evaluate(
    z: np.ndarray, y: np.ndarray, counts: np.ndarray = TRAIN, block: int = 10**9
) -> list[Evaluation]:
    """Evaluations of logits [N, C, K] fed in blocks."""
    tally = Tally(torch.from_numpy(y), z.shape[2], z.shape[1])
    for start in range(0, len(y), block):
        tally.add(torch.from_numpy(z[start : start + block].astype(np.float32)))
    return tally.evaluations(class_groups(counts))


@pytest.fixture(scope="module")
def logits() -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, C, K] of three classifiers from timid to overconfident, and labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, 403)
    z = rng.normal(0, 1, (403, 3, CLASSES)) + 1.2 * np.eye(CLASSES)[y][:, None]
    return (z * np.array([0.3, 1.5, 8.0])[None, :, None]).astype(np.float32), y


def test_accuracies_are_those_of_sklearn(logits: tuple[np.ndarray, np.ndarray]) -> None:
    """Reference: sklearn accuracy_score, balanced_accuracy_score, recall_score, top_k."""
    z, y = logits
    for c, found in enumerate(evaluate(z, y)):
        guess = z[:, c].argmax(1)
        recall = 100 * sk.recall_score(y, guess, average=None)
        expected = {
            "top1": 100 * sk.accuracy_score(y, guess),
            "macro": 100 * sk.balanced_accuracy_score(y, guess),
            "top5": 100 * sk.top_k_accuracy_score(y, z[:, c], k=5),
            "many": recall[[0, 1]].mean(),
            "medium": recall[[2, 3, 4]].mean(),
            "few": recall[[5, 6]].mean(),
        }
        for name, value in expected.items():
            assert_close(found.metrics[name], value, 1e-9, f"{name} of classifier {c}")
        assert_close(found.per_class, recall, 1e-9, "per class")
        assert np.array_equal(found.correct, guess == y), "correctness bits"
        assert set(found.metrics) == set(METRICS), f"got {set(found.metrics)}"


def test_likelihood_and_brier(logits: tuple[np.ndarray, np.ndarray]) -> None:
    """Reference: sklearn log_loss on SciPy's float64 softmax, and the sum of squares by hand."""
    z, y = logits
    for c, found in enumerate(evaluate(z, y)):
        log_p = log_softmax(z[:, c].astype(np.float64), axis=1)
        p = np.exp(log_p)
        expected = sk.log_loss(y, p, labels=range(CLASSES))
        assert_relative(found.metrics["nll"], expected, 1e-6, f"nll of classifier {c}")
        brier = sum(((p[i] - np.eye(CLASSES)[y[i]]) ** 2).sum() for i in range(len(y))) / len(y)
        assert_relative(found.metrics["brier"], brier, 1e-6, f"brier of classifier {c}")


def slow_calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """ECE and MCE in percent over bins (lo, hi], one row at a time; edges k/15 as float32."""
    edges = [np.float32(k / BINS) for k in range(BINS + 1)]
    bins: list[list[int]] = [[] for _ in range(BINS)]
    for i, value in enumerate(confidence.astype(np.float32)):
        for k in range(BINS):
            if edges[k] < value <= edges[k + 1] or (k == 0 and value == 0):
                bins[k].append(i)
    assert sum(map(len, bins)) == len(confidence)
    gaps = [abs(right[b].mean() - confidence[b].astype(np.float64).mean()) for b in bins if b]
    sizes = [len(b) for b in bins if b]
    return 100 * float(np.dot(sizes, gaps)) / len(confidence), 100 * float(max(gaps))


def test_calibration_errors(logits: tuple[np.ndarray, np.ndarray]) -> None:
    """Reference: `slow_calibration`, bins (lo, hi]."""
    z, y = logits
    assert BINS == 15, f"got {BINS}, expected 15"
    for c, found in enumerate(evaluate(z, y)):
        p = np.exp(log_softmax(z[:, c].astype(np.float64), axis=1))
        ece, mce = slow_calibration(p.max(1), p.argmax(1) == y)
        assert_close(found.metrics["ece"], ece, 1e-4, f"ECE of classifier {c}")
        assert_close(found.metrics["mce"], mce, 1e-4, f"MCE of classifier {c}")


def logits_of_confidence(value: np.float32, classes: int) -> np.ndarray:
    """Logits [K] whose float32 softmax has exactly this largest entry, by trial."""
    generator = torch.Generator().manual_seed(0)
    z = 0.01 * torch.randn(20_000, 1, classes, generator=generator, dtype=torch.float64)
    odds = np.log(np.float64(value) / (1 - np.float64(value)))
    z[:, 0, 0] = odds + z[:, 0, 1:].logsumexp(1)
    found = z.float().log_softmax(2).exp()[:, 0, 0] == float(value)
    assert found.any(), f"no logits with confidence {value} found"
    return z.float()[found][0, 0].numpy()


@pytest.mark.parametrize("edge", [4, *range(7, BINS)])  # those a float32 softmax can hit
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(edge: int) -> None:
    """Reference: `slow_calibration`. Bins are (lo, hi], METHODS §8.

    One row at exactly edge/15 that is right, one just above that is wrong: in one bin their gaps
    would cancel.
    """
    value = np.float32(edge / BINS)
    z = logits_of_confidence(value, 16)
    above = z.copy()
    above[0] += np.float32(0.05)
    confidence = torch.from_numpy(np.stack([z, above])).log_softmax(1).exp()[:, 0].numpy()
    assert confidence[0] == value
    ece, mce = slow_calibration(confidence, np.array([True, False]))
    both = np.stack([z, above])[:, None]
    (found,) = evaluate(both, np.array([0, 1]), np.full(16, 5))
    assert_close(found.metrics["ece"], ece, 1e-3, f"ECE with a confidence of {edge}/15")
    assert_close(found.metrics["mce"], mce, 1e-3, f"MCE with a confidence of {edge}/15")


def test_confidence_one_and_certain_errors() -> None:
    """Reference: by hand. Confidence 1 is in the last bin; half of it right is a gap of 50."""
    z = np.zeros((4, 1, 3), np.float32)
    z[:, 0, 1] = 200
    (found,) = evaluate(z, np.array([1, 1, 0, 2]), np.array([200, 50, 5]))
    expected = {"ece": 50.0, "mce": 50.0, "nll": 100.0, "brier": 1.0, "top1": 50.0}
    for name, value in expected.items():
        assert_close(found.metrics[name], value, 1e-9, name)


@pytest.mark.parametrize("block", [1, 7, 64, 402, 403])
def test_blocks_do_not_matter(logits: tuple[np.ndarray, np.ndarray], block: int) -> None:
    """Reference: all rows at once."""
    z, y = logits
    for got, whole in zip(evaluate(z, y, block=block), evaluate(z, y), strict=True):
        for name, value in whole.metrics.items():
            assert_close(got.metrics[name], value, 1e-9, f"{name} in blocks of {block}")
        assert np.array_equal(got.correct, whole.correct)


def test_neighbours_do_not_matter(logits: tuple[np.ndarray, np.ndarray]) -> None:
    """Reference: each classifier by itself; a neighbour may be NaN."""
    z, y = logits
    broken = np.concatenate([z[:, :1], np.full_like(z[:, :1], np.nan), z[:, 1:]], axis=1)
    found = evaluate(broken, y)
    for c, place in enumerate((0, 2, 3)):
        (alone,) = evaluate(z[:, c : c + 1], y)
        for name, value in alone.metrics.items():
            assert_close(found[place].metrics[name], value, 1e-9, f"{name} beside others")


def test_thresholds_of_the_groups() -> None:
    """Reference: METHODS §8, n > 100, 20 ≤ n ≤ 100, n < 20, at 101, 100, 20 and 19."""
    found = class_groups(np.array([101, 100, 20, 19, 0]))
    names = {name: np.flatnonzero(mask).tolist() for name, mask in found.items()}
    expected = {"many": [0], "medium": [1, 2], "few": [3, 4]}
    assert names == expected, f"got {names}, expected {expected}"


def test_a_group_without_classes_and_a_class_without_rows() -> None:
    """Reference: METHODS §8, nothing to average is None; untested classes do not count."""
    y = np.array([0, 0, 1, 3])  # class 2 is not tested
    z = np.zeros((4, 1, 4), np.float32)
    for row, guess in enumerate((0, 2, 1, 0)):
        z[row, 0, guess] = 3
    (found,) = evaluate(z, y, np.array([500, 400, 10, 300]))
    expected = {"many": (50 + 100 + 0) / 3, "medium": None, "few": None, "macro": 50.0, "top1": 50}
    for name, value in expected.items():
        got = found.metrics[name]
        assert got == pytest.approx(value) if value is not None else got is None, (
            f"{name}: got {got}, expected {value}"
        )
    assert np.isnan(found.per_class[2]), f"got {found.per_class[2]}, expected NaN"
    assert_close(found.per_class[[0, 1, 3]], [50, 100, 0], 1e-12, "per class")


def test_macro_accuracy_of_the_epoch_selection(logits: tuple[np.ndarray, np.ndarray]) -> None:
    """Reference: sklearn balanced_accuracy_score."""
    z, y = logits
    guess = z.argmax(2)
    got = macro_accuracy(torch.from_numpy((guess == y[:, None]).T), torch.from_numpy(y), CLASSES)
    expected = [100 * sk.balanced_accuracy_score(y, guess[:, c]) for c in range(3)]
    assert_close(got, expected, 1e-9, "macro")


def test_top5_with_few_classes_and_with_ties() -> None:
    """Reference: by hand; of K ≤ 5 classes all are among five, a sixth-largest logit is not."""
    y = np.array([0, 1])
    (few,) = evaluate(np.random.default_rng(0).normal(size=(2, 1, 4)), y, np.full(4, 9))
    assert_close(few.metrics["top5"], 100.0, 0.0, "top5 of 4 classes")
    z = np.zeros((2, 1, 8))
    z[:, 0] = [2, 7, 6, 5, 4, 3, 1, 0]  # class 0 is sixth, class 1 first
    (found,) = evaluate(z, y, np.full(8, 9))
    assert_close(found.metrics["top5"], 50.0, 0.0, "top5")
