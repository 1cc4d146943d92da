"""Specifications from files and options: read whole, checked whole, problems reported together.

``docs/sweeps.md`` describes the format.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.bank import Bank
from featbank.devices import find_device
from stage2.features.requirements import folds_problem, selection_problem
from stage2.methods.precisions import PRECISION
from stage2.methods.recipe import Recipe
from stage2.search import Sampling
from stage2.search.finals import NO_SEARCH
from stage2.search.rounds import val_problem
from stage2.specification.entries import Entry, Values
from stage2.specification.options import (
    as_written,
    at_default,
    default_entries,
    kept_entries,
    overridden,
    read_overrides,
)
from stage2.specification.problems import Origin, Problems
from stage2.specification.reader import Reader
from stage2.specification.specification import Specification
from stage2.specification.toml_file import TomlFile, read_toml


def read_specification(
    path: str | os.PathLike[str] | None = None,
    *,
    banks: Sequence[str | os.PathLike[str]] = (),
    only: Sequence[str] = (),
    overrides: Mapping[str, Sequence[Any]] | Iterable[str] = (),
    precision: str | None = None,
    device: str = "auto",
    seeds: Sequence[int] | str | None = None,
    search: str | None = None,
    search_settings: Mapping[str, Any] | None = None,
    select_on: str | None = None,
    folds: int | None = None,
    screen: bool = False,
    output: str | os.PathLike[str] | None = None,
) -> Specification:
    """Read and check a specification.

    Parameters
    ----------
    path
        A TOML file, the name of a ready one (`ready_specifications`), or None where the options
        say everything.
    banks
        Banks to check it against, in place of those it names.
    only
        Keep only these of its recipes. Without a file, sweep these; by default all presets but the
        variants, and on each bank those it allows.
    overrides
        Values that take the place of the file's, ``{"lr": [0.1]}`` in every recipe,
        ``{"crt:lr": [0.1]}`` in one; texts are parsed as on a command line. Or the texts
        themselves, ``["lr=0.1", "crt:lr=0.1,0.2"]``.
    precision
        Precision of every recipe that is trained in steps.
    device
        The device that is to train them, as of `stage2.sweep.sweep`: it decides the precision of
        recipes for which nobody says one (`stage2.methods.precisions.default_precision`).
    seeds
        Seeds in place of the file's; a text is parsed as on a command line.
    search
        A search of `stage2.search.SEARCHES` in place of the file's, or ``none``.
    search_settings
        Settings of the search in place of the file's.
    select_on, folds, output
        In place of the file's.
    screen
        Allow folds of rows that stage 1 has seen.

    Raises
    ------
    ConfigError
        With everything that is wrong: syntax alone, or every key, value, combination, bank and
        view.
    """
    file, folder = TomlFile("", "", {}, {}), Path()
    if path is not None:
        place = find_specification(path)
        file, folder = read_toml(place, str(path)), place.parent
    problems = Problems(file.name)
    reader = Reader(file, folder, problems, search, search_settings or {})
    if path is not None:
        entries = kept_entries(reader.entries(), only, problems)
    else:
        entries = [Entry(name, Origin(), {}) for name in dict.fromkeys(only)] or default_entries()
    changes = list(read_overrides(overrides, problems))
    if precision is not None:
        origin = as_written("--precision", precision)
        changes.append(("", PRECISION.name, Values((precision,), origin, kind="text")))
    named_banks, named_output, named_selection = reader.banks(), reader.output(), reader.selection()
    named_folds = reader.folds()
    specification = Specification(
        name=file.name,
        description=file.opening(),
        banks=tuple(map(Path, banks)) or named_banks,
        recipes=(),
        seeds=reader.seeds(seeds),
        select_on=select_on or named_selection,
        output=Path(output) if output is not None else named_output,
        search=reader.search,
        folds=named_folds if folds is None else folds,
        entries=tuple(at_default(overridden(entries, changes, problems), find_device(device))),
    )
    recipes = _check(
        specification,
        problems,
        bank=Origin() if banks else reader.origin("bank"),
        select_on=as_written("--select-on", select_on) if select_on else reader.origin("select_on"),
        search=as_written("--search", search) if search else reader.origin("search"),
        folds=as_written("--folds", folds) if folds else reader.origin("folds"),
        screen=screen,
    )
    problems.check()
    return replace(specification, recipes=tuple(recipes))


def _check(
    specification: Specification, problems: Problems, *, screen: bool, **origins: Origin
) -> Sequence[Recipe]:
    """The recipes, on the last bank where there is one; problems of every bank are noted."""
    if specification.search and specification.folds:
        problems.add(origins["folds"], NO_SEARCH)
    if isinstance(specification.search, Sampling):
        for entry in specification.entries:
            if seed := entry.grid.get("seed"):
                problems.add(
                    seed.origin,
                    "A search does not choose seeds. Write --seeds 0,1,2, or seeds = [0, 1, 2] "
                    "above the recipes.",
                )
    recipes = None
    for place in specification.banks:
        try:
            with Bank(place) as bank:
                folds = specification.folds
                if problem := selection_problem(bank, specification.select_on, folds):
                    problems.add(origins["select_on"], problem)
                if folds and (problem := folds_problem(bank, folds, screen=screen)):
                    problems.add(origins["folds"], problem)
                    continue  # the recipes cannot be checked on folds that there are not
                if specification.search and (problem := val_problem(bank)):
                    problems.add(origins["search"], problem)
                recipes = specification.check(problems, bank)
        except errors.BankError as error:
            problems.add(origins["bank"], error)
    return specification.check(problems) if recipes is None else recipes


def ready_specifications() -> dict[str, str]:
    """The specifications that come with featbank: what each shows, by name."""
    files = sorted(_ready().glob("*.toml"))
    return {f.stem: read_toml(f, f.stem).opening().partition(". ")[0] for f in files}


def find_specification(path: str | os.PathLike[str]) -> Path:
    """The file of a specification: a file, or a ready one by its name.

    Raises
    ------
    ConfigError
        Where there is none.
    """
    file = Path(path)
    if file.exists() or file.suffix == ".toml":
        return file
    ready = list(ready_specifications())
    if str(path) not in ready:
        raise errors.ConfigError(
            f"{path}: no such file, and no ready specification. {errors.closest(str(path), ready)}"
        )
    return _ready() / f"{path}.toml"


def _ready() -> Path:
    return Path(str(resources.files("featbank"))) / "sweeps"
