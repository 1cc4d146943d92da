r"""Is a difference between two classifiers on the same rows more than chance, and how large is it?

**The test.** c[s, i] is 1 where the head of seed s classified row i correctly. For A and B
trained with the same seeds, Dᵢ = Σ_s (c_B[s, i] − c_A[s, i]). McNemar tests of several seeds would
test the same rows several times, so rows are the units here: if A and B do not differ, Dᵢ is as
likely positive as negative, for all seeds of a row together. The distribution of ΣDᵢ over all signs
is computed exactly (the randomisation test of Fisher and Pitman); with one seed it is McNemar's
exact test. It tests the top-1 accuracy of these heads; the standard deviation over seeds shows how
much other seeds would change it.

**The intervals.** A bootstrap over rows: of the n_k rows of class k, n_k − 1 are drawn with
replacement, A and B on the same rows. That makes the variance of each class mean, and so that of
the macro accuracy, unbiased also where a class has few rows (McCarthy & Snowden 1985); a class of
one row has no variance that could be estimated, and adds none. As Dᵢ has few values, a class is
drawn as a multinomial: `scipy.stats.bootstrap` would draw all n_k, and every row by itself.

**Several.** p values of several comparisons are adjusted after Holm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

LEVEL = 95
"""Confidence level of the intervals, percent."""


def mcnemar(only_a: int, only_b: int) -> float:
    """p of McNemar's exact test, two-sided, from the rows that one alone has right."""
    both = only_a + only_b
    return float(scipy.stats.binomtest(only_b, both).pvalue) if both else 1.0


def sign_test(differences: np.ndarray) -> float:
    """p of the exact randomisation test of paired integers [N], two-sided: the probability of
    |Σ ±D| ≥ |ΣD| where both signs are equally likely.

    Σ ±D = Σ_v v(2B_v − n_v) with B_v binomial: n_v is how often |D| = v. So U = Σ_v v·B_v has the
    convolution of their distributions, on 0 … Σ_v v·n_v, and is symmetric.
    """
    sizes, often = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    chance = np.ones(1)
    for size, n in zip(sizes, often, strict=True):
        binomial = scipy.stats.binom.pmf(np.arange(n + 1), n, 0.5)
        joined = np.zeros(len(chance) + size * n)
        for start in range(min(size, len(chance))):  # steps of v: only every v-th place is met
            joined[start::size] = np.convolve(chance[start::size], binomial)
        chance = joined
    observed = int(differences[differences > 0].sum())
    lower = min(observed, len(chance) - 1 - observed)
    return float(min(1.0, 2 * chance[: lower + 1].sum()))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values for their number after Holm (1979), keeping their order."""
    order = np.argsort(p, kind="stable")
    stepped = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.tolist()


def resampled(
    differences: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    resamples: int,
    random: np.random.Generator,
) -> np.ndarray:
    """Bootstrap distributions of weighted sums of class means, [M, resamples].

    Parameters
    ----------
    differences, labels
        Integers [N], and the class of each.
    weights
        Weights of the class means, [M, K].
    """
    total = np.zeros((len(weights), resamples))
    order = np.argsort(labels, kind="stable")
    classes, begins = np.unique(labels[order], return_index=True)
    for k, in_class in zip(classes, np.split(differences[order], begins[1:]), strict=True):
        values, often = np.unique(in_class, return_counts=True)
        if len(values) == 1:
            total += weights[:, k, None] * values[0]
        else:
            n = len(in_class)
            drawn = random.multinomial(n - 1, often / n, size=resamples)
            total += np.outer(weights[:, k], drawn @ values / (n - 1))
    return total


def interval(drawn: np.ndarray) -> np.ndarray:
    """Ends of the percentile interval of each bootstrap distribution [M, resamples]: [2, M]."""
    return np.percentile(drawn, [50 - LEVEL / 2, 50 + LEVEL / 2], axis=1)
