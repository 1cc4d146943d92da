"""A specification: a sweep as a TOML file, read whole and checked whole.

Its format is told in ``docs/sweeps.md``; everything that is wrong with it is told at once, with
lines, before anything is trained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.bank import Bank
from featbank.bank.schema import EVALUATED
from stage2.methods.recipe import Recipe
from stage2.methods.recipe_settings import SEED
from stage2.methods.registries import REGISTRIES
from stage2.search import SEARCHES, Sampling, Search, make_search
from stage2.search.rounds import val_problem
from stage2.specification.grids import Entry, Problems, Values, recipes_of
from stage2.specification.ranges import KEYS as RANGE_KEYS
from stage2.specification.ranges import read_range
from stage2.specification.space import Space, seed_problem, tried
from stage2.specification.toml_file import Place, TomlFile, read_toml

KEYS = ("bank", "recipes", "cross", "settings", "seeds", "select_on", "search", "output")
SEEDS = (0, 1, 2)
_SEARCHES = 'Write method = "halving" or method = "optuna".'
CROSSED = "ce"
"""The preset whose head, loss and sampler ``[cross]`` replaces."""


@dataclass(frozen=True)
class Specification:
    """What a sweep is to be.

    Attributes
    ----------
    name
        The file, as it was asked for.
    description
        The comment it opens with.
    banks
        The banks it names.
    recipes
        Every combination and seed; on a bank of experts, use `on`.
    seeds
        The seeds.
    select_on
        Split that ranks, or None.
    output
        Results file, or None.
    search
        How it searches, or None where it trains all there is.
    """

    name: str
    description: str
    banks: tuple[Path, ...]
    recipes: tuple[Recipe, ...] = field(repr=False)
    seeds: tuple[int, ...]
    select_on: str | None
    output: Path | None
    search: Search | None = None
    entries: tuple[Entry, ...] = field(repr=False, default=())

    def on(self, bank: Bank) -> list[Recipe]:
        """The recipes with their views on a bank; where Optuna chooses them, some of them.

        Raises
        ------
        ConfigError
            With all that the bank lacks.
        """
        problems = Problems(self.name)
        found = recipes_of(tried(self.entries, self.search), self.seeds, problems, bank)
        problems.check()
        return found

    def space(self, bank: Bank) -> Space:
        """Where Optuna is to look on a bank, checked as `on` does."""
        self.on(bank)
        return Space.on(bank, self.entries, self.seeds)


def read_specification(
    path: str | os.PathLike[str],
    *,
    banks: Sequence[str | os.PathLike[str]] = (),
    only: Sequence[str] = (),
    overrides: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] | None = None,
    search: str | None = None,
    search_settings: Mapping[str, Any] | None = None,
) -> Specification:
    """Read and check a specification.

    Parameters
    ----------
    path
        A TOML file, or the name of a ready one (`ready_specifications`).
    banks
        Banks to check it against, in place of those it names.
    only
        Keep only these of its recipes.
    overrides
        Values that take the place of the file's, ``{"lr": [0.1]}`` in every recipe,
        ``{"crt:lr": [0.1]}`` in one; texts are read as on a command line.
    seeds
        Seeds in place of the file's.
    search
        A search of `stage2.search.SEARCHES` in place of the file's, or ``none``.
    search_settings
        Settings of the search in place of the file's.

    Raises
    ------
    ConfigError
        With all that is wrong: syntax alone, or every key, value, combination, bank and view.
    """
    file = find_specification(path)
    reader = _Reader(read_toml(file, str(path)), file.parent, search, search_settings or {})
    found = reader.specification()
    found = replace(
        found,
        banks=tuple(map(Path, banks)) or found.banks,
        seeds=tuple(seeds) if seeds is not None else found.seeds,
        entries=tuple(_overridden(found.entries, only, overrides or {})),
    )
    tested = tried(found.entries, found.search)
    problems, recipes, opened = reader.problems, list[Recipe](), 0
    if isinstance(found.search, Sampling) and (wrong := seed_problem(found.entries)):
        problems.add(*wrong)
    for place in found.banks:
        try:
            with Bank(place) as bank:
                opened += 1
                _check_selection(bank, found.select_on, reader)
                if found.search and (problem := val_problem(bank)):
                    problems.add(reader.line("search") if search is None else 0, problem)
                recipes = recipes_of(tested, found.seeds, problems, bank)
        except errors.BankError as error:
            problems.add(0 if banks else reader.line("bank"), error)
    if not opened:
        recipes = recipes_of(tested, found.seeds, problems)
    problems.check()
    return replace(found, recipes=tuple(recipes))


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


def _overridden(
    entries: Sequence[Entry], only: Sequence[str], overrides: Mapping[str, Sequence[Any]]
) -> list[Entry]:
    """Entries as the command line changes them."""
    names = list(dict.fromkeys(entry.name for entry in entries))
    for name in only:
        if name not in names:
            hint = errors.closest(name, names)
            raise errors.ConfigError(f"The specification has no recipe {name!r}. {hint}")
    kept = [entry for entry in entries if not only or entry.name in only]
    for text, items in overrides.items():
        target, _, key = text.rpartition(":")
        if target and target not in {entry.name for entry in kept}:
            hint = errors.closest(target, names)
            raise errors.ConfigError(f"--set {text}: {target!r} is not swept. {hint}")
        values = Values(tuple(items), (0,) * len(items), 0, "text")
        kept = [
            entry
            if target not in ("", entry.name)
            else replace(
                entry,
                grid={**entry.grid, key: values},
                shared=entry.shared - {key} if target else entry.shared | {key},
            )
            for entry in kept
        ]
    return kept


def _check_selection(bank: Bank, select_on: str | None, reader: _Reader) -> None:
    if select_on is not None and select_on not in bank.evaluated:
        reader.problems.add(
            reader.line("select_on"),
            f"{bank.path} cannot select on {select_on!r}. "
            f"Choose from: {', '.join(bank.evaluated)}.",
        )


class _Reader:
    """A file on its way to a specification; what is wrong is noted in `problems`."""

    def __init__(
        self, file: TomlFile, folder: Path, search: str | None, search_settings: Mapping[str, Any]
    ) -> None:
        self._file, self._folder, self._document = file, folder, file.values
        self.problems = Problems(file.name)
        self._search = self._read_search(search, search_settings)

    def line(self, *place: str | int) -> int:
        """The line of a place."""
        return self._file.line(place)

    def specification(self) -> Specification:
        """What the file says, without its recipes."""
        for key in self._document:
            if key not in KEYS:
                hint = errors.closest(key, KEYS)
                self._wrong((key,), f"A specification has no {key!r}. {hint}")
        entries = self._entries()
        if not entries and not len(self.problems):
            self.problems.add(1, 'No recipe is named. Write recipes = ["crt", "lws"], for example.')
        seeds = self._list("seeds", SEEDS)
        return Specification(
            name=self._file.name,
            description=self._file.opening(),
            banks=tuple(self._folder / bank for bank in self._texts("bank")),
            recipes=(),
            seeds=tuple(dict.fromkeys(s for i, s in enumerate(seeds) if self._is_seed(s, i))),
            select_on=self._selection(),
            output=next((self._folder / text for text in self._texts("output", 1)), None),
            search=self._search,
            entries=tuple(entries),
        )

    def _wrong(self, place: Place, message: object) -> None:
        self.problems.add(self.line(*place), message)

    def _list(self, key: str, default: Sequence[Any] = ()) -> Sequence[Any]:
        """The values of a top-level key, one or several."""
        value = self._document.get(key, default)
        found = value if isinstance(value, list | tuple) else [value]
        if key in self._document and not found:
            self._wrong((key,), f"{key!r} is empty. Name one, or leave it out.")
        return found

    def _texts(self, key: str, most: int | None = None) -> list[str]:
        found = self._list(key)
        wrong = any(not isinstance(value, str) or not value or "\0" in value for value in found)
        if wrong or (most and len(found) > most):
            told = "a path" if most else "a path, or a list of paths"
            self._wrong((key,), f"{key!r} must be {told}, got {self._document[key]!r}.")
            return []
        return list(found)

    def _is_seed(self, value: Any, index: int) -> bool:
        if problem := SEED.problem(value, "the specification"):
            self._wrong(("seeds", index), problem)
        return not problem

    def _selection(self) -> str | None:
        value = self._document.get("select_on")
        if value is None or value in EVALUATED:
            return value
        hint = errors.closest(str(value), EVALUATED)
        self._wrong(("select_on",), f"'select_on' must be val or test, got {value!r}. {hint}")
        return None

    def _read_search(self, method: str | None, given: Mapping[str, Any]) -> Search | None:
        """The table ``[search]``, or the `method` and settings `given` in its place."""
        table = self._document.get("search")
        own = table.get("method") if isinstance(table, dict) else None
        if table is not None and not isinstance(own, str):
            self._wrong(("search",), f"[search] names no method. {_SEARCHES}")
            return None
        if own is not None and own not in SEARCHES:
            hint = errors.closest(own, SEARCHES)
            self._wrong(("search", "method"), f"Unknown search {own!r}. {hint}")
            return None
        chosen = method or own
        if chosen is None or chosen == "none":
            return None
        lines = dict.fromkeys(given, 0)
        values = dict(given)
        if table and own == chosen:
            kept = {k: v for k, v in table.items() if k != "method" and k not in given}
            lines |= {key: self.line("search", key) for key in kept}
            values |= kept
        noted = len(self.problems)
        for key, value in values.items():
            try:
                make_search(chosen, {key: value})
            except errors.ConfigError as error:
                self.problems.add(lines[key], error)
        return make_search(chosen, values) if len(self.problems) == noted else None

    def _entries(self) -> list[Entry]:
        """The presets that are named, each over its grid."""
        shared = self._grid(self._document.get("settings", {}), ("settings",))
        named = self._document.get("recipes", [])
        found: list[tuple[str, Place, Any]] = []
        if isinstance(named, dict):
            found = [(name, ("recipes", name), tables) for name, tables in named.items()]
        elif isinstance(named, list) and all(isinstance(name, str) for name in named):
            found = [(name, ("recipes", i), {}) for i, name in enumerate(named)]
        else:
            self._wrong(
                ("recipes",), "'recipes' must be a list of names, or tables [recipes.NAME]."
            )
        if "cross" in self._document:
            found.append((CROSSED, ("cross",), self._document["cross"]))
        entries = []
        for name, place, tables in found:
            several = [(place, tables)]
            if isinstance(tables, list):
                several = [((*place, i), table) for i, table in enumerate(tables)]
            for where, table in several:
                own = self._grid(table, where)
                rest = frozenset(shared.keys() - own.keys())
                entries.append(Entry(name, self.line(*where), {**shared, **own}, rest))
        return entries

    def _grid(self, table: Any, place: Place) -> dict[str, Values]:
        """Values by setting; ``loss.scale = 1`` and ``"loss.scale" = 1`` are the same."""
        if not isinstance(table, dict):
            title = f"[{'.'.join(map(str, place))}]"
            self._wrong(place, f"{title} must be a table of settings, got {table!r}.")
            return {}
        grid: dict[str, Values] = {}
        for key, value in table.items():
            if key in REGISTRIES and isinstance(value, dict) and not value.keys() & set(RANGE_KEYS):
                inner = self._grid(value, (*place, key))
                grid |= {f"{key}.{name}": values for name, values in inner.items()}
            elif values := self._values(key, value, (*place, key)):
                grid[key] = values
        return grid

    def _values(self, key: str, value: Any, place: Place) -> Values | None:
        """What a setting is to try: a value, a list, or a range."""
        line = self.line(*place)
        if isinstance(value, dict):
            try:
                found = read_range(value, needs_count=not isinstance(self._search, Sampling))
            except errors.ConfigError as error:
                self.problems.add(line, f"{key!r}: {error}")
                return None
            items = tuple(found.values(key))
            kind = "range" if found.seed is None else "random"
            return Values(items, (line,) * len(items), line, kind, found)
        if isinstance(value, list):
            if not value:
                self.problems.add(line, f"{key!r} is empty. Give it a value, or leave it out.")
                return None
            lines = tuple(self.line(*place, i) for i in range(len(value)))
            return Values(tuple(value), lines, line)
        return Values((value,), (line,), line)
