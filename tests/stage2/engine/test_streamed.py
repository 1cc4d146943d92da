"""Features larger than memory: the same draws in another order, within a budget."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from featbank import Bank, errors, write_bank
from featbank.exchange import read_file
from stage2 import Recipe, sweep
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.rows import MemoryRows
from stage2.engine.streamed import StreamedRows
from stage2.engine.tile import TileRun
from stage2.features.loading import load_view
from stage2.features.planning import plan_bank
from stage2.methods.samplers import SAMPLERS
from stage2.methods.seeding import seeded
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem, group_stream, groups_of, index_stream, problem

DIM = 3
METRICS = ("top1", "few")


@dataclass
class Arrays:
    """A source in memory, [A, N, D], that counts what is read of it."""

    x: np.ndarray
    chunk_rows: int = 8
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(A, N, D)."""
        return self.x.shape

    @property
    def dtype(self) -> str:
        """Type of the features."""
        return str(self.x.dtype)

    def read(self, copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rows of a copy."""
        self.reads.append((copy, start))
        found = self.x[copy, start:stop].copy()
        if out is None:
            return found
        out[:] = found
        return out


def streamed(
    items: int = 203, *, copies: int = 1, rows: int = 40, dtype: str = "float32"
) -> tuple[StreamedRows, Arrays]:
    """A stream of long-tailed rows, sorted by class, that holds `rows` in each third."""
    x = np.random.default_rng(0).standard_normal((copies, items, DIM)).astype(dtype)
    labels = torch.from_numpy(np.sort(np.random.default_rng(1).geometric(0.3, items) - 1))
    source = Arrays(x)
    return StreamedRows(source, labels, budget=3 * 4 * DIM * rows), source


def seen(stream: StreamedRows, draws: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features and labels of an epoch, batch by batch."""
    x, y = [], []
    for window in stream.windows(draws, seeded(seed, "windows")):
        x += [window.x[rows].clone() for rows in window.rows]
        y += [*window.y]
    return torch.stack(x), torch.stack(y)


def sorted_rows(x: Tensor, y: Tensor) -> Tensor:
    """Rows [n, D + 1] in an order that does not depend on theirs."""
    rows = torch.cat([x.flatten(0, -2), y.flatten()[:, None].float()], 1)
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("batch", [1, 7, 64, 150])
def test_an_epoch_trains_on_its_draws(sampler: str, copies: int, batch: int) -> None:
    """Reference: the rows of the index stream, each as often as drawn, with their own labels."""
    stream, source = streamed(copies=copies)
    items = source.shape[1]
    draws = index_stream(
        sampler, stream.labels[:items], epochs=2, steps=5, batch_size=batch, seed=3, copies=copies
    )
    flat = torch.from_numpy(source.x).flatten(0, 1)
    for epoch in draws:
        x, y = seen(stream, epoch)
        assert x.shape == (5, batch, DIM)
        got, expected = sorted_rows(x, y), sorted_rows(flat[epoch], stream.labels[epoch])
        assert torch.equal(got, expected), "other rows than were drawn, or with other labels"


def _epochs(count: int) -> list[Tensor]:
    labels = streamed()[0].labels
    return list(index_stream("sqrt", labels, epochs=count, steps=5, batch_size=40, seed=3))


@pytest.mark.parametrize("rows", [20, 40, 70, 210])
def test_an_epoch_begins_in_the_one_before(rows: int) -> None:
    """Reference: epochs that begin by themselves, to the last bit, for odd and even numbers of
    windows; the first block of an epoch is read while the last window trains."""
    draws = list(
        index_stream("sqrt", streamed()[0].labels, epochs=4, steps=5, batch_size=40, seed=3)
    )
    expected, lengths = [], set()
    alone, random = streamed(rows=rows)[0], seeded(0, "windows")
    for epoch in draws:
        windows = [(w.x[w.rows].clone(), w.y) for w in alone.windows(epoch, random)]
        lengths.add(len(windows))
        expected += windows
    (stream, source), random = streamed(rows=rows), seeded(0, "windows")
    got = []
    for number, epoch in enumerate(draws):
        following = draws[number + 1] if number + 1 < len(draws) else None
        source.reads.clear()
        windows = stream.windows(epoch, random, number, following)
        for window in windows:
            got.append((window.x[window.rows].clone(), window.y))
        begun = stream._begun
        assert (begun is None) == (following is None)
        assert begun is None or begun.ready.done()
    assert len(got) == len(expected)
    for pair, other in zip(got, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair, other, strict=True))


