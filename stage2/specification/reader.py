"""A reader of specifications in TOML; options take the place of its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featbank import errors
from featbank.bank.schema import EVALUATED
from stage2.features.folds import FOLDS, is_folds
from stage2.methods.recipe_settings import SEED
from stage2.methods.registries import REGISTRIES
from stage2.search import SEARCHES, Sampling, Search, make_search
from stage2.specification.entries import Entry, Values
from stage2.specification.options import as_written, parse_seeds
from stage2.specification.problems import Origin, Problems
from stage2.specification.ranges import KEYS as RANGE_KEYS
from stage2.specification.ranges import read_range
from stage2.specification.toml_file import Place, TomlFile

KEYS = ("bank", "recipes", "cross", "settings", "seeds", "select_on", "folds", "search", "output")
SEEDS = (0, 1, 2)
CROSSED = "ce"
"""The preset whose head, loss and sampler ``[cross]`` replaces."""


class Reader:
    """Reads the keys of a document, and notes what is wrong in `problems`.

    Parameters
    ----------
    file
        The document.
    folder
        Where its paths start.
    problems
        Where problems are noted.
    method, settings
        A search in place of the document's, and settings in place of those it gives.
    """

    def __init__(
        self,
        file: TomlFile,
        folder: Path,
        problems: Problems,
        method: str | None,
        settings: Mapping[str, Any],
    ) -> None:
        self._file, self._folder, self._document = file, folder, file.values
        self._problems = problems
        for key in self._document:
            if key not in KEYS:
                self._note(f"A specification has no {key!r}. {errors.closest(key, KEYS)}", key)
        self.search = self._search(method, settings)

    def origin(self, *place: str | int) -> Origin:
        """The file and line of a place."""
        return Origin(self._file.name, self._file.line(place))

    def seeds(self, option: str | Sequence[int] | None) -> tuple[int, ...]:
        """The seeds, each once."""
        if option is None:
            values = self._list("seeds", SEEDS)
            origins = [self.origin("seeds", i) for i in range(len(values))]
        else:
            values = parse_seeds(option, self._problems) if isinstance(option, str) else option
            text = option if isinstance(option, str) else ",".join(map(str, option))
            origins = [as_written("--seeds", text)] * len(values)
        seeds: dict[int, None] = {}
        for value, origin in zip(values, origins, strict=True):
            if problem := SEED.problem(value, "the sweep"):
                self._problems.add(origin, problem)
            else:
                seeds[value] = None
        return tuple(seeds)

    def banks(self) -> tuple[Path, ...]:
        """The banks, relative to the file."""
        return tuple(
            self._folder / bank for bank in self._texts("bank", "a path, or a list of paths")
        )

    def output(self) -> Path | None:
        """The results file, relative to the file."""
        texts = self._texts("output", "a path", most=1)
        return self._folder / texts[0] if texts else None

    def selection(self) -> str | None:
        """The split that ranks."""
        value = self._document.get("select_on")
        if value is None or value in EVALUATED or (isinstance(value, str) and is_folds(value)):
            return value
        hint = errors.closest(str(value), EVALUATED)
        self._note(f"'select_on' must be val, test or n-fold, got {value!r}. {hint}", "select_on")
        return None

    def folds(self) -> int | None:
        """The number of folds."""
        value = self._document.get(FOLDS.name)
        if problem := FOLDS.problem(value, "the sweep"):
            self._note(problem, FOLDS.name)
            return None
        return value

    def entries(self) -> list[Entry]:
        """The presets that are named, each over its grid."""
        shared = self._grid(self._document.get("settings", {}), ("settings",))
        recipes = self._document.get("recipes", [])
        named: list[tuple[str, Place, Any]] = []
        if isinstance(recipes, dict):
            named = [(name, ("recipes", name), tables) for name, tables in recipes.items()]
        elif isinstance(recipes, list) and all(isinstance(name, str) for name in recipes):
            named = [(name, ("recipes", i), {}) for i, name in enumerate(recipes)]
        else:
            self._note("'recipes' must be a list of names, or tables [recipes.NAME].", "recipes")
        if "cross" in self._document:
            named.append((CROSSED, ("cross",), self._document["cross"]))
        entries = []
        for name, place, tables in named:
            several = [(place, tables)]
            if isinstance(tables, list):
                several = [((*place, i), table) for i, table in enumerate(tables)]
            for where, table in several:
                grid = self._grid(table, where)
                common = frozenset(shared.keys() - grid.keys())
                entries.append(Entry(name, self.origin(*where), {**shared, **grid}, common))
        if not entries and not len(self._problems):
            self._note('No recipe is named. Write recipes = ["crt", "lws"], for example.')
        return entries

    def _note(self, message: str, *place: str | int) -> None:
        self._problems.add(self.origin(*place), message)

    def _search(self, method: str | None, settings: Mapping[str, Any]) -> Search | None:
        """The table ``[search]``, or a `method` and `settings` in its place."""
        table = self._document.get("search", {})
        named = table.get("method") if isinstance(table, dict) else None
        if "search" in self._document and not isinstance(named, str):
            methods = " or ".join(f'method = "{name}"' for name in SEARCHES)
            self._note(f"[search] names no method. Write {methods}.", "search")
            return None
        asked = ((named, self.origin("search", "method")), (method, Origin()))
        for name, origin in asked:
            if name not in (None, *SEARCHES) and (name, origin) != ("none", Origin()):
                hint = errors.closest(str(name), SEARCHES)
                self._problems.add(origin, f"Unknown search {name!r}. {hint}")
                return None
        chosen = named if method is None else method
        origins = {key: as_written(f"--{key}", value) for key, value in settings.items()}
        values = dict(settings)
        for key in table if named == chosen else ():
            if key != "method" and key not in settings:
                values[key], origins[key] = table[key], self.origin("search", key)
        noted = len(self._problems)
        for key, value in values.items():
            if problem := _search_problem(chosen, key, value):
                self._problems.add(origins[key], problem)
        made = chosen in SEARCHES and len(self._problems) == noted
        return make_search(str(chosen), values) if made else None

    def _list(self, key: str, default: Sequence[Any] = ()) -> Sequence[Any]:
        """The values of a top-level key, one or several."""
        value = self._document.get(key, default)
        values = value if isinstance(value, list | tuple) else [value]
        if key in self._document and not values:
            self._note(f"{key!r} is empty. Name one, or leave it out.", key)
        return values

    def _texts(self, key: str, expected: str, most: int | None = None) -> list[str]:
        """The paths of a top-level key."""
        values = self._list(key)
        wrong = any(not isinstance(v, str) or not v or "\0" in v for v in values)
        if wrong or (most and len(values) > most):
            self._note(f"{key!r} must be {expected}, got {self._document[key]!r}.", key)
            return []
        return list(values)

    def _grid(self, table: Any, place: Place) -> dict[str, Values]:
        """Values by setting; ``loss.scale = 1`` and ``"loss.scale" = 1`` are the same."""
        if not isinstance(table, dict):
            title = f"[{'.'.join(map(str, place))}]"
            self._note(f"{title} must be a table of settings, got {table!r}.", *place)
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
        """The values that a setting is to try: one, a list, or a range."""
        origin = self.origin(*place)
        if isinstance(value, dict):
            try:
                span = read_range(value, needs_count=not isinstance(self.search, Sampling))
            except errors.ConfigError as error:
                self._note(f"{key!r}: {error}", *place)
                return None
            kind = "range" if span.seed is None else "random"
            return Values(tuple(span.values(key)), origin, kind=kind, span=span)
        if isinstance(value, list):
            if not value:
                self._note(f"{key!r} is empty. Give it a value, or leave it out.", *place)
                return None
            origins = tuple(self.origin(*place, i) for i in range(len(value)))
            return Values(tuple(value), origin, origins)
        return Values((value,), origin)


def _search_problem(chosen: str | None, key: str, value: Any) -> str | None:
    """The problem with a setting of a search, or None."""
    owners = [n for n, search in SEARCHES.items() if key in {s.name for s in search.settings}]
    if owners and chosen not in owners:
        return f"{key!r} is for the search {owners[0]!r}. Choose that, or leave it out."
    try:
        make_search(str(chosen), {key: value})
    except errors.ConfigError as error:
        return str(error)
    return None
