"""Comparisons between banks: a paired test on the same rows, independent intervals on others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from featbank import errors
from featbank.bank import ClassGroups
from stage2.results.banks import banks_of
from stage2.results.compare import Compared, compare
from stage2.results.comparison_tables import comparison_tables, render_comparison
from stage2.results.differences import MeasuredRows, Resampling, comparison_of
from stage2.results.results import Results
from stage2.results.significance import holm
from stage2.results.store import Store
from tests.stage2.results.tampering import change


def compared(path: Path, banks: str, *names: str, **options: int) -> Compared:
    """A comparison, with few resamples."""
    with Store(path) as store:
        return compare(banks_of(store, banks), names, **{"resamples": 200, **options})


def right_of(path: Path, bank: str, name: str) -> tuple[Results, dict[int, np.ndarray]]:
    """The results of a bank, and which test rows each seed of a recipe's best has right."""
    with Store(path) as store:
        results = Results(store, bank=bank)
        best = results.find(name)
        return results, {
            run.seed: store.correct(
                results.fingerprint, run.recipe, "test", run.measured_at("test", "selected")
            )
            for run in best.runs
        }


def test_the_same_rows_are_paired(several: Path) -> None:
    """Reference: SciPy's exact binomial test of each seed, on the rows as they are stored."""
    result = compared(several, "r32,ResNet-50", "crt")
    (pair,) = result.comparisons
    (_, a), (_, b) = (right_of(several, bank, "crt") for bank in ("r32", "ResNet-50"))
    assert [pair.a.split("@")[1], pair.b.split("@")[1]] == ["r32", "ResNet-50"]
    for test in pair.seeds:
        only_a = int((a[test.seed] & ~b[test.seed]).sum())
        only_b = int((b[test.seed] & ~a[test.seed]).sum())
        assert (test.only_a, test.only_b) == (only_a, only_b)
        expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert test.p == pytest.approx(expected)
    assert len(pair.seeds) == 2
    assert pair.measures["top1"].a == pytest.approx(100 * np.mean([*a.values()]))
    assert pair.measures["top1"].b == pytest.approx(100 * np.mean([*b.values()]))
    assert "few" in pair.measures
    assert "p: exact sign test" in result.protocol
    assert "no paired test" not in result.protocol
    assert "[between the banks] the same test rows" in result.protocol


def test_other_rows_have_no_test(several: Path) -> None:
    """Reference: no p and no seeds in any form, the reason in the protocol; accuracies are means
    over each bank's own rows, and groups that are other classes are left out."""
    result = compared(several, "r32,steep", "crt")
    (pair,) = result.comparisons
    assert (pair.p, pair.p_holm, pair.seeds) == (None, None, ())
    for bank, side in (("r32", "a"), ("steep", "b")):
        _, right = right_of(several, bank, "crt")
        got = getattr(pair.measures["top1"], side)
        assert got == pytest.approx(100 * np.mean([*right.values()]))
    assert [*pair.measures] == ["top1", "macro"]
    assert "r32 and steep: not the same rows, so no paired test" in result.protocol
    assert "p: exact" not in result.protocol
    titles = [table.title for table in comparison_tables(result)]
    assert len(titles) == 2
    assert titles[1].endswith("samples and rows of A's bank")
    assert json.loads(render_comparison(result, "json"))["comparisons"][0]["p"] is None
    assert render_comparison(result, "csv").splitlines()[1].endswith(",,")


def test_rows_that_are_not_known(several: Path, tmp_path: Path) -> None:
    """A file from before rows had digests: the same rows, perhaps, but nothing says so."""
    older = tmp_path / "older.sqlite"
    older.write_bytes(several.read_bytes())
    change(older, "UPDATE bank SET about = json_remove(about, '$.identities')")
    result = compared(older, "r32,ResNet-50", "crt")
    assert result.comparisons[0].p is None
    assert "r32 and ResNet-50: rows not known to be the same, so no paired test" in result.protocol


def test_several_names_and_none(several: Path) -> None:
    """Reference: by hand: every name on every bank, the first on the first bank is A; without
    names the best of each bank. Holm counts the tests alone."""
    result = compared(several, "r32,ResNet-50,steep", "crt", "tau_norm")
    ids = [result.comparisons[0].a, *(each.b for each in result.comparisons)]
    names = [(i.split("-")[0], i.split("@")[1]) for i in ids]
    banks = ("r32", "ResNet-50", "steep")
    assert names == [(name, bank) for name in ("crt", "tau_norm") for bank in banks]
    tested = [each for each in result.comparisons if each.p is not None]
    assert [each.b.split("@")[1] for each in tested] == ["ResNet-50", "r32", "ResNet-50"]
    assert [each.p_holm for each in tested] == holm([each.p for each in tested if each.p])
    assert "Holm over 3 comparisons" in result.protocol
    (table,) = comparison_tables(result)
    few = table.header.index("few")
    assert [line[few] == "–" for line in table.lines] == [b == "steep" for _, b in names]
    result = compared(several, "r32,steep")
    with Store(several) as store:
        best = [Results(store, bank=bank).board.rows[0]["recipe"] for bank in ("r32", "steep")]
    (pair,) = result.comparisons
    assert [pair.a, pair.b] == [f"{best[0]}@r32", f"{best[1]}@steep"]


def test_names_that_a_bank_lacks(several: Path) -> None:
    """Reference: the message, which names the bank."""
    with pytest.raises(errors.ConfigError, match="steep: .* has no configuration 'ncm'"):
        compared(several, "r32,steep", "ncm")


def rows_of(rng: np.random.Generator, rows: Sequence[int]) -> MeasuredRows:
    """Rows of three classes in random order."""
    labels = rng.permutation(np.repeat(np.arange(3), rows))
    counts = np.array([200, 50, 5])
    return MeasuredRows(labels, counts, ("a", "b", "c"), ClassGroups.usual(counts))


def test_intervals_of_independent_rows() -> None:
    """Reference: the normal interval of a difference of two independent means, with the variance
    of each class mean estimated without bias, from 20,000 resamples within 4 %."""
    rng = np.random.default_rng(0)
    sides = rows_of(rng, (60, 80, 50)), rows_of(rng, (90, 40, 70))
    right = [rng.random(len(each.labels)) < 0.65 for each in sides]
    how = Resampling(20_000, np.random.default_rng(1), 0)
    result = comparison_of(("x", "y"), ({0: right[0]}, {0: right[1]}), sides, how, same_rows=False)
    macro = result.measures["macro"]
    means = [[r[s.labels == k] for k in range(3)] for r, s in zip(right, sides, strict=True)]
    variance = sum(np.var(c, ddof=1) / len(c) for side in means for c in side) / 9
    half = 100 * stats.norm.ppf(0.975) * np.sqrt(variance)
    assert macro.difference == pytest.approx(
        100 * (np.mean([c.mean() for c in means[1]]) - np.mean([c.mean() for c in means[0]]))
    )
    assert macro.high - macro.low == pytest.approx(2 * half, rel=0.04)
    assert result.p is None
