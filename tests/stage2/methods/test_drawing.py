"""Random numbers of generators: the same on any number of threads, one stream for each piece."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from stage2.methods.generators import GENERATORS, Features, drawing
from stage2.methods.generators.drawing import by_class, draw_each, normals
from tests.stage2.synthetic import problem


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch given so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_large_draws_do_not_depend_on_threads(threads: int) -> None:
    """Reference: chunk by chunk, each from the generator of its seed; SciPy's KS test."""
    rows = 3 * drawing.CHUNK // 64 + 5
    drawn = normals(rows, 64, torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(3)
    seeds = torch.randint(2**62, (-(-rows * 64 // drawing.CHUNK),), generator=random)
    flat = drawn.view(-1)
    for seed, chunk in zip(seeds.tolist(), flat.split(drawing.CHUNK), strict=True):
        own = torch.Generator().manual_seed(seed)
        assert torch.equal(chunk, torch.empty_like(chunk).normal_(generator=own))
    assert stats.kstest(flat[:: rows // 50].numpy(), "norm").pvalue > 1e-3
    assert torch.get_num_threads() == threads


def test_pieces_do_not_depend_on_threads(threads: int) -> None:
    """Reference: the pieces one after the other."""
    y = torch.randint(7, (100,), generator=torch.Generator().manual_seed(0))

    def drawn(numbers: int) -> Tensor:
        out = torch.zeros(100)

        def piece(k: int, places: Tensor, random: torch.Generator) -> None:
            assert bool((y[places] == k).all())
            out[places] = torch.randn(len(places), generator=random)

        draw_each(piece, list(by_class(y)), torch.Generator().manual_seed(1), numbers=numbers)
        return out

    expected, got = drawn(0), drawn(drawing.LARGE)
    assert torch.equal(got, expected)
    assert len(got.unique()) == 100
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_made_does_not_depend_on_threads(
    name: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: one thread; every draw is counted as large."""
    monkeypatch.setattr(drawing, "LARGE", 0)
    monkeypatch.setattr(drawing, "CHUNK", 64)
    view = problem().view()
    x, labels = view.train.x, view.train.labels  # type: ignore[attr-defined]
    settings = {setting.name: setting.default for setting in GENERATORS[name].settings}
    generation = GENERATORS[name].prepare(settings, Features(x, labels, 1, view.counts))
    draws = torch.arange(len(generation.labels) // 10 * 10).view(-1, 10)

    def made() -> list[np.ndarray]:
        rows = generation.make(draws, 0, torch.Generator().manual_seed(5))
        blend = rows.blend
        if blend is None:
            return [rows.x.numpy()]
        return [rows.x.numpy(), blend.base.numpy(), blend.direction.numpy()]

    got = made()
    torch.set_num_threads(1)
    for one, other in zip(got, made(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
