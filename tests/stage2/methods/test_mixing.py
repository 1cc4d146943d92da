"""Feature mixup and Remix against their definitions [Zhang et al. 2018; Chou et al. 2020]."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from featbank import errors
from featbank.settings import resolved
from stage2.methods.generators.interface import Features, Generator, Made
from stage2.methods.generators.mixing import Mixing, Mixup, Remix
from tests.stage2.compare import assert_close
from tests.stage2.methods.features import features, generator, labels_of

COUNTS = (18, 9, 6, 3, 0, 1)
ITEMS = sum(COUNTS)
BATCH = 12


def items() -> Features:
    """Item i is the unit vector e_i, so that a mixed row tells both items and λ."""
    return features(torch.eye(ITEMS), labels_of(COUNTS), classes=len(COUNTS))


def batches(steps: int, size: int = BATCH, seed: int = 5) -> Tensor:
    """Batches [steps, size] of items, none twice in a batch."""
    return torch.rand(steps, ITEMS, generator=generator(seed)).argsort(1)[:, :size].contiguous()


def made(
    maker: Generator, draws: Tensor, data: Features | None = None, seed: int = 0, **given: Any
) -> Made:
    """The rows of `draws`; settings are the `given` and defaults."""
    values = resolved(maker.settings, given, "generator")
    return maker.prepare(values, data or items()).make(draws, 0, generator(seed))


def parts(rows: Made, draws: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """λ [steps] and partners [steps, B] of mixed unit vectors; NaN where all are mixed with
    themselves.
    """
    x = rows.x.view(*draws.shape, ITEMS).double()
    assert_close(x.sum(2), torch.ones(draws.shape), 1e-6, "weights of a row")
    own = x.gather(2, draws[..., None])[..., 0]
    rest, partner = x.scatter(2, draws[..., None], 0).max(2)
    alone = rest == 0
    part = own.masked_fill(alone, torch.nan).nanmean(1)
    assert_close(own[~alone], part[:, None].expand_as(own)[~alone], 1e-6, "λ of a batch")
    return part.numpy(), partner.where(~alone, draws).numpy()


@pytest.mark.parametrize("maker", [Mixup(), Remix()])
@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_one_share_a_batch(maker: Generator, alpha: float) -> None:
    """Reference: SciPy's Beta(α, α) by Kolmogorov–Smirnov, one number a batch; the partners are the
    batch in another order.
    """
    draws = batches(2000)
    part, partners = parts(made(maker, draws, alpha=alpha), draws)
    assert np.array_equal(np.sort(partners), np.sort(draws.numpy()))
    assert stats.kstest(part, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(part[1:], part[:-1])[0, 1]) < 0.1, "batches share λ"


def test_every_order_is_as_likely() -> None:
    """Reference: the 24 orders of a batch of 4 by χ²."""
    draws = batches(4800, size=4)
    _, partners = parts(made(Mixup(), draws), draws)
    places = (partners[:, :, None] == draws.numpy()[:, None]).argmax(2)
    _, often = np.unique(places, axis=0, return_counts=True)
    assert len(often) == 24
    assert stats.chisquare(often).pvalue > 1e-3, f"orders came {often} times"


def test_mixup_labels() -> None:
    """Reference: the labels of both items, and λ as the features tell it."""
    data, draws = items(), batches(300)
    rows = made(Mixup(), draws, data)
    part, partners = parts(rows, draws)
    assert rows.second
    assert torch.equal(rows.y, data.labels[draws.view(-1)])
    assert torch.equal(rows.second.y, data.labels[torch.from_numpy(partners).view(-1)])
    assert_close(rows.second.share, np.repeat(part, BATCH), 1e-6, "share")
    assert rows.second.share.dtype == rows.x.dtype == torch.float32
    assert rows.blend is None


def test_the_mixed_loss() -> None:
    """Reference: the mean over a batch of cross-entropy with the soft labels λy_i + (1−λ)y_j, in
    float64. Soft labels add up to the labels of the batch, and features to its features.
    """
    data, draws = items(), batches(50)
    rows = made(Mixup(), draws, data)
    part, partners = parts(rows, draws)
    assert rows.second
    weight = torch.from_numpy(part)[:, None, None]
    hard = one_hot(data.labels, len(COUNTS)).double()
    soft = weight * hard[draws] + (1 - weight) * hard[partners]
    logits = rows.x.double() @ torch.randn(ITEMS, len(COUNTS), generator=generator()).double()
    loss = rows.second.share * cross_entropy(logits, rows.y, reduction="none") + (
        1 - rows.second.share
    ) * cross_entropy(logits, rows.second.y, reduction="none")
    expected = cross_entropy(logits, soft.view(-1, len(COUNTS)), reduction="none")
    assert_close(loss.view(draws.shape).mean(1), expected.view(draws.shape).mean(1), 1e-6)
    assert_close(soft.sum(1), hard[draws].sum(1), 1e-6)
    assert_close(rows.x.view(*draws.shape, -1).sum(1), data.x[draws].sum(1), 1e-5)


TABLE = [
    # n_i, n_j, λ, share of y_i with κ = 3, τ = ½
    (9, 3, 0.2, 0.0),  # the ratio is κ
    (30, 3, 0.2, 0.0),
    (30, 3, 0.0, 0.0),
    (30, 3, 0.5, 0.5),  # λ is τ: not below it
    (30, 3, 0.8, 0.8),
    (8, 3, 0.2, 0.2),  # the ratio is below κ
    (3, 9, 0.8, 1.0),  # the ratio is 1/κ
    (3, 30, 0.8, 1.0),
    (3, 30, 1.0, 1.0),
    (3, 30, 0.5, 0.5),  # 1−λ is τ: not below it
    (3, 30, 0.2, 0.2),
    (3, 8, 0.8, 0.8),
    (5, 5, 0.2, 0.2),
    (5, 5, 0.8, 0.8),
]


@pytest.mark.parametrize(("n_i", "n_j", "part", "expected"), TABLE)
def test_remix_table(n_i: int, n_j: int, part: float, expected: float) -> None:
    """Reference: [Remix eq. 10] by hand, with the paper's κ and τ."""
    assert share(n_i, n_j, part, kappa=3, tau=0.5) == expected