def test_a_begun_epoch_is_dropped_by_another_training() -> None:
    """Reference: a stream that nobody has used."""
    draws = list(
        index_stream("sqrt", streamed()[0].labels, epochs=2, steps=5, batch_size=40, seed=3)
    )
    stream, _ = streamed()
    list(stream.windows(draws[0], seeded(1, "windows"), 0, draws[1]))
    assert torch.equal(seen(stream, draws[0])[0], seen(streamed()[0], draws[0])[0])


def test_a_draw_takes_one_of_the_copies() -> None:
    """Reference: uniform over copies; the items are those drawn without copies."""
    labels = torch.arange(4).repeat(50)
    one = {"epochs": 4, "steps": 100, "batch_size": 8, "seed": 0}
    items = index_stream("class_balanced", labels, **one)
    rows = index_stream("class_balanced", labels, copies=4, **one)
    assert torch.equal(rows % len(labels), items)
    share = torch.bincount((rows // len(labels)).flatten(), minlength=4) / rows.numel()
    assert (share - 0.25).abs().max() < 0.03, f"got {share}"


def test_a_block_is_read_once_an_epoch_at_most() -> None:
    """Reference: the source's own count of what was read."""
    stream, source = streamed()
    list(stream.windows(torch.arange(200).view(5, 40), seeded(0, "windows")))
    source.reads.clear()  # the rows that stay in memory are there now
    list(stream.windows(torch.arange(200).view(5, 40), seeded(0, "windows")))
    assert 0 < len(source.reads) == len(set(source.reads)) <= -(-203 // source.chunk_rows)


def test_rows_of_the_rarest_classes_are_not_read_again() -> None:
    """Reference: an epoch that draws only them reads nothing, and is one window."""
    stream, source = streamed()
    rarest = stream.labels.argsort(descending=True)[:5]
    (window,) = stream.windows(rarest.view(1, 5), seeded(0, "windows"))
    source.reads.clear()
    (window,) = stream.windows(rarest.view(1, 5), seeded(0, "windows"))
    assert not source.reads
    assert len(window.rows) == 1


def test_memory_stays_within_the_budget() -> None:
    """Reference: three thirds, and two batches' carries."""
    stream, _ = streamed(items=2000, rows=100)
    for window in stream.windows(torch.arange(1990).view(199, 10), seeded(0, "windows")):
        assert len(window.x) == 3 * 100 + 2 * 10


def test_an_epoch_is_shuffled_and_repeatable() -> None:
    """Reference: a seed gives one order, another seed another, neither the file's."""
    stream, _ = streamed()
    draws = torch.arange(200).view(5, 40)
    first, again, other = (seen(stream, draws, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    stays = stream.blocks()
    assert not torch.equal(first.flatten(0, 1), torch.cat([x for x, _ in stays])[:200])


def test_draws_in_memory_are_spread_over_the_epoch() -> None:
    """Reference: the rarest class, in memory, is in the first and in the second half alike."""
    stream, source = streamed(items=4000, rows=500)
    draws = index_stream(
        "class_balanced", stream.labels, epochs=1, steps=100, batch_size=40, seed=0
    )[0]
    _, y = seen(stream, draws)
    rare = int(stream.labels.max())
    halves = (y == rare).flatten().view(2, -1).sum(1)
    assert halves.min() > 0.7 * halves.max(), f"got {halves.tolist()} of class {rare}"
    assert len(source.reads) > 0


def test_going_through_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the array, in order, float16 as float32, whatever the size of a read."""
    monkeypatch.setattr("stage2.engine.streamed.READ_BYTES", 4 * DIM * 30)
    stream, source = streamed(copies=2, dtype="float16")
    blocks = list(stream.blocks())
    assert len(blocks) > 4
    x = torch.cat([x for x, _ in blocks])
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(source.x).float().flatten(0, 1))
    assert torch.equal(torch.cat([y for _, y in blocks]), stream.labels)


def test_a_budget_below_a_block_is_refused() -> None:
    """Reference: ConfigError that says how much is needed."""
    with pytest.raises(errors.ConfigError, match=r"needs 288 bytes .* leaves \d+ bytes"):
        streamed(rows=7)


def test_a_failing_read_reaches_the_caller() -> None:
    """Reference: the source's own error, not a hang of the reading thread."""
    stream, source = streamed()
    list(stream.windows(torch.arange(200).view(5, 40), seeded(0, "windows")))

    def fail(copy: int, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        raise errors.Corrupt("bank.h5 is damaged")

    source.read = fail  # type: ignore[method-assign]
    with pytest.raises(errors.Corrupt, match="damaged"):
        list(stream.windows(torch.arange(200).view(5, 40), seeded(0, "windows")))


def test_what_needs_no_order_is_the_same(small: Problem) -> None:
    """Reference: in memory. Class means, post-hoc heads and all evaluations pass over blocks."""
    recipes = [Recipe(n) for n in ("ncm", "tau_norm", "logit_adjust")]
    recipes += [Recipe("ncm", transform=t, metric="cosine") for t in ("un", "l2n")]
    (group,) = groups_of(recipes, small)
    data = small.view()
    whole = run_group(group, data)
    parts = run_group(group, _streamed_view(data))
    for a, b in zip(whole, parts, strict=True):
        assert a.recipe == b.recipe
        for name, value in a.parameters.items():
            assert_close(b.parameters[name], value, 1e-6, f"{name} of {a.recipe}")
        for place, evaluation in a.evaluations.items():
            assert np.array_equal(b.evaluations[place].correct, evaluation.correct)
            for metric, value in evaluation.metrics.items():
                assert b.evaluations[place].metrics[metric] == pytest.approx(value, abs=1e-4)


def test_a_large_val_is_calibrated_without_its_logits(
    small: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: in memory, with all logits of val at once. A class has no training row."""
    (group,) = groups_of([Recipe("ncm"), Recipe("tau_norm", tau=0.5)], small)
    counts = small.view().counts.copy()
    counts[-1] = 0
    parts = {split: rows.labels.int() for split, rows in small.view().evaluated.items()}
    data = replace(small.view(), counts=counts, parts=parts)
    whole = run_group(group, data)
    cut = replace(_streamed_view(data), counts=counts, parts=parts)
    monkeypatch.setattr(TileRun, "all_logits", lambda *_: pytest.fail("logits are held"))
    for a, b in zip(whole, run_group(group, cut), strict=True):
        expected, found = (each.evaluations["val", "last"].metrics for each in (a, b))
        known = {metric: value for metric, value in expected.items() if value is not None}
        assert {"fitted_temperature", "nll_t"} <= known.keys()
        assert {m: found[m] for m in known} == pytest.approx(known, rel=1e-4, abs=1e-4)


def _streamed_view(data: ViewData, chunk_rows: int = 4) -> ViewData:
    def stream(rows: MemoryRows, budget_rows: int = 16) -> StreamedRows:
        source = Arrays(rows.x.numpy()[None], chunk_rows=chunk_rows)
        return StreamedRows(source, rows.labels, budget=12 * rows.dim * budget_rows)

    return ViewData(
        stream(data.train),
        {split: stream(rows) for split, rows in data.evaluated.items()},
        data.counts,
        data.full_counts,
        data.weight0,
        data.bias0,
    )


def test_views_streamed_in_different_blocks_are_averaged_row_by_row(small: Problem) -> None:
    """Reference: the views in memory; heads without training, so that order does not count."""
    (group,) = groups_of([Recipe("ncm", view="instance+balanced")], small)
    views = [small.view(view) for view in group.stream.views]
    (whole,) = run_group(group, *views)
    cut = [_streamed_view(view, rows) for view, rows in zip(views, (4, 3), strict=True)]
    (parts,) = run_group(group, *cut)
    for key, evaluation in whole.evaluations.items():
        assert np.array_equal(parts.evaluations[key].correct, evaluation.correct)
        assert parts.evaluations[key].metrics["nll"] == pytest.approx(
            evaluation.metrics["nll"], abs=1e-5
        )


def test_trainings_of_a_group_see_the_same_order(small: Problem) -> None:
    """Reference: a recipe alone, streamed with the same budget."""
    recipes = [Recipe(n, epochs=2, batch_size=16) for n in ("crt", "mislas")]
    grid = [Recipe("crt", epochs=2, batch_size=16, lr=lr) for lr in (0.05, 0.2, 0.3)]
    together = {
        outcome.recipe: outcome
        for group in groups_of([*recipes, *grid], small)
        for outcome in run_group(group, _streamed_view(small.view()))
    }
    for recipe in recipes:
        (alone,) = groups_of([recipe], small)
        (outcome,) = run_group(alone, _streamed_view(small.view()))
        for name, value in outcome.parameters.items():
            assert_close(together[recipe].parameters[name], value, 1e-5, f"{name} of {recipe}")


def test_a_sweep_streams_what_does_not_fit(tmp_path: Path) -> None:
    """Reference: in memory; as many runs, all done, val and test measured, accuracy alike."""
    made = problem((5000, 2000, 800, 300, 80, 40), dim=64, seed=1, spread=0.4)
    with made.bank(tmp_path / "bank.h5") as bank:
        recipes = [Recipe("crt", epochs=5), Recipe("balanced_softmax", epochs=5), Recipe("ncm")]
        assert isinstance(load_view(bank, "instance", memory=2 << 20).train, StreamedRows)
        whole = sweep(bank, recipes)
        parts = sweep(bank, recipes, memory=2 << 20)
        for a, b in zip(whole.outcomes, parts.outcomes, strict=True):
            assert b.status == "done"
            for place, evaluation in a.evaluations.items():
                got = b.evaluations[place].metrics["top1"]
                assert got == pytest.approx(evaluation.metrics["top1"], abs=3.0)


@pytest.mark.parametrize("name", ["crt-cifar", "mislas", "balanced_softmax"])
def test_accuracy_on_real_features_is_the_same(
    name: str, real_features: Path, tmp_path: Path
) -> None:
    """Reference: in memory, five seeds. Rows by class, 24 windows an epoch of 113 blocks each."""
    arrays = read_file(real_features)
    by_class = arrays.labels["train"].argsort(kind="stable")
    arrays.features["train"]["instance"] = arrays.features["train"]["instance"][by_class]
    arrays.labels["train"] = arrays.labels["train"][by_class]
    write_bank(tmp_path / "b.h5", arrays.features, arrays.labels, classifier=arrays.classifier)
    recipes = [Recipe(name, seed=seed, epochs=4) for seed in range(5)]
    with Bank(tmp_path / "b.h5") as bank:
        data = load_view(bank, "instance")
        n, dim = data.train.x.shape
        source = Arrays(data.train.x.numpy()[None], chunk_rows=4)
        stream = StreamedRows(source, data.train.labels, budget=3 * 4 * dim * (n // 24))
        windows = stream.windows(group_stream_of(bank, recipes[0], data)[0], seeded(0, "windows"))
        assert len(list(windows)) >= 10
        accuracy = {}
        for kind, train in (("memory", data.train), ("stream", stream)):
            view = ViewData(
                train, data.evaluated, data.counts, data.full_counts, data.weight0, data.bias0
            )
            outcomes = [o for g in plan_bank(bank, recipes) for o in run_group(g, view)]
            accuracy[kind] = np.array(
                [[o.evaluations["test", "last"].metrics[m] for m in METRICS] for o in outcomes]
            )
    spread = np.sqrt(sum(a.var(0, ddof=1) for a in accuracy.values()) / len(recipes))
    gap = accuracy["stream"].mean(0) - accuracy["memory"].mean(0)
    assert (abs(gap) < 3 * spread + 0.1).all(), f"{name}: top-1 and few differ by {gap} ± {spread}"


def group_stream_of(bank: Bank, recipe: Recipe, data: ViewData) -> Tensor:
    """The index stream of a recipe."""
    (group,) = plan_bank(bank, [recipe])
    return group_stream(group.stream, data.train.labels)


@pytest.mark.parametrize(
    ("items", "copies", "rows", "digest"),
    [
        (203, 1, 40, "5616c97767db9431"),
        (203, 3, 70, "261007f4d79dec71"),
        (2000, 1, 500, "d3411cf2a852f14f"),
        (50, 1, 50, "9e648f56caea1138"),
    ],
)
def test_a_seed_keeps_the_order_of_streamed_rows(
    items: int, copies: int, rows: int, digest: str
) -> None:
    """Reference: SHA-256 of features and labels by the code that sorted all draws."""
    (stream, _), random = streamed(items, copies=copies, rows=rows), seeded(7, "windows")
    draws = index_stream(
        "sqrt", stream.labels[:items], epochs=3, steps=30, batch_size=16, seed=2, copies=copies
    )
    seen = hashlib.sha256()
    for epoch, following in itertools.zip_longest(draws, draws[1:]):
        for window in stream.windows(epoch, random, 0, following):
            seen.update(window.x[window.rows].numpy().tobytes() + window.y.numpy().tobytes())
    assert seen.hexdigest()[:16] == digest, f"got {seen.hexdigest()[:16]}"
