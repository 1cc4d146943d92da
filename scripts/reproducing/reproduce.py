"""A table of a paper, from its data sets to a page with the paper's figures beside ours.

    scripts/reproduce TABLE [--scale full|small] [--work FOLDER] [--bank NAME]... [-- OPTIONS]

Tables are in `tables.toml` beside this file. For every bank of a table stage 1 is trained and its
features extracted, unless they are there already; then every row is swept. What is interrupted
resumes where it stopped. With ``--bank`` only these banks are filled, so that several machines
share a table; the run without it fills what is missing and writes the page. ``small`` trains
briefly on scikit-learn's digits: it shows that the road holds, and says nothing about the paper.
OPTIONS go to `featbank train`, such as ``--root data``.
"""

from __future__ import annotations

import argparse
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costs import Costs, Step
from figures import Cell, cells_of, runs_on, sentence

from featbank.cli import main as featbank

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "reproduction"
SMALL = "--dataset digits-lt --epochs 20"
LARGE = 1.0
"""Difference from the paper, in points, that a page remarks on."""


def main() -> None:
    """Fill the table and write its page."""
    tables = tomllib.loads((HERE / "tables.toml").read_text())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", choices=tables, metavar="TABLE", help=", ".join(tables))
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--work", type=Path, default=Path("reproduction"))
    parser.add_argument("--seeds", default="0,1,2", help="of stage 2")
    parser.add_argument("--stage1-seeds", help="by default the table's own: 0, or 0,1,2")
    parser.add_argument(
        "--bank", action="append", default=[], help="fill this bank alone; repeat for more"
    )
    parser.add_argument("--page", type=Path, help="by default docs/reproduction/TABLE.md")
    parser.add_argument("options", nargs="*", help="of `featbank train`, after --")
    options = parser.parse_args()
    table = Table(options.table, tables[options.table], options)
    if unknown := set(options.bank) - table.banks.keys():
        there = ", ".join(table.banks)
        parser.error(f"no bank {', '.join(sorted(unknown))} in {options.table}, only {there}")
    for bank in options.bank or table.banks:
        table.fill(bank)
    if options.bank:
        print("Without --bank the same command fills the other banks and writes the page.")
        return
    page = options.page or PAGES / f"{options.table}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(table.page())
    print(f"Wrote {page}")