@given(
    n_i=st.integers(1, 40),
    n_j=st.integers(1, 40),
    part=st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0]),
    kappa=st.sampled_from([1, 1.1, 2, 3, 10]),
    tau=st.sampled_from([0, 0.25, 0.5, 0.75, 1]),
)
@example(n_i=5, n_j=5, part=0.5, kappa=1, tau=0.75)  # both cases hold
@example(n_i=55, n_j=25, part=0.25, kappa=2.2, tau=0.5)  # 2.2·25 is rounded up
@example(n_i=25, n_j=55, part=0.75, kappa=2.2, tau=0.5)
@settings(deadline=None)
def test_remix_share(n_i: int, n_j: int, part: float, kappa: float, tau: float) -> None:
    """Reference: [Remix eq. 10] case by case; the first that holds."""
    if n_i / n_j >= kappa and part < tau:
        expected = 0.0
    elif n_j / n_i >= kappa and 1 - part < tau:
        expected = 1.0
    else:
        expected = part
    assert share(n_i, n_j, part, kappa, tau) == expected


def share(n_i: int, n_j: int, part: float, kappa: float, tau: float) -> float:
    """Remix's share of y_i for classes of n_i and n_j items."""
    data = features(torch.zeros(n_i + n_j, 1), [0] * n_i + [1] * n_j)
    mixing = Mixing(data, 1.0, kappa, tau)
    got = mixing.share(
        torch.tensor([part], dtype=torch.float64), torch.tensor([0]), torch.tensor([1])
    )
    return float(got)


def test_remix_rows() -> None:
    """Reference: features as mixup's, labels of both items, shares by [Remix eq. 10] from the λ
    that the features tell.
    """
    data, draws = items(), batches(400)
    rows, plain = made(Remix(), draws, data), made(Mixup(), draws, data)
    part, partners = parts(rows, draws)
    assert torch.equal(rows.x, plain.x)
    assert torch.equal(rows.y, data.labels[draws.view(-1)])
    assert rows.second
    assert torch.equal(rows.second.y, data.labels[torch.from_numpy(partners).view(-1)])
    n = np.array(COUNTS)
    ratio = n[rows.y.numpy()] / n[rows.second.y.numpy()]
    weight = np.repeat(part, BATCH)
    expected = np.where((ratio >= 3) & (weight < 0.5), 0, weight)
    expected = np.where((ratio <= 1 / 3) & (1 - weight < 0.5), 1, expected)
    assert_close(rows.second.share, expected, 1e-6, "share")
    assert {0.0, 1.0} <= set(expected), "the cases do not occur"


