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

**Source groups.** Rows of one image, patient or recording resemble each other, so where a bank says
where rows come from, source groups are the units. The test flips the sign of whole groups: D_g is
the sum of Dᵢ over the rows of group g. Its distribution is exact where that is feasible, else
normal with the variance ΣD_g² of the flips, so that (ΣD_g)²/ΣD_g² is χ² with one degree of freedom.
Obuchowski's test [On the Comparison of Correlated Proportions for Clustered Data, 1998], as Yang,
Sun & Hardin simplify it [A Note on the Tests for Clustered Matched-Pair Binary Data, 2010], is
(G−1)/G times this. Durkalski et al. [Analysis of Clustered Matched-Pair Data, 2003] divide D_g by
the rows of g, Eliasziw & Donner [Application of the McNemar Test to Non-Independent Matched Pair
Data, 1991] McNemar's statistic by a factor of an intraclass correlation. The bootstrap draws G − 1
of G groups, to the first order of the class means: with u_g = Σ_k weight_k/n_k Σ_{i∈g, y_i=k} (Dᵢ −
D̄_k), Σu_g = 0, a resample that draws group g m_g times has the value Σ_k weight_k D̄_k + G/(G−1)
Σ_g m_g u_g. Its variance, G/(G−1) Σu_g², is that of cluster-robust standard errors; a class of one
group adds none. Where every group has rows of one class, groups are drawn within classes, as rows
are.

**Several.** p values of several comparisons are adjusted after Holm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy

LEVEL = 95
"""Confidence level of the intervals, percent."""

_EXACT, _STEPS = 200_000_000, 100_000
"""Σ|D_g| times the number of groups, and the sum of the distinct |D_g|, up to which the test by
group is exact: about a second."""

_DRAWN = 1 << 24
"""Multiplicities of groups that are drawn at once."""


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


def paired_test(differences: np.ndarray, groups: np.ndarray | None) -> float:
    """p of the test of paired integers [N] with rows, or source `groups` [N], as its units."""
    if groups is None:
        return sign_test(differences)
    sums = np.bincount(groups, differences).astype(np.int64)
    sums = sums[sums != 0]
    sizes = np.abs(sums)
    if sizes.sum() * len(sums) <= _EXACT and np.unique(sizes).sum() <= _STEPS:
        return sign_test(sums)
    z = abs(sums.sum()) / np.sqrt((sums.astype(np.float64) ** 2).sum())
    return float(2 * scipy.stats.norm.sf(z))


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
    *,
    groups: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Bootstrap distributions of weighted sums of class means, [M, resamples].

    Parameters
    ----------
    differences, labels
        Integers [N], and the class of each.
    weights
        Weights of the class means, [M, K].
    groups
        Source groups [N], 0 … G − 1, to be drawn whole; None: rows are drawn.
    rows
        Rows of which each difference is the sum [N], with `groups` alone; None: one.
    """
    if groups is not None:
        rows = np.ones(len(labels), np.int64) if rows is None else rows
        units = _influence(differences, (labels, groups, rows), weights)
        return _resampled_groups(*units, _strata(labels, groups), resamples, random)
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


def _influence(
    differences: np.ndarray, of: tuple[np.ndarray, np.ndarray, np.ndarray], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The weighted sums of class means [M], and u of each source group [M, G], of sums `of` labels,
    groups and rows [N] each."""
    labels, groups, rows = of
    sizes = np.maximum(np.bincount(labels, rows, weights.shape[1]), 1)
    means = np.bincount(labels, differences, len(sizes)) / sizes
    centred = (differences - rows * means[labels]) / sizes[labels]
    count = int(groups.max()) + 1
    influence = [np.bincount(groups, each[labels] * centred, count) for each in weights]
    return weights @ means, np.stack(influence)


def _resampled_groups(
    sums: np.ndarray,
    influence: np.ndarray,
    strata: Sequence[np.ndarray],
    resamples: int,
    random: np.random.Generator,
) -> np.ndarray:
    """`resampled` by source group, of `_influence` and `_strata`."""
    total = np.repeat(sums[:, None], resamples, 1)
    for members in strata:
        n = len(members)
        block = max(1, _DRAWN // n)
        for start in range(0, resamples if n > 1 else 0, block):
            part = slice(start, min(start + block, resamples))
            drawn = random.multinomial(n - 1, np.full(n, 1 / n), size=part.stop - part.start)
            total[:, part] += n / (n - 1) * (influence[:, members] @ drawn.T)
    return total


def _strata(labels: np.ndarray, groups: np.ndarray) -> list[np.ndarray]:
    """The source groups that are drawn together: those of each class where every group has rows of
    one class, else all."""
    count = int(labels.max()) + 1
    members, classes = np.divmod(np.unique(groups * count + labels), count)
    if len(np.unique(members)) < len(members):
        return [np.unique(members)]
    return [members[classes == k] for k in np.unique(classes)]


def interval(drawn: np.ndarray) -> np.ndarray:
    """Ends of the percentile interval of each bootstrap distribution [M, resamples]: [2, M]."""
    return np.percentile(drawn, [50 - LEVEL / 2, 50 + LEVEL / 2], axis=1)
