"""The protocol line says what the figures of the rows shown rest on, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featbank import Bank, errors, write_bank
from featbank.bank import HoldOut
from featbank.bank.split import split_val
from stage2 import Recipe, sweep
from stage2.results import filters
from stage2.results.results import Results
from stage2.results.store import Store
from stage2.results.tables import render, table_of


def bank_of(
    path: Path,
    classes: dict[str, list[int]],
    *,
    classifier: bool = False,
    num_classes: int = 6,
    **options: Any,
) -> Path:
    """A bank with so many rows of each class by split; class k lies around 4·e_k."""
    random = np.random.default_rng(3)
    labels = {s: np.repeat(np.arange(len(counts)), counts) for s, counts in classes.items()}
    features = {
        s: {"instance": (4 * np.eye(num_classes)[y] + random.normal(size=(len(y), num_classes)))}
        for s, y in labels.items()
    }
    weight = 2 * np.eye(num_classes)
    write_bank(
        path,
        features,
        labels,
        class_names=[f"c{k}" for k in range(num_classes)],
        classifier={"instance": (weight, None)} if classifier else None,
        **options,
    )
    return path


BALANCED = [20] * 6


def test_a_probe_is_named_where_a_row_shown_needed_one(tmp_path: Path) -> None:
    """ncm and ridge need no classifier, logit_adjust does: filtered out, the probe is as well."""
    bank = bank_of(tmp_path / "b.h5", {"train": [40, 20, 10, 8, 6, 4], "test": BALANCED})
    results = tmp_path / "r.sqlite"
    assert "linear probe" not in sweep(bank, [Recipe("ncm")], results=results).board.protocol
    board = sweep(bank, [Recipe("logit_adjust"), Recipe("ridge")], results=results).board
    assert "stage-1 classifier: linear probe" in board.protocol
    assert "linear probe" in filters.where(board, "name=logit_adjust").protocol
    assert "linear probe" not in filters.where(board, "name!=logit_adjust").protocol
    first = board.rows[0]["name"]
    assert ("linear probe" in render(board, "md", top=1)) == (first == "logit_adjust")


@pytest.mark.parametrize(
    ("classes", "note"),
    [
        ({"train": [9, 9, 9, 0, 0, 9]}, "2 of 6 tested classes have no training row"),
        ({"train": [9, 9, 0, 9, 9, 9]}, "1 of 6 tested classes has no training row"),
        ({"train": BALANCED, "val": [5, 0, 5, 0, 0, 5]}, "val has 3 of 6 tested classes"),
        ({"train": BALANCED, "val": BALANCED}, None),
        ({"train": BALANCED}, None),
    ],
)
def test_classes_that_cannot_be_learned_or_selected_on(
    tmp_path: Path, classes: dict[str, list[int]], note: str | None
) -> None:
    """A class that only test has, and one that val lacks, is in the line."""
    bank = bank_of(tmp_path / "b.h5", {**classes, "test": BALANCED})
    protocol = sweep(bank, [Recipe("ncm")]).board.protocol
    if note:
        assert f" · {note} · " in protocol, protocol
    else:
        assert "tested classes" not in protocol


def test_groups_are_those_of_the_full_counts(tmp_path: Path) -> None:
    """Half of train goes to val; many, medium and few are those of the bank before, and told."""
    counts = [150, 110, 30, 24, 10, 8]
    before = bank_of(tmp_path / "b.h5", {"train": counts, "test": BALANCED})
    split_val(before, tmp_path / "v.h5", HoldOut(fraction=0.5))
    boards = [sweep(path, [Recipe("ncm")]).board for path in (before, tmp_path / "v.h5")]
    assert "groups by the counts before val was held out of train" in boards[1].protocol
    assert "held out" not in boards[0].protocol
    for board in boards:
        assert all(board.rows[0][group] is not None for group in ("many", "medium", "few"))


def test_val_that_stage_1_has_seen(tmp_path: Path) -> None:
    """The line says so, and no calibration is fitted to it until it is said that it was not."""
    counts = {"train": [40, 30, 20, 10, 6, 4], "test": BALANCED}
    bank = bank_of(tmp_path / "b.h5", counts, classifier=True)
    split_val(bank, tmp_path / "seen.h5", HoldOut(2))
    split_val(bank, tmp_path / "clean.h5", HoldOut(2), seen=False)
    calibrated = [Recipe("logit_adjust", calibration=how) for how in ("temperature", "vector")]
    for recipe in calibrated:
        with pytest.raises(errors.ConfigError, match="stage 1 has seen 12 of its 12 rows"):
            sweep(tmp_path / "seen.h5", [recipe])
    board = sweep(tmp_path / "seen.h5", [Recipe("logit_adjust")]).board
    assert "selected on val (macro accuracy; stage 1 has seen its rows)" in board.protocol
    board = sweep(tmp_path / "clean.h5", calibrated).board
    assert "selected on val (macro accuracy before calibration)" in board.protocol


def test_a_val_out_of_test(tmp_path: Path) -> None:
    """The line says what was taken and that test is the rest, the same rows of train give the same
    head, and what is measured on is all there was."""
    bank = bank_of(tmp_path / "b.h5", {"train": [40, 30, 20, 10, 6, 4], "test": BALANCED[:5]})
    whole = sweep(bank, [Recipe("crt", epochs=2)])
    assert "taken from test" not in whole.board.protocol
    for taken, words in ((1, "1 row per class"), (2, "2 rows per class")):
        split_val(bank, tmp_path / f"{taken}.h5", HoldOut(taken), of="test")
        split = sweep(tmp_path / f"{taken}.h5", [Recipe("crt", epochs=2)])
        line = f"selected on val (macro accuracy) · val: {words} taken from test; test is the rest"
        assert line in split.board.protocol
        for name, values in whole.outcomes[0].parameters.items():
            assert torch.equal(split.outcomes[0].parameters[name], values), name
    uneven = bank_of(
        tmp_path / "u.h5", {"train": [40, 30, 20, 10, 6, 4], "test": [9, 4, 1, 0, 0, 2]}
    )
    split_val(uneven, tmp_path / "uv.h5", HoldOut(3), of="test")
    board = sweep(tmp_path / "uv.h5", [Recipe("ncm")]).board
    assert "val: 0–3 rows per class taken from test" in board.protocol


def test_a_calibration_ranks_by_what_it_was_not_fitted_to(tmp_path: Path) -> None:
    """Reference: the same recipe without. Five val rows, fitted without ridge, say 100 % of
    themselves; the ranking says what the head is."""
    bank = bank_of(
        tmp_path / "b.h5",
        {"train": [60, 40, 20, 10, 6, 4], "val": [3, 2, 2, 0, 1, 1], "test": BALANCED},
    )
    plain = Recipe("tau_norm", tau=2.0)  # stands first, being equal
    fitted = Recipe("tau_norm", tau=2.0, calibration="vector", calibration_ridge=0.0)
    store_path = tmp_path / "r.sqlite"
    board = sweep(bank, [fitted, plain], results=store_path).board
    rows = {row["recipe"]: row for row in board.rows}
    assert list(rows) == [plain.id, fitted.id]
    assert rows[fitted.id]["selection"] == pytest.approx(rows[plain.id]["selection"], abs=1e-4)
    with Store(store_path) as store, Bank(bank) as opened:
        on_val = Results(store, split="val").board.rows
        assert next(r for r in on_val if r["recipe"] == fitted.id)["macro"] > 99
        assert opened.fingerprint in store.banks()


@pytest.mark.parametrize("name", ["ncm", "tau_norm"])
@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_val_rows_of_an_unlearned_class_spoil_no_calibration(
    tmp_path: Path, name: str, kind: str
) -> None:
    """Reference: the same val without them. No scaling makes those rows right; fitted to them,
    NCM's logits, of which an empty class's is far behind, would be scaled to nothing."""
    parts = {"train": [60, 50, 40, 30, 20, 0], "test": BALANCED}
    with_them = bank_of(tmp_path / "a.h5", {**parts, "val": [12, 12, 12, 12, 12, 7]})
    without = bank_of(tmp_path / "b.h5", {**parts, "val": [12, 12, 12, 12, 12, 0]})
    scales = [
        sweep(path, [Recipe(name, calibration=kind)]).outcomes[0].parameters["calibration.scale"]
        for path in (with_them, without)
    ]
    assert float(scales[0].min()) > 0.05
    assert scales[0].shape == scales[1].shape


def test_figures_of_val_say_so(tmp_path: Path) -> None:
    """On the split that selected, and to which a calibration was fitted, figures are optimistic."""
    counts = {"train": [30, 20, 10, 10, 6, 4], "val": BALANCED, "test": BALANCED}
    bank, path = bank_of(tmp_path / "b.h5", counts), tmp_path / "r.sqlite"
    recipes = [Recipe("ncm"), Recipe("ncm", calibration="temperature")]
    assert "figures of val" not in sweep(bank, recipes, results=path).board.protocol
    with Store(path) as store:
        plain = filters.where(Results(store, split="val").board, "calibration=none").protocol
        assert "figures of val, which selected: optimistic" in plain
        both = Results(store, split="val").board.protocol
        assert "which selected and to which calibrations were fitted: optimistic" in both
        on_test = Results(store, split="val", select_on="test").board.protocol
        assert "figures of val, to which calibrations were fitted: optimistic" in on_test


def test_what_ranks_is_always_in_the_table(tmp_path: Path) -> None:
    """Also where no recipe shown has epochs, and where test ranks."""
    counts = {"train": [30, 20, 10, 10, 6, 4], "val": BALANCED, "test": BALANCED}
    board = sweep(bank_of(tmp_path / "b.h5", counts), [Recipe("ncm"), Recipe("ridge")]).board
    _, header, lines, *_ = table_of(board)
    assert header == [
        "#",
        "recipe",
        "settings",
        "top-1 last",
        "val macro",
        "val NLL,T",
        "many",
        "medium",
        "few",
        "ECE",
        "id",
    ]
    assert [line[4].rstrip("*") for line in lines] == [
        f"{row['selection']:.1f}" for row in board.rows
    ]
    del counts["val"]
    board = sweep(bank_of(tmp_path / "c.h5", counts), [Recipe("ncm")]).board
    assert "test macro" in table_of(board).header