def test_remix_without_tau_is_mixup() -> None:
    """Reference: mixup from the same random state; no λ is below 0."""
    draws = batches(100)
    plain, rows = made(Mixup(), draws), made(Remix(), draws, kappa=1, tau=0)
    assert plain.second
    assert rows.second
    assert torch.equal(rows.second.share, plain.second.share)


@pytest.mark.parametrize("maker", [Mixup(), Remix()])
def test_items_are_drawn(maker: Generator) -> None:
    """Reference: no rows beyond the items; row a·N + i is copy a of item i, with its label."""
    labels = labels_of(COUNTS)
    data = features(torch.eye(2 * ITEMS), labels, classes=len(COUNTS), copies=2)
    values = {s.name: s.default for s in maker.settings}
    assert torch.equal(maker.prepare(values, data).labels, labels)
    draws = torch.arange(2 * ITEMS).view(2, ITEMS)
    rows = made(maker, draws, data)
    assert torch.equal(rows.y, labels.repeat(2))
    assert (rows.x.diagonal() > 0).all()
    assert not rows.x[:ITEMS, ITEMS:].any(), "mixed with a row of another batch"
    assert (maker.fills, maker.mixes) == (False, True)


@pytest.mark.parametrize("maker", [Mixup(), Remix()])
def test_a_batch_of_one_is_itself(maker: Generator) -> None:
    """Reference: the item, which is its own partner."""
    data = items()
    rows = made(maker, torch.arange(ITEMS)[:, None], data)
    assert torch.equal(rows.x, data.x)
    assert rows.second
    assert torch.equal(rows.second.y, rows.y)


@pytest.mark.parametrize("maker", [Mixup(), Remix()])
def test_the_random_state_tells_the_rows(maker: Generator) -> None:
    """Reference: the same generator state; another state; whatever the global states are."""
    draws = batches(20)
    torch.manual_seed(1)
    np.random.seed(1)
    once = made(maker, draws, seed=3)
    torch.manual_seed(2)
    np.random.seed(2)
    again, other = made(maker, draws, seed=3), made(maker, draws, seed=4)
    assert torch.equal(again.x, once.x)
    assert not torch.equal(other.x, once.x)


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e8])
def test_extreme_alpha(alpha: float) -> None:
    """Reference: rows are those of the batch for α → 0, halves of two for α → ∞; all finite."""
    rows = made(Mixup(), batches(50), alpha=alpha)
    assert rows.second
    edge = torch.minimum(rows.second.share, 1 - rows.second.share)
    assert rows.x.isfinite().all()
    assert_close(edge.median(), 0.5 if alpha > 1 else 0.0, 1e-3, f"α = {alpha}")


@pytest.mark.parametrize(
    ("maker", "wrong", "sentence"),
    [
        (Mixup(), {"alpha": 0}, "The 'alpha' of generator must be a float > 0, got 0."),
        (Remix(), {"alpha": -1.0}, "The 'alpha' of generator must be a float > 0, got -1."),
        (Remix(), {"kappa": 0.5}, "The 'kappa' of generator must be a float ≥ 1, got 0.5."),
        (Remix(), {"tau": 1.5}, "The 'tau' of generator must be a float ≥ 0 and ≤ 1, got 1.5."),
    ],
)
def test_settings(maker: Generator, wrong: dict[str, float], sentence: str) -> None:
    """Reference: the defaults of the papers; a sentence for a wrong value."""
    defaults = {s.name: s.default for s in maker.settings}
    assert defaults == {"alpha": 1.0, **({"kappa": 3.0, "tau": 0.5} if "tau" in defaults else {})}
    with pytest.raises(errors.ConfigError, match=sentence):
        resolved(maker.settings, wrong, "generator")
