"""Results of splits of very many rows, in sums by part, against those with a bit per row."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from featbank import Bank, errors, write_bank
from stage2.ensemble.building import build_ensemble
from stage2.export.exporting import export_head
from stage2.features import parts
from stage2.methods.recipe import Recipe, expand
from stage2.plots.confusion import _matrices
from stage2.results.choice import choose
from stage2.results.compare import compare
from stage2.results.merge_files import merge_files
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.verdict import verdict
from stage2.sweep import sweep

RECIPES = [*expand({"crt": {"epochs": [2], "lr": [0.01, 0.1]}}, seeds=(0, 1)), Recipe("ncm")]


def _bank(path: Path, *, groups: bool) -> Path:
    """Pixels of images: 200 rows an image, of one class for the most part."""
    random = np.random.default_rng(0)
    features, labels, sources = {}, {}, {}
    for place, (split, count) in enumerate({"train": 5, "val": 6, "test": 8}.items()):
        of = np.repeat(np.arange(count) + 10 * place, 200)
        y = np.where(random.random(len(of)) < 0.7, of % 3, random.integers(0, 3, len(of)))
        x = np.eye(8)[y] + random.normal(0, 1, (100, 8))[of] + random.normal(0, 0.5, (len(y), 8))
        features[split], labels[split], sources[split] = {"instance": x}, y, of
    write_bank(
        path,
        features,
        labels,
        source_groups=sources if groups else None,
        seen=dict.fromkeys(labels, False),
    )
    return path


def _swept(bank: Path, path: Path) -> Path:
    with Bank(bank) as opened:
        sweep(opened, RECIPES, results=path)
    return path


@pytest.fixture
def compact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums by part from 500 rows on."""
    monkeypatch.setattr(parts, "COMPACT_ROWS", 500)


def test_parts_of_a_split(tmp_path: Path, compact: None) -> None:
    """Reference: a loop over images and classes."""
    with Bank(_bank(tmp_path / "b.h5", groups=True)) as bank:
        found = parts.parts_of(bank, "test")
        groups, labels = bank.source_groups("test"), bank.labels("test")
    assert found is not None
    assert found.groups is not None
    known = [
        (k, g, int(((groups == image) & (labels == k)).sum()))
        for g, image in enumerate(np.unique(groups))
        for k in range(3)
    ]
    assert [*zip(found.labels, found.groups, found.rows, strict=True)] == known
    assert np.array_equal(found.labels[found.part], labels)


def test_sums_give_what_bits_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: the same sweep with a bit per row: metrics, ranking, ties, tests, intervals and
    confusions; the rows of a part that are right."""
    bank = _bank(tmp_path / "b.h5", groups=True)
    bits = _swept(bank, tmp_path / "bits.sqlite")
    monkeypatch.setattr(parts, "COMPACT_ROWS", 500)
    with pytest.raises(errors.ConfigError, match="one by one, where this version"):
        _swept(bank, bits)
    sums = _swept(bank, tmp_path / "sums.sqlite")
    with Store(bits) as one, Store(sums) as other:
        pair = [Results(store) for store in (one, other)]
        assert pair[1].about["parts"] == {"val": 18, "test": 24}
        fingerprint = pair[0].fingerprint
        with Bank(bank) as opened:
            part = parts.parts_of(opened, "test").part
        for run in one.runs(fingerprint):
            (again,) = [each for each in other.runs(fingerprint) if each.recipe == run.recipe]
            assert again.metrics == run.metrics
            for split, epoch in run.metrics:
                if split == "test":
                    right = one.correct(fingerprint, run.recipe, split, epoch)
                    got = other.correct(fingerprint, run.recipe, split, epoch)
                    assert np.array_equal(got, np.bincount(part, right, 24))
        expected, got = (results.board for results in pair)
        assert [row["recipe"] for row in got.rows] == [row["recipe"] for row in expected.rows]
        assert pair[1].tied == pair[0].tied
        by_macro = [Results(store, select_by="macro") for store in (one, other)]
        assert by_macro[1].board.protocol == by_macro[0].board.protocol
        nested = [Results(store, nested=True, select_by="macro").optimism for store in (one, other)]
        assert_allclose(nested[1].corrected, nested[0].corrected, rtol=1e-5)
        for a, b in zip(*(compare(r, ["crt", "ncm"]).comparisons for r in pair), strict=True):
            assert (b.p, b.classes) == (a.p, a.classes)
            assert (len(a.seeds), b.seeds) == (2, ())
            for name, measure in a.measures.items():
                assert_allclose(b.measures[name].low, measure.low, rtol=1e-9, err_msg=name)
                assert b.measures[name].difference == pytest.approx(measure.difference)
        matrices = [_matrices(choose(results, recipes=["crt"])) for results in pair]
        for (classes, matrix), (others, sums_of) in zip(*matrices, strict=True):
            assert np.array_equal(classes, others)
            assert_allclose(sums_of, matrix)


def test_what_works_without_bits(tmp_path: Path, compact: None) -> None:
    """Reference: each command's own checks: merging, the ensemble, the export and its card."""
    bank = _bank(tmp_path / "b.h5", groups=True)
    path = _swept(bank, tmp_path / "r.sqlite")
    shutil.copy(path, tmp_path / "copy.sqlite")
    merge_files([path, tmp_path / "copy.sqlite"], tmp_path / "both.sqlite")
    assert build_ensemble(path).recipe.pool >= 2
    with Store(path) as store:
        results = Results(store)
        assert results.find("ensemble").measured_on("test")
    exported = export_head(path, "crt", tmp_path / "head.safetensors")
    assert exported is not None
    assert (tmp_path / "head.safetensors").exists()


def test_without_source_groups_rows_are_not_compared(tmp_path: Path, compact: None) -> None:
    """Reference: one line that says why; the leaderboard ranks by macro accuracy."""
    path = _swept(_bank(tmp_path / "b.h5", groups=False), tmp_path / "r.sqlite")
    with Store(path) as store:
        results = Results(store)
        assert results.about["parts"] == {"val": 3, "test": 3}
        assert (results.ranking.rule, results.optimism) == ("macro", None)
        assert "val: " in results.board.protocol
        with pytest.raises(errors.ConfigError, match="1,600 rows, of which results keep sums"):
            compare(results, ["crt", "ncm"])
        said = verdict(results)
        assert (said.ties, said.corrected) == (None, None)
        assert "cost of choosing is not known: val is not compared row by row" in said.lines[1]
