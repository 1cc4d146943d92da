"""What pictures are drawn from: means over seeds against the runs by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featbank import Bank
from stage2.engine.details import merged_reliability, reliability
from stage2.engine.metrics import BINS
from stage2.methods.recipe import Recipe
from stage2.results.measured import _stacked, measured
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.sweep import sweep
from tests.stage2.compare import assert_close
from tests.stage2.synthetic import Problem

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def results(small: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of cRT and of one with a moving β, three seeds, and of NCM, which has none."""
    folder = tmp_path_factory.mktemp("measured")
    path = folder / "results.sqlite"
    small.bank(folder / "bank.h5").close()
    crt = [Recipe("crt", epochs=3, seed=seed) for seed in SEEDS]
    glag = [Recipe("glag", epochs=3, seed=seed) for seed in SEEDS]
    sweep(folder / "bank.h5", [*crt, *glag, Recipe("ncm")], results=path, device="cpu")
    return path


@pytest.mark.parametrize("epoch", ["last", "selected"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_means_over_seeds(results: Path, split: str, epoch: str) -> None:
    """Reference: the stored arrays of each seed, averaged; a bin's average weighted by its rows."""
    with Store(results) as store:
        crt = Results(store).find("crt")
        arrays = measured(Results(store, split=split), crt, epoch)
        places = [(store.one_bank()[0], run.recipe, split, epoch) for run in crt.runs]
        details = [store.details(*place) for place in places]
        per_class = [store.per_class(*place) for place in places]
        losses = [store.curves(store.one_bank()[0], run.recipe)["loss"] for run in crt.runs]
    assert_close(arrays.per_class, np.mean(per_class, 0), 1e-12, "per class")
    assert_close(
        arrays.details["weight_norm"], np.mean([d["weight_norm"] for d in details], 0), 1e-6
    )
    assert np.array_equal(arrays.curves["loss"], np.stack(losses))
    assert (arrays.epoch, arrays.beta) == (epoch, None)
    rows, confidence, right = (np.stack([d["reliability"][i] for d in details]) for i in range(3))
    got = arrays.details["reliability"]
    assert np.array_equal(got[0], rows.sum(0))
    assert np.isnan(got[1:, got[0] == 0]).all()
    for b in np.flatnonzero(got[0]):
        for line, values in ((1, confidence), (2, right)):
            filled = rows[:, b] > 0
            expected = (rows[filled, b] * values[filled, b]).sum() / rows[:, b].sum()
            assert_close(got[line, b], expected, 1e-9, f"bin {b}")


def test_the_diagram_of_all_seeds_is_that_of_all_their_rows() -> None:
    """Reference: `reliability` of the sums of the bins' rows, confidences and right rows."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 3, (4, BINS)).astype(float)  # with empty bins
    confidence, right = rows * rng.random((4, BINS)), rows * rng.random((4, BINS))
    diagrams = reliability(np.stack([rows, confidence, right]))
    expected = reliability(np.stack([rows, confidence, right]).sum(1, keepdims=True))
    got = merged_reliability(diagrams)
    assert np.array_equal(np.isnan(got), np.isnan(expected[0]))
    assert_close(np.nan_to_num(got), np.nan_to_num(expected[0]), 1e-9, "diagram")


def test_rows_are_added_over_seeds(results: Path, bank: Bank) -> None:
    """Reference: by hand: three seeds see each test row once; confusions of a pair add up."""
    with Store(results) as store:
        crt = Results(store).find("crt")
        details = measured(Results(store), crt).details
        each = [
            store.details(store.one_bank()[0], run.recipe, "test", "selected")[
                "confusions"
            ].tolist()
            for run in crt.runs
        ]
    assert details["confidence"].sum() == 3 * bank.rows("test")
    wrong = {(k, j) for pairs in each for k, j, _ in pairs}
    for k, j, rows in details["confusions"].tolist():
        assert rows == sum(n for pairs in each for a, b, n in pairs if (a, b) == (k, j))
    assert {(k, j) for k, j, _ in details["confusions"].tolist()} == wrong
    assert sorted(details["confusions"][:, 2], reverse=True) == details["confusions"][:, 2].tolist()


def test_what_ranks_is_looked_at_closer(results: Path) -> None:
    """Reference: the one split and epoch that a report shows; nothing of the others."""
    with Store(results) as store:
        crt, ncm = Results(store).find("crt"), Results(store).find("ncm")
        closer = [
            (split, epoch)
            for split in ("val", "test")
            for epoch in ("last", "selected")
            if "confusions" in measured(Results(store, split=split), crt, epoch).details
        ]
        assert closer == [("test", "selected")]
        without_epochs = measured(Results(store), ncm)
        assert without_epochs.epoch == "last"
        assert {"confusions", "confidence"} <= set(without_epochs.details)


def test_the_way_of_beta(results: Path) -> None:
    """Reference: the stored traces."""
    with Store(results) as store:
        glag = Results(store).find("glag")
        traces = [store.traces(store.one_bank()[0], run.recipe)["beta"] for run in glag.runs]
        beta = measured(Results(store), glag).beta
    assert beta is not None
    assert np.array_equal(beta, np.stack(traces), equal_nan=True)


def test_curves_of_several_lengths() -> None:
    """Reference: by hand; L-BFGS ends when it has converged, and a curve may be empty."""
    long, short, empty = np.array([3.0, 2, 1]), np.array([5.0]), np.empty(0)
    got = _stacked([{"loss": long, "none": empty}, {"loss": short, "none": empty}])
    assert np.array_equal(got["loss"], [[3, 2, 1], [5, np.nan, np.nan]], equal_nan=True)
    assert got["none"].shape == (2, 0)
