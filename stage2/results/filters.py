"""Filters and orders of a leaderboard: conditions on its rows, the best of each kind, sorting."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from featbank import errors
from featbank.settings import read_number, shortened
from stage2.engine.metrics import METRICS, RANKING
from stage2.results.classes import metric_named
from stage2.results.leaderboard import Leaderboard, Row
from stage2.results.ranking import in_order
from stage2.results.usual import takes_of

Values = Mapping[str, Any]
"""The values of a configuration that conditions compare, by name."""

DEEPEST = 50
"""Most levels of nested parentheses and ``not``."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"[^"]*"|'[^']*')|(?P<sign>[!<>=]=|[<>=])|(?P<bracket>[()])|"""
    r"""(?P<word>[^\s()=!<>"']+))"""
)

_LIKE = "Write it like head=lws and (lr<0.1 or not sampler=instance)."


@dataclass(frozen=True)
class Relation:
    """A named value compared with one that is written in the condition."""

    name: str
    sign: str
    written: str

    def holds(self, values: Values) -> bool:
        """Whether it holds; it never does where a configuration has no such value.

        Raises
        ------
        ConfigError
            For a value of another type, an order of texts, or a name that two parts share.
        """
        if self.name not in values:
            _refuse_shared(self.name, values)
            return False
        value, compare = values[self.name], _OPERATORS[self.sign]
        if value is None or (isinstance(value, str) and self.sign in ("=", "==", "!=")):
            ordered = self.sign not in ("=", "==", "!=")
            return not ordered and compare("none" if value is None else value, self.written)
        if isinstance(value, str):
            raise errors.ConfigError(
                f"{self.name} is a text and has no order. Compare it by = or !=."
            )
        return compare(value, self._number(isinstance(value, bool)))

    def _number(self, boolean: bool) -> float | None:
        """The written value as a number or a boolean; None for ``none``."""
        if self.written == "none":
            return None if self.sign in ("=", "==", "!=") else float("nan")
        if boolean and self.written in ("true", "false"):
            return self.written == "true"
        number = None if boolean else read_number(self.written, float)
        if number is not None and math.isfinite(number):
            return number
        expected = "true or false" if boolean else "a number"
        raise errors.ConfigError(
            f"{self.name} is compared with {expected}, got {shortened(self.written)}."
        )


@dataclass(frozen=True)
class Combination:
    """``and``, ``or`` or ``not`` of conditions."""

    word: str
    parts: tuple[Condition, ...]

    def holds(self, values: Values) -> bool:
        """Whether it holds; all parts are evaluated, so that each error is reported at once."""
        held = [part.holds(values) for part in self.parts]
        return {"and": all(held), "or": any(held), "not": not held[0]}[self.word]


Condition = Relation | Combination


def parse(text: str) -> Condition:
    """Read a condition.

    ``and``, ``or``, ``not`` and parentheses join comparisons ``name sign value`` with the signs
    ``= == != < <= > >=``; ``and`` binds before ``or``. A value with spaces or signs is quoted.

    Raises
    ------
    ConfigError
        For a text that is not a condition.
    """
    return _Parser(text).read()


def where(board: Leaderboard, text: str) -> Leaderboard:
    """The configurations of a board that meet a condition; the protocol line then says so.

    A condition can ask for every setting, also as ``part.name``; ``name``, ``id``, ``rank``,
    ``status``, ``seeds`` (how many), ``selection`` and the metrics, of the epoch that ranks. A
    configuration without a setting meets no comparison of it, ``!=`` neither, but ``not`` of one.

    Raises
    ------
    ConfigError
        For a text that is not a condition, for unknown names, and where no configuration meets it.
    """
    condition = parse(text)
    values = {rows[0]["recipe"]: values_of(board, rows) for rows in board.configurations()}
    kept = meeting([condition], values)
    for relation in relations([condition]):
        _warn_of_share(relation, board)
    written = " ".join(text.split())
    if not kept:
        raise errors.ConfigError(
            f"None of {len(values)} configurations meets {shortened(written)}."
            f"{_reason(relations([condition]), list(values.values()))}"
        )
    by_result = any(relation.name in METRICS for relation in relations([condition]))
    seen = f", by its {board.rows[0]['split']} figures" if by_result else ""
    return replace(
        board,
        rows=[row for row in board.rows if row["recipe"] in kept],
        terms=board.terms.noting(f"filtered: {written} ({len(kept)} of {len(values)}{seen})"),
    )


