"""A table of a paper, from its data sets to a page with the paper's figures beside ours.

    scripts/reproduce TABLE [--scale full|small] [--work FOLDER] [--seeds 0,1,2] [-- OPTIONS]

Tables are in `tables.toml` beside this file. For every bank of a table stage 1 is trained and its
features extracted, unless they are there already; then every row is swept. What is interrupted
goes on where it stopped. ``small`` trains briefly on scikit-learn's digits: it shows that the road
holds, and says nothing about the paper. OPTIONS go to `featbank train`, such as ``--root data``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featbank.cli import main as featbank
from stage2.methods.recipe import Recipe
from stage2.results.store import Run, Store

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "reproduction"
SMALL = "--dataset digits-lt --epochs 20"
METRICS = {"top1": "top-1", "ece": "ECE"}
LARGE = 1.0
"""Difference from the paper, in points, that a page remarks on."""


def main() -> None:
    """Fill the table and write its page."""
    tables = tomllib.loads((HERE / "tables.toml").read_text())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--work", type=Path, default=Path("reproduction"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--page", type=Path, help="by default docs/reproduction/TABLE.md")
    parser.add_argument("options", nargs="*", help="of `featbank train`, after --")
    options = parser.parse_args()
    table = Table(options.table, tables[options.table], options.scale, options.work)
    for bank in table.banks:
        table.make(bank, options.options)
        table.sweep(bank, options.seeds)
    page = options.page or PAGES / f"{options.table}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(table.page())
    print(f"Wrote {page}")


class Table:
    """A table on its way: its commands, what they took, and its results."""

    def __init__(self, name: str, content: Mapping[str, Any], scale: str, work: Path) -> None:
        self.name, self.title, self.scale = name, content["title"], scale
        self.banks: Mapping[str, Mapping[str, str]] = content["banks"]
        self.rows: Sequence[Mapping[str, Any]] = content["rows"]
        self.folder = work / scale / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = self.folder / "results.sqlite"
        self.commands: list[str] = []
        self._took = self.folder / "seconds.json"
        self.seconds: dict[str, float] = {}
        if self._took.exists():
            self.seconds = json.loads(self._took.read_text())

    def make(self, bank: str, options: Sequence[str]) -> None:
        """Train and extract a bank, as far as that is not done."""
        settings = self.banks[bank][self.scale]
        train = settings if self.scale == "full" else f"{SMALL} {settings}"
        run, features = self.folder / bank, self.folder / f"{bank}.h5"
        stage1 = ["train", *shlex.split(train), *options, "-o", str(run)]
        self._run(f"stage 1, {bank}", stage1, done=(run / "checkpoint.pt").exists())
        self._run(
            f"extraction, {bank}",
            ["extract", str(run), "-o", str(features), "--label", bank],
            done=features.exists(),
        )

    def sweep(self, bank: str, seeds: str) -> None:
        """Sweep the rows of a bank; those that the results hold are skipped."""
        for row in self._rows(bank):
            options = [f"--set={key}={_text(value)}" for key, value in row.get("set", {}).items()]
            files = ["sweep", str(self.folder / f"{bank}.h5"), "-o", str(self.results)]
            recipe = ["--recipe", _recipe(row, bank), *options, "--seeds", seeds]
            self._run(f"stage 2, {bank}, {row['name']}", [*files, *recipe])

    def page(self) -> str:
        """The page: figures, cost and commands."""
        lines = [f"# {self.title}", ""]
        if self.scale == "small":
            lines += [
                "**Small scale**: a short run on digits. Its figures are not the paper's.",
                "",
            ]
        lines += ["| bank | row | | paper | last epoch | selected on val | last − paper |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        remarks = []
        with Store(self.results) as store:
            by_label = {about["label"]: key for key, about in store.banks().items()}
            for bank in self.banks:
                runs = store.runs(by_label[bank])
                for row in self._rows(bank):
                    of_row = [run for run in runs if _is(run, row, bank)]
                    cells, far = _cells(of_row, row.get("paper", {}).get(bank, ()))
                    lines += [f"| {bank} | {row['name']} | {cell}" for cell in cells]
                    remarks += [f"- {row['name']} on {bank}: {remark}" for remark in far]
        if remarks and self.scale == "full":
            lines += ["", f"More than {LARGE:g} point from the paper:", "", *remarks]
        lines += ["", "| step | seconds |", "| --- | --- |"]
        lines += [f"| {step} | {seconds:.0f} |" for step, seconds in self.seconds.items()]
        lines += ["", "```text", *self.commands, "```", ""]
        return "\n".join(lines)

    def _rows(self, bank: str) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if bank in row.get("banks", self.banks)]

    def _run(self, step: str, arguments: list[str], *, done: bool = False) -> None:
        """Run a command of featbank, and note what it took."""
        self.commands.append(shlex.join(["featbank", *arguments]))
        if done:
            return
        print(self.commands[-1], flush=True)
        started = time.perf_counter()
        featbank(arguments, standalone_mode=False)
        self.seconds.setdefault(step, time.perf_counter() - started)
        self._took.write_text(json.dumps(self.seconds))


def _recipe(row: Mapping[str, Any], bank: str) -> str:
    """The recipe of a row on a bank."""
    return row["recipe"][bank] if isinstance(row["recipe"], dict) else row["recipe"]


def _is(run: Run, row: Mapping[str, Any], bank: str) -> bool:
    """Whether a run is of a row; on a bank of experts its view names them."""
    recipe = Recipe(_recipe(row, bank), **row.get("set", {}))
    expected = {**recipe.parameters, "view": {recipe.settings["view"]}}
    views = {part.rpartition("/")[2] for part in run.parameters["view"].split("+")}
    stored = {**run.parameters, "view": views}
    ignored = {"feature_scale"}  # resolved by the bank
    same = all(stored.get(name) == expected[name] for name in expected.keys() - ignored)
    return run.name == recipe.name and same


def _cells(runs: Sequence[Run], paper: Sequence[float]) -> tuple[list[str], list[str]]:
    """The ends of a row's lines, one for every metric, and remarks on large differences."""
    cells, far = [], []
    for place, (metric, label) in enumerate(METRICS.items()):
        last = _figures(runs, "last", metric)
        reported = paper[place] if place < len(paper) else None
        gap = "–" if reported is None else f"{np.mean(last) - reported:+.1f}"
        shown = "–" if reported is None else f"{reported:g}"
        if reported is not None and abs(np.mean(last) - reported) > LARGE:
            far.append(f"{label} {gap}")
        selected = [run for run in runs if ("test", "selected") in run.metrics]
        honest = _spread(_figures(selected, "selected", metric)) if selected else "–"
        cells.append(f"{label} | {shown} | {_spread(last)} | {honest} | {gap} |")
    return cells, far


def _figures(runs: Sequence[Run], epoch: str, metric: str) -> list[float]:
    return [float(run.metrics["test", epoch][metric] or np.nan) for run in runs]


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    deviation = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{deviation}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
