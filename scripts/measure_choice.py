"""The cost of choosing: the corrected figure and the tied set against known truths.

Claim: on CIFAR-100-LT features the corrected figure of the best of up to 580 configurations is
within 0.6 points of the truth on average, and the tied set holds the truly best one in at least
95 % of the draws. docs/protocol.md has the figures.

    python scripts/measure_choice.py RESULTS.sqlite [--draws 80]

The test rows of a bank are split many times: m rows of every class play val, the others tell the
truth. N of the file's configurations, drawn anew each time, are what was tried.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from stage2.results.optimism import optimism
from stage2.results.results import Results
from stage2.results.store import Store

ROWS_PER_CLASS = (1, 2, 5, 20)
TRIED = (10, 60, 300, 580)


def main() -> None:
    """Print a line for every m and N."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--draws", type=int, default=80)
    arguments = parser.parse_args()
    correct, labels = correctness(arguments.results)
    print(f"{len(correct)} configurations, {len(labels)} test rows, {arguments.draws} draws each")
    print("rows   tried  naive  corrected (rmse)  regret  holds the best   ties")
    for m in ROWS_PER_CLASS:
        for tried in TRIED:
            if tried <= len(correct):
                figures = [
                    measure(correct, labels, m, tried, seed=d) for d in range(arguments.draws)
                ]
                print_line(m, tried, figures)


def print_line(m: int, tried: int, figures: list[tuple[float, ...]]) -> None:
    """Print the means over draws of what `measure` returns."""
    naive, corrected, regret, held, ties = np.transpose(figures)
    print(
        f"{m:>4}  {tried:>6}  {naive.mean():+5.2f}"
        f"  {corrected.mean():+9.2f} ({np.sqrt(np.mean(corrected**2)):.2f})"
        f"  {regret.mean():6.2f}  {100 * held.mean():13.0f} %  {ties.mean():5.0f}",
        flush=True,
    )


def correctness(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Seeds of each configuration that classify each test row correctly [R, N], and the labels."""
    with Store(path) as store:
        results = Results(store, split="test")
        done = [each for each in results.configurations.values() if each.status == "done"]
        done = [each for each in done if len(each.runs) == 1]  # one seed, so that all weigh alike
        runs = [[(run.recipe, "last") for run in each.runs] for each in done]
        labels = store.labels(results.fingerprint, "test")
        assert labels is not None
        return store.correct_seeds(results.fingerprint, "test", runs), labels


def measure(
    correct: np.ndarray, labels: np.ndarray, m: int, tried: int, *, seed: int
) -> tuple[float, float, float, float, int]:
    """Errors of the naive and the corrected figure, the regret, whether the tied set holds the
    best, and its size."""
    random = np.random.default_rng(seed)
    val = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        val[random.permutation(np.flatnonzero(labels == k))[:m]] = True
    chosen = correct[random.permutation(len(correct))[:tried]]
    result = optimism(chosen[:, val], labels[val], random=seed)
    truth = macro(chosen[:, ~val], labels[~val])
    found = truth[result.winner]
    return (
        result.figure - found,
        result.corrected - found,
        truth.max() - found,
        result.tied[truth.argmax()],
        result.tied.sum(),
    )


def macro(correct: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Macro accuracy of each configuration in percent [R]."""
    classes = np.unique(labels)
    return 100 * np.mean([correct[:, labels == k].mean(1) for k in classes], axis=0)


if __name__ == "__main__":
    main()