def meeting(conditions: Sequence[Condition], values: Mapping[str, Values]) -> set[str]:
    """The ids whose `values` meet all of several conditions.

    Raises
    ------
    ConfigError
        For a name that none of them has.
    """
    for relation in relations(conditions):
        _require_known(relation.name, values.values())
    held = {id_: [each.holds(own) for each in conditions] for id_, own in values.items()}
    return {id_ for id_, each in held.items() if all(each)}


def best_per(board: Leaderboard, name: str) -> Leaderboard:
    """The best configuration for each value of a setting, and of those that lack it.

    Raises
    ------
    ConfigError
        For a name that no configuration has, that two parts share, or of a metric.
    """
    if name in (*METRICS, "selection", *board.terms.groups.names):
        raise errors.ConfigError(f"{name} is a metric, not a setting. Order by it with --sort.")
    values = {rows[0]["recipe"]: values_of(board, rows) for rows in board.configurations()}
    _require_known(name, values.values())
    for by_name in values.values():
        _refuse_shared(name, by_name)
    return board.best_per(name, {recipe: v.get(name) for recipe, v in values.items()})


def sort(board: Leaderboard, by: str) -> Leaderboard:
    """Order a board by a metric, best first, or by ``METRIC:asc`` or ``METRIC:desc``.

    Tables show the metric by which they are ordered.

    Raises
    ------
    ConfigError
        For an unknown metric or order.
    """
    name, _, order = by.partition(":")
    if name == "selection" and board.select_on is None:
        raise errors.ConfigError("Nothing selects: there is no val. Sort by a metric.")
    if order not in ("", "asc", "desc"):
        raise errors.ConfigError(f"{by!r} has no order {order!r}. Write {name}:asc or :desc.")
    metric = name if name == "selection" else metric_named(name, board.terms.groups)
    known = METRICS[RANKING if name == "selection" else metric]
    places = {rows[0]["recipe"]: place for place, rows in enumerate(board.configurations())}
    ordered = in_order(
        board.configurations(),
        lambda rows: board.ranked(rows)[metric],
        lambda rows: places[rows[0]["recipe"]],
        tie=known.tie,
        ascending=order == "asc" or (not order and known.lower_is_better),
    )
    of = "" if metric == "selection" else f" on {board.rows[0]['split']}"
    terms = board.terms.noting(f"sorted by {name}{of}")
    board = replace(board, rows=[row for rows in ordered for row in rows], terms=terms)
    return board if metric == "selection" else board.showing([metric])


def values_of(board: Leaderboard, rows: Sequence[Row]) -> dict[str, Any]:
    """The values of a configuration that conditions compare, from its rows; the name of a class
    group is its accuracy, before any setting that is called so."""
    row = board.ranked(rows)
    parameters = row["parameters"]
    values = {name: row[name] for name in ("name", "recipe", "status", "selection", *METRICS)}
    values |= {"id": row["recipe"], "rank": row.get("rank")}
    values |= {"seeds": len(row["seeds"]), **parameters}
    if takes := takes_of(row["name"], parameters):
        values |= {k: parameters[full] for k, full in takes.aliases.items() if full in parameters}
    return values | {name: row[key] for key, name in board.terms.groups.shown.items()}


def relations(conditions: Iterable[Condition]) -> list[Relation]:
    """The relations that conditions are made of."""
    return [
        relation
        for each in conditions
        for relation in ([each] if isinstance(each, Relation) else relations(each.parts))
    ]


