"""Results of many runs: what is built, read and imported for a table does not grow with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich.box
import rich.console
import rich.table

from featbank import Bank
from featbank.cli.tables import print_tables
from stage2.engine.metrics import METRICS, Evaluation
from stage2.methods.recipe import Recipe
from stage2.results import content, filters, usual
from stage2.results.batches import Metrics, metrics_of, settings_of
from stage2.results.results import Results
from stage2.results.rows import StoredRows
from stage2.results.store import Store
from stage2.results.tables import render, table_of

SPLITS = {"val": 42, "test": 60}
SOUND = json.dumps({name: 1.5 for name in METRICS})


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, module_bank: Bank) -> Path:
    """Two seeds of each of 150 learning rates of two recipes, with random figures."""
    path = tmp_path_factory.mktemp("many") / "r.sqlite"
    random = np.random.default_rng(0)

    def evaluation(rows: int) -> Evaluation:
        metrics: dict[str, float | None] = {name: 100 * random.random() for name in METRICS}
        losses = random.exponential(1, rows).astype(np.float16)
        correct = random.random(rows) < 0.5
        return Evaluation(metrics, np.full(6, 50.0), correct, {"losses": losses})

    plain = {"selected_epoch": None, "curves": {}, "seconds": 1.0, "device": "cpu", "versions": {}}
    runs = [
        {
            "recipe": Recipe(name, lr=(1 + step) / 1000, seed=seed),
            "status": "done",
            "evaluations": {(split, "last"): evaluation(rows) for split, rows in SPLITS.items()},
            **plain,
        }
        for name in ("crt", "ce")
        for step in range(150)
        for seed in (0, 1)
    ]
    with Store(path, create=True) as store:
        store.add_bank(module_bank)
        store.add_runs(module_bank.fingerprint, runs)
    return path


@pytest.fixture(scope="module")
def module_bank(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bank with val and test."""
    from tests.stage2.synthetic import problem

    with problem().bank(tmp_path_factory.mktemp("bank") / "bank.h5") as bank:
        yield bank


def test_recipes_and_long_columns_are_taken_once(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the recipes of the file, and its runs; a recipe for each row would be 300 more."""
    taken: Counter[str] = Counter()
    heavy = StoredRows.heavy

    def counted(rows: StoredRows, *arguments: Any) -> Any:
        taken["heavy"] += 1
        return heavy(rows, *arguments)

    class Counting(Recipe):
        def __init__(self, *arguments: Any, **parameters: Any) -> None:
            taken["recipes"] += 1
            super().__init__(*arguments, **parameters)

    monkeypatch.setattr(StoredRows, "heavy", counted)
    monkeypatch.setattr(usual, "Recipe", Counting)
    usual._usual.cache_clear()
    with Store(many) as store:
        board = Results(store).board
    best = filters.best_per(filters.where(board, "lr<1"), "recipe")
    assert len(table_of(best).lines) == 300
    assert taken["heavy"] == 600 + 1, "each run once, and the labels"
    assert taken["recipes"] <= 2 * 2, "of each preset its defaults, and one for the protocol"


def test_rows_are_means_of_what_is_stored(many: Path) -> None:
    """Reference: numpy over the metrics of the runs; JSON of Python with an indent."""
    with Store(many) as store:
        results = Results(store)
    rows = [row.whole() for row in results.board.rows]
    for row in rows[:20]:
        runs = results.configurations[row["recipe"]].runs
        for name in METRICS:
            values = [run.metrics["test", "last"][name] for run in runs]
            assert row[name] == pytest.approx(np.mean(values), rel=1e-12)
            assert row[f"{name}_std"] == pytest.approx(np.std(values, ddof=1), rel=1e-9)
    assert [dict(row) for row in results.board.rows] == rows
    assert render(results.board, "json") == json.dumps(rows, indent=1)


def test_reading_tables_does_without_torch(many: Path) -> None:
    """PyTorch alone takes more memory and time than the runs."""
    run = (
        "import sys\nfrom featbank.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    for command in (["leaderboard", "--format", "csv"], ["compare"], ["report", "-o", "r.html"]):
        name, *options = command
        done = subprocess.run(
            [sys.executable, "-c", run, name, str(many), *options],
            capture_output=True,
            text=True,
            cwd=many.parent,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        SOUND.replace("1.5", "1", 1),
        SOUND.replace("1.5", "true", 1),
        SOUND.replace("1.5", '"1.5"', 1),
        SOUND.replace("1.5", "null", 1),
        SOUND.replace("1.5", "[1.5]", 1),
        SOUND.replace("1.5", "{}", 1),
        SOUND.replace("1.5", "NaN", 1),
        SOUND.replace("1.5", "1e999", 1),
        SOUND.replace("1.5", "-1.5", 1),
        SOUND.replace("1.5", "100.5", 1),
        SOUND.replace('"macro"', '"other"'),
        SOUND[:-1] + ', "more": 2.5}',
        SOUND[:-1] + ', "top1": 2.5}',
        SOUND[:-1],
        SOUND + SOUND,
        f"{SOUND},{SOUND}",
        SOUND[:-1] + ', "x": "},{"}',
        "{}",
        "[]",
        "",
        None,
        b"{}",
        7,
    ],
)
def test_metrics_together_are_as_one_by_one(text: Any) -> None:
    """Reference: `content.metrics`; what it refuses is not decoded among others either."""
    together = metrics_of([SOUND, text, SOUND])
    try:
        expected = [content.metrics(each) for each in (SOUND, text, SOUND)]
    except content.Unexpected:
        assert list(together) == [None] * 3
    else:
        assert all(isinstance(each, Metrics | None) for each in together)
        assert None in together or list(together) == expected


def test_settings_together_are_as_one_by_one() -> None:
    """Reference: `content.parameters`."""
    texts = [
        '{"lr": 0.1, "head": "linear"}',
        '{"lr": 1, "x": null}',
        '{"lr": 0.1, "head": "linear"}',
    ]
    decoded = settings_of(texts)
    assert list(decoded) == [content.parameters(text) for text in texts]
    assert decoded[0] is decoded[2]
    for bad in ('{"lr": [1]}', '{"lr": 1e999}', '{"lr": "\\u0000"}', '{"lr": {}}', "{", None):
        assert list(settings_of([texts[0], bad])) == [None, None]


def test_lines_are_printed_as_rich_does(many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reference: a table of rich itself."""
    with Store(many) as store:
        table = table_of(Results(store).board.first(12))
    lines = [[*line[:1], f"wíde — 表{line[1]}", *line[2:]] for line in table.lines]
    print_tables([table._replace(title="", lines=lines)], "below")
    got = capsys.readouterr().out
    reference = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for place, name in enumerate(table.header):
        right = "right" if place >= table.texts else "left"
        reference.add_column(name.replace(" ", "\n"), justify=right, no_wrap=True)
    for line in lines:
        reference.add_row(*line)
    rich.console.Console(width=200, highlight=False).print(reference)
    assert got == f"{capsys.readouterr().out}below\n"
