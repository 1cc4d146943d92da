"""What a choice on a small val is worth: three rules, their cost and the tied set, on known truths.

Claim: with 1 to 5 rows of val per class, and 60 or more configurations tried, the rule 1se regrets
less than macro accuracy does; the corrected figure of every rule is within 0.6 points of the truth
on average; the tied set holds the truly best configuration in at least 95 % of the draws.
docs/protocol.md has the figures.

    python scripts/measure_choice.py RESULTS.sqlite [--draws 80] [--rows 1 2 5 20]

RESULTS is of a bank with test, such as of a sweep of scripts/choice.toml. Its configurations are
trained again once; then the test rows are split many times: m rows of every class play val, the
others tell the truth. N of the configurations, drawn anew each time, are what was tried.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor

from featbank import Bank
from stage2.engine.temperature import Fitted, class_balanced, fit_temperature
from stage2.export.folding import feature_blocks
from stage2.export.retraining import retrain
from stage2.results.optimism import optimism
from stage2.results.results import Results
from stage2.results.store import Store

TRIED = (10, 60, 300, 2000)
RULES = ("macro", "nll", "1se")

Place = tuple[int, int]
"""Rows per class, and the number of the draw."""

AT_ONCE = 40
"""Configurations whose logits are held at once."""


def main() -> None:
    """Print, for every m and N, a line of each rule."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--draws", type=int, default=80)
    parser.add_argument("--rows", type=int, nargs="+", default=(1, 2, 5, 20))
    arguments = parser.parse_args()
    labels, chunks = trained_again(arguments.results)
    places = [(m, draw) for m in arguments.rows for draw in range(arguments.draws)]
    vals = {place: val_rows(labels, *place) for place in places}
    correct, nll, losses = measured(labels, chunks, vals)
    print(f"{len(correct)} configurations, {len(labels)} test rows, {arguments.draws} draws each")
    print("rows  tried  rule   regret   naive  corrected (rmse)   ties  hold the best  Kendall")
    for m in arguments.rows:
        figures: dict[tuple[int, str], list[tuple[float, ...]]] = {}
        for draw in range(arguments.draws):
            val = vals[m, draw]
            truth = macro(correct[:, ~val], labels[~val])
            for tried in TRIED:
                some = np.random.default_rng(draw).permutation(len(correct))[:tried]
                of_some = (each[m, draw][some] for each in (nll, losses))
                of = correct[np.ix_(some, val)], *of_some, labels[val], truth[some]
                for rule in RULES:
                    found = choice(*of, rule=rule, seed=draw)
                    figures.setdefault((len(some), rule), []).append(found)
        for (tried, rule), of_draws in figures.items():
            print_line(m, tried, rule, of_draws)


def print_line(m: int, tried: int, rule: str, figures: Sequence[tuple[float, ...]]) -> None:
    """Print the means over draws of what `choice` returns."""
    regret, naive, corrected, ties, held, tau = np.transpose(figures)
    print(
        f"{m:>4}  {tried:>5}  {rule:<5}  {regret.mean():6.2f}  {naive.mean():+6.2f}"
        f"  {corrected.mean():+9.2f} ({np.sqrt(np.mean(corrected**2)):.2f})"
        f"  {ties.mean():5.0f}  {100 * held.mean():11.0f} %  {tau.mean():7.2f}",
        flush=True,
    )


def trained_again(path: Path) -> tuple[np.ndarray, Iterator[Tensor]]:
    """Labels of test [N], and its logits [N, n, K] of the configurations, some at a time."""
    with Store(path) as store:
        results = Results(store, split="test")
        runs = [(each.runs[0], "last") for each in results.tried if each.status == "done"]
        with Bank(results.about["path"]) as bank:
            again = retrain(results, bank, runs, calibrated=False)
            labels = bank.labels("test").astype(np.int64)
            by_view = {
                view: torch.cat([x[view] for x in feature_blocks(bank, "test", [view])])
                for view in {head.recipe.views[0] for head in again}
            }
    heads = [head for head in again if len(head.recipe.views) == 1]

    def chunks() -> Iterator[Tensor]:
        for start in range(0, len(heads), AT_ONCE):
            some = heads[start : start + AT_ONCE]
            with torch.inference_mode():
                yield torch.stack([h.module(by_view[h.recipe.views[0]]) for h in some], 1)

    return labels, chunks()


def val_rows(labels: np.ndarray, m: int, seed: int) -> np.ndarray:
    """m rows of every class, drawn at random, [N] bool."""
    random = np.random.default_rng(seed)
    val = np.zeros(len(labels), bool)
    for k in np.unique(labels):
        val[random.permutation(np.flatnonzero(labels == k))[:m]] = True
    return val


def measured(
    labels: np.ndarray, chunks: Iterator[Tensor], vals: dict[Place, np.ndarray]
) -> tuple[np.ndarray, dict[Place, np.ndarray], dict[Place, np.ndarray]]:
    """Correctness of the configurations [R, N]; by draw their NLL,T on val [R], and its losses."""
    y = torch.from_numpy(labels)
    correct: list[np.ndarray] = []
    fitted: dict[Place, list[Fitted]] = {place: [] for place in vals}
    for z in chunks:
        correct.append((z.argmax(2) == y[:, None]).T.numpy().astype(np.uint8))
        for place, rows in vals.items():
            own = y[torch.from_numpy(rows)]
            weight = class_balanced(own, z.shape[2])
            fitted[place].append(fit_temperature(z[torch.from_numpy(rows)], own, weight))
    joined = {place: Fitted.joined(parts) for place, parts in fitted.items()}
    nll = {place: each.nll.numpy() for place, each in joined.items()}
    return (
        np.concatenate(correct),
        nll,
        {place: each.losses.numpy() for place, each in joined.items()},
    )


def choice(
    correct: np.ndarray,
    nll: np.ndarray,
    losses: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    *,
    rule: str,
    seed: int,
) -> tuple[float, ...]:
    """Regret, errors of the naive and the corrected figure, the size of the tied set, whether it
    holds the best, and Kendall's τ of what orders with the truth."""
    result = optimism(correct, labels, rule=rule, nll=nll, losses=losses, random=seed)
    found = truth[result.winner]
    order = macro(correct, labels) if rule == "macro" else -nll
    return (
        truth.max() - found,
        result.figure - found,
        result.corrected - found,
        result.tied.sum(),
        result.tied[truth.argmax()],
        kendalltau(order, truth).statistic,
    )


def macro(correct: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Macro accuracy of each configuration in percent [R]."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return 100 * correct @ (1 / (len(sizes) * sizes[classes]))


if __name__ == "__main__":
    main()