def _require_known(name: str, values: Iterable[Values]) -> None:
    known = {key for by_name in values for key in by_name}
    if name not in known and not any(key.endswith(f".{name}") for key in known):
        raise errors.ConfigError(
            f"No configuration has a {name!r}. {errors.closest(name, sorted(known))}"
        )


def _warn_of_share(relation: Relation, board: Leaderboard) -> None:
    """Warn where an accuracy in percent is compared with what looks like a share of 1."""
    metric = METRICS.get(board.terms.groups.key(relation.name))
    number = read_number(relation.written, float)
    if number is None or not 0 < number <= 1:
        return
    if metric and metric.unit == "%" and not metric.lower_is_better:
        name, sign = relation.name, relation.sign
        warnings.warn(
            f"{name} is in percent, so that {name}{sign}{number:g} asks for {number:g} %. Write "
            f"{name}{sign}{100 * number:g} for {100 * number:g} %."
        )


def _refuse_shared(name: str, values: Values) -> None:
    """Raise where a name stands for settings of two parts."""
    shared = [key for key in values if key.endswith(f".{name}")]
    if name not in values and shared:
        raise errors.ConfigError(
            f"More than one part has a setting {name!r}. Write {' or '.join(shared)}."
        )


def _reason(relations: Iterable[Relation], values: Sequence[Values]) -> str:
    """The existing values, where a condition asks for a text that is none of them."""
    for each in relations:
        texts = {v[each.name] for v in values if isinstance(v.get(each.name), str)}
        if texts and each.sign in ("=", "==") and each.written not in texts:
            return f" {each.name}: {errors.closest(each.written, sorted(texts))}"
    return " Loosen the condition."


class _Parser:
    """Recursive descent: or → and → not → comparison or parentheses."""

    def __init__(self, text: str) -> None:
        self.text, self.depth, self.place = text, 0, 0
        self.tokens: list[tuple[str, str]] = []  # kind and text
        end = len(text.rstrip())
        at = 0
        while at < end:
            match = _TOKEN.match(text, at)
            if not match or not match.lastgroup:
                self._fail(f"cannot be read from {text[at:end].strip()[:20]!r} on")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            at = match.end()

    def read(self) -> Condition:
        condition = self._either()
        if self.place < len(self.tokens):
            self._fail(f"has {shortened(self._next()[1])} where and, or, or its end is expected")
        return condition

    def _either(self) -> Condition:
        return self._joined("or", lambda: self._joined("and", self._one))

    def _joined(self, word: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self._is_word(word):
            self.place += 1
            parts.append(part())
        return parts[0] if len(parts) == 1 else Combination(word, tuple(parts))

    def _one(self) -> Condition:
        self.depth += 1
        if self.depth > DEEPEST:
            self._fail(f"is nested more than {DEEPEST} deep")
        if self._is_word("not"):
            self.place += 1
            condition: Condition = Combination("not", (self._one(),))
        elif self._next() == ("bracket", "("):
            self.place += 1
            condition = self._either()
            self._take("a closing parenthesis", lambda kind, text: text == ")")
        else:
            name = self._take("a name", lambda kind, text: kind == "word")
            sign = self._take("one of = != < <= > >=", lambda kind, text: text in _OPERATORS)
            value = self._take("a value", lambda kind, text: kind in ("word", "quoted"))
            condition = Relation(name, sign, value)
        self.depth -= 1
        return condition

    def _next(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def _is_word(self, word: str) -> bool:
        kind, text = self._next()
        return kind == "word" and text.lower() == word

    def _take(self, expected: str, fits: Callable[[str, str], bool]) -> str:
        kind, text = self._next()
        reserved = kind == "word" and text.lower() in ("and", "or", "not")
        if reserved or not fits(kind, text):
            got = f"has {shortened(text)}" if kind != "end" else "ends"
            self._fail(f"{got} where {expected} is expected")
        self.place += 1
        return text[1:-1] if kind == "quoted" else text

    def _fail(self, problem: str) -> NoReturn:
        written = shortened(" ".join(self.text.split()))
        raise errors.ConfigError(f"The condition {written} {problem}. {_LIKE}")
