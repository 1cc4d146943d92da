"""A results file with everything one can have, made without training; and all that reads it."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stage2.engine.details import DETAILS
from stage2.engine.metrics import METRICS, Evaluation
from stage2.features.descent import Fit
from stage2.methods.recipe import Recipe
from stage2.report.gathering import gather
from stage2.results.cite import cite
from stage2.results.compare import compare
from stage2.results.probes import KeptProbes
from stage2.results.results import Results
from stage2.results.schema import tables_of
from stage2.results.store import Store
from stage2.results.tables import render, table_of
from tests.stage2.synthetic import problem

COUNTS = (120, 40, 9)
ROWS = {"val": 21, "test": 30}
RECIPES = (
    *(Recipe("crt", epochs=4, lr=lr, seed=seed) for lr in (0.1, 0.3) for seed in (0, 1)),
    *(Recipe("mislas", epochs=4, seed=seed) for seed in (0, 1)),
    Recipe("ncm"),
)


def evaluation(rng: np.random.Generator, rows: int) -> Evaluation:
    """An evaluation of made-up numbers, all arrays included."""
    classes = len(COUNTS)
    details = {
        name: 9 * rng.random(detail.expected_shape((), classes, rows))
        for name, detail in DETAILS.items()
    }
    details["confusions"] = np.array([[0, 1, 4], [2, 0, 3]])
    details = {name: values.astype(DETAILS[name].dtype) for name, values in details.items()}
    metrics: dict[str, float | None] = {name: 100 * rng.random() for name in METRICS}
    correct = rng.random(rows) < 0.6
    return Evaluation({**metrics, "ece_few": None}, 100 * rng.random(classes), correct, details)


def runs() -> Iterable[dict[str, Any]]:
    """A run of each recipe; one of them diverged."""
    rng = np.random.default_rng(5)
    for recipe in RECIPES:
        places = [(split, epoch) for split in ROWS for epoch in ("last", "selected")]
        stepped = "epochs" in recipe.settings
        diverged = recipe.settings.get("lr") == 0.3 and recipe.seed == 1
        yield {
            "recipe": recipe,
            "status": "diverged" if diverged else "done",
            "selected_epoch": 2 if stepped else None,
            "curves": {"loss": rng.random(4).tolist(), "val_macro": [None, 40.0, 41.5, 41.0]},
            "seconds": 1.25,
            "device": "cpu (x86_64)",
            "versions": {"featbank": "0", "torch": "2.4.0", "optuna": "4.0.0"},
            "evaluations": {}
            if diverged
            else {place: evaluation(rng, ROWS[place[0]]) for place in places},
            "traces": {"beta": rng.random((4, len(COUNTS)), np.float32)} if stepped else {},
        }


PROBE = {"kind": "linear", "view": "instance", "scale": None, "fold": None}
FIT = Fit(passes=41, seconds=1.5, gradient=9e-7, tolerance=1e-6)


def write_results(path: Path, banks: int = 2) -> Path:
    """A results file of one bank or two, the second without runs."""
    made = problem(COUNTS, val=7, test=10)
    other = problem(COUNTS, val=0, test=10, seed=1)
    bank = made.bank(path.with_name("bank.h5"))
    with bank, Store(path, create=True) as store:
        store.add_bank(bank)
        store.add_runs(bank.fingerprint, runs())
        classifier = torch.full((len(COUNTS), made.w0.shape[1]), 0.5), torch.zeros(len(COUNTS))
        origin = {"device": "cpu (x86_64)", "versions": {"torch": "2.4.0"}}
        KeptProbes(store, bank.fingerprint, origin).keep(PROBE, classifier, FIT)
        if banks == 2:
            with other.bank(path.with_name("other.h5")) as second:
                store.add_bank(second)
    return path


def as_older(path: Path) -> Path:
    """The rows of a results file, as schema 4 kept them: without digests."""
    whole = path.with_suffix(".whole")
    path.rename(whole)
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(FOURTH)
        database.execute("ATTACH ? AS whole", (str(whole),))
        for table in tables_of(4):
            names = ", ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})"))
            database.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM whole.{table}")
    whole.unlink()
    return path


def everything(path: Path) -> str:
    """All that is read of a results file, and the tables and pages made of it, as a text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Store(path) as store:
            return json.dumps([_stored(store), _shown(store, path)], default=_plain, sort_keys=True)


def _stored(store: Store) -> Any:
    content: list[Any] = [store.banks()]
    for bank, about in store.banks().items():
        content += [store.statuses(bank)]
        for probe, columns in store.probes(bank).items():
            content += [columns, store.probe(bank, probe)]
        content += [store.labels(bank, split) for split in about["rows"] if split != "train"]
        for run in store.runs(bank):
            content += [[*vars(run).values()][:-1], sorted(run.metrics.items())]
            content += [store.curves(bank, run.recipe), store.traces(bank, run.recipe)]
            for split, epoch in run.metrics:
                place = (bank, run.recipe, split, epoch)
                content += [store.per_class(*place), store.correct(*place), store.details(*place)]
    return content


def _shown(store: Store, path: Path) -> Any:
    bank = next(bank for bank in store.banks() if store.runs(bank))
    results = Results(store, bank=bank)
    board = results.board
    compared = compare(results, ["mislas", "ncm"], resamples=20)
    page = gather(results)
    return [render(board, "json"), table_of(board), str(compared), page, cite([str(path)])]


def _plain(value: Any) -> Any:
    return [str(value.dtype), value.tolist()] if isinstance(value, np.ndarray) else str(value)


FOURTH = """
CREATE TABLE bank (
    fingerprint TEXT PRIMARY KEY,
    about TEXT NOT NULL,           -- JSON: path, classes, training counts, rows of each split
    labels BLOB                    -- of val and test, arrays, safetensors; NULL before schema 4
);
CREATE TABLE run (
    bank TEXT NOT NULL REFERENCES bank,
    recipe TEXT NOT NULL,          -- hash of the settings and the seed
    id TEXT NOT NULL,              -- the configuration, whatever its seed
    name TEXT NOT NULL,
    seed INTEGER NOT NULL,
    parameters TEXT NOT NULL,      -- JSON: every setting but the seed
    status TEXT NOT NULL,          -- done, diverged, stopped
    selected_epoch INTEGER,
    curves TEXT NOT NULL,          -- JSON: one number per epoch
    seconds REAL NOT NULL,
    device TEXT NOT NULL,
    versions TEXT NOT NULL,        -- JSON
    finished REAL NOT NULL,        -- Unix time
    traces BLOB,                   -- arrays over the epochs, safetensors; NULL where there are none
    PRIMARY KEY (bank, recipe)
);
CREATE TABLE evaluation (
    bank TEXT NOT NULL,
    recipe TEXT NOT NULL,
    split TEXT NOT NULL,
    epoch TEXT NOT NULL,           -- last, selected
    metrics TEXT NOT NULL,         -- JSON
    per_class BLOB NOT NULL,       -- float64 [K], percent, NaN where a class has no row
    correct BLOB NOT NULL,         -- bits [N], numpy.packbits
    details BLOB,                  -- arrays, safetensors; NULL where written under schema 1
    PRIMARY KEY (bank, recipe, split, epoch),
    FOREIGN KEY (bank, recipe) REFERENCES run ON DELETE CASCADE
);
PRAGMA application_id = 1717920116;
PRAGMA user_version = 4;
"""
"""What a file of schema 4 was made with."""