class Table:
    """A table on its way: its steps, what they cost, and its results."""

    def __init__(self, name: str, content: Mapping[str, Any], options: argparse.Namespace) -> None:
        self.title: str = content["title"]
        self.note: str = content.get("note", "")
        self.banks: Mapping[str, Mapping[str, str]] = content["banks"]
        self.rows: Sequence[Mapping[str, Any]] = content["rows"]
        self.small = options.scale == "small"
        self.options, self.seeds = options.options, options.seeds
        own = content.get("stage1-seeds", "0")
        self.stage1_seeds = [int(seed) for seed in (options.stage1_seeds or own).split(",")]
        self.folder: Path = options.work / options.scale / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def fill(self, bank: str) -> None:
        """Train, extract and sweep a bank, as far as that is not done.

        Of a bank whose sweeps are done, its results are enough.
        """
        costs, steps = Costs(self.folder / f"{bank}.json"), [*self.steps(bank)]
        sweeps = [step for step in steps if step.result is None]
        if self.results(bank).exists() and all(costs.has_done(step) for step in sweeps):
            return
        for step in steps:
            if step.is_done:
                continue
            print(step.command, flush=True)
            with costs.counting(step):
                featbank(step.arguments, standalone_mode=False)

    def steps(self, bank: str) -> Iterator[Step]:
        """The commands of a bank; the results skip what they hold of a sweep."""
        train = self.banks[bank]["small" if self.small else "full"]
        train = f"{SMALL} {train}" if self.small else train
        for seed in self.stage1_seeds:
            name = f"{bank}-{seed}"
            run, features = self.folder / name, self.folder / f"{name}.h5"
            stage1 = ["train", *shlex.split(train), "--seed", str(seed), *self.options]
            yield Step(f"stage 1, {name}", [*stage1, "-o", str(run)], run / "checkpoint.pt")
            extract = ["extract", str(run), "-o", str(features), "--label", name]
            yield Step(f"extraction, {name}", extract, features)
            for row in self.rows_of(bank):
                sets = [f"--set={key}={_text(value)}" for key, value in row.get("set", {}).items()]
                recipe = ["--recipe", recipe_of(row, bank), *sets, "--seeds", self.seeds]
                files = ["sweep", str(features), "-o", str(self.results(bank))]
                yield Step(f"stage 2, {name}, {row['name']}", [*files, *recipe])

    def results(self, bank: str) -> Path:
        """The results file of a bank: one for each, so that machines can share a table."""
        return self.folder / f"{bank}.sqlite"

    def rows_of(self, bank: str) -> list[Mapping[str, Any]]:
        """The rows that stand on a bank."""
        return [row for row in self.rows if bank in row.get("banks", self.banks)]

    def page(self) -> str:
        """The page: figures, differences, cost and commands."""
        lines = ["---", "orphan: true", "---", "", f"# {self.title}", ""]  # in no list of the site
        if self.small:
            lines += ["**Small scale**: a short run on digits. Its figures are not the paper's."]
            lines += [""]
        if self.note:
            lines += [self.note, ""]
        cells = {bank: self.cells(bank) for bank in self.banks}
        lines += ["| bank | row | metric | paper | last epoch | selected on val | last − paper |"]
        lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
        lines += [str(cell) for of_bank in cells.values() for cell in of_bank]
        lines += ["", self.protocol(cells)]
        far = [
            sentence(cell, of_bank)
            for of_bank in cells.values()
            for cell in of_bank
            if cell.gap is not None and abs(cell.gap) > LARGE
        ]
        if far:
            lines += ["", f"More than {LARGE:g} point from the paper:", ""]
            lines += [f"- {remark}" for remark in far]
        return "\n".join([*lines, "", *self.cost()])

    def cells(self, bank: str) -> list[Cell]:
        """Two figures of each row, top-1 and ECE."""
        seeds = {int(seed) for seed in self.seeds.split(",")}
        labels = [f"{bank}-{seed}" for seed in self.stage1_seeds]
        runs = runs_on(self.results(bank), labels, seeds)
        rows = self.rows_of(bank)
        return [cell for row in rows for cell in cells_of(bank, row, recipe_of(row, bank), runs)]

    def protocol(self, cells: Mapping[str, Sequence[Cell]]) -> str:
        """What the figures are, in a line."""
        texts = [
            "Figures in %; mean ± standard deviation over the seeds of stage 1 "
            f"({', '.join(map(str, self.stage1_seeds))}) and of stage 2 ({self.seeds}); "
            "one figure where nothing is drawn."
        ]
        trained = [cell for of_bank in cells.values() for cell in of_bank if cell.trained]
        if trained and not any(cell.selected for cell in trained):
            texts.append("No bank has a val that could select an epoch.")
        return " ".join(texts)

    def cost(self) -> Iterator[str]:
        """What each step took, and the commands."""
        commands = []
        yield from ("| step | seconds | machine |", "| --- | --- | --- |")
        for bank in self.banks:
            costs = Costs(self.folder / f"{bank}.json")
            for step in self.steps(bank):
                commands.append(step.command)
                yield f"| {step.name} | {costs.seconds(step)} | {costs.machine(step)} |"
        yield from ("", "```text", *commands, "```", "")


def recipe_of(row: Mapping[str, Any], bank: str) -> str:
    """The recipe of a row on a bank."""
    recipe = row["recipe"]
    return str(recipe[bank] if isinstance(recipe, dict) else recipe)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
