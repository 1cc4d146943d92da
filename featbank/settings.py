"""A setting: its type, range, default and meaning, and the sentence for a wrong value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from typing import Any, Literal

from featbank import errors

LARGEST = {int: 10**9, float: 3.4e38}
"""Bounds of numbers that have none of their own, which fit into int32 and float32."""

_LONGEST = 80
"""Characters of a wrong value that its sentence quotes."""


@dataclass(frozen=True)
class Setting:
    """A named value of a recipe, a method or a run.

    Attributes
    ----------
    name
        As written on the command line, in JSON and in Python.
    default
        Value where none is given; its type is the setting's. None is shown as "not set", and then
        `kind` is the type.
    help
        One line: meaning, and unit where there is one.
    low, high
        Inclusive bounds of a number.
    above, below
        Exclusive bounds of a number.
    choices
        The allowed texts.
    kind
        The type, where it is not that of the default.
    role
        What it does at any value but the default: ``schedule`` changes what it belongs to over the
        epochs of training, ``epoch`` does so from the epoch that it names, ``constraint`` bounds
        what is trained, ``focus`` keeps a loss from being convex; the default of ``head`` stands
        for the head's setting of this name, that of ``bank`` leaves the choice to the bank, and the
        setting out of the recipe. ``groups`` names class groups, which a loss takes as a mask [K].
    default_help
        Text for the default in help, where the value says too little: ``the images' own size``.
    """

    name: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    kind: type | None = None
    role: Literal["schedule", "epoch", "constraint", "focus", "head", "bank", "groups"] | None = (
        None
    )
    default_help: str = ""

    @property
    def default_text(self) -> str:
        """The default as help shows it."""
        return self.default_help or value_text(self.default)

    @property
    def type(self) -> type:
        """bool, int, float or str."""
        return self.kind or type(self.default)

    def problem(self, value: Any, owner: str) -> str | None:
        """Describe what is wrong with `value` in one sentence, or return None.

        ``The 'tau' of recipe 'tau_norm' must be a float ≥ 0, got -1.``
        """
        if value is None and self.default is None:
            return None
        if self.type in (int, float):
            number = isinstance(value, Real) and not isinstance(value, bool)  # NumPy's as well
            right = number and self._in_range(value)
        else:
            right = isinstance(value, self.type) and (not self.choices or value in self.choices)
        if right:
            return None
        text = f"{value:g}" if isinstance(value, float) else shortened(value)
        meant = errors.did_you_mean(value, self.choices) if isinstance(value, str) else ""
        return f"The {self.name!r} of {owner} must be {self._expected(value)}, got {text}.{meant}"

    def check(self, value: Any, owner: str) -> Any:
        """Return `value` in the setting's type.

        Raises
        ------
        ConfigError
            With the sentence of `problem`.
        """
        if problem := self.problem(value, owner):
            raise errors.ConfigError(problem)
        return value if value is None else self.type(value)

    def parse(self, text: str, owner: str) -> Any:
        """Return the value written as `text` on a command line, checked."""
        value: Any = text
        if self.type is bool:
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif self.type in (int, float):
            number = read_number(text, self.type)
            value = text if number is None else number
        return self.check(value, owner)

    def expects(self) -> str:
        """Describe what a value must be: ``a float > 0``."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        word = {bool: "true or false", int: "an integer", float: "a float", str: "a text"}
        bounds = [
            f"{sign} {bound:g}" if bound < 1e6 else f"{sign} {bound}"
            for sign, bound in (
                (">", self.above),
                ("≥", self.low),
                ("<", self.below),
                ("≤", self.high),
            )
            if bound is not None
        ]
        return " ".join([word[self.type], " and ".join(bounds)]).strip()

    def _expected(self, value: Any) -> str:
        """Describe what a value must be, with the bound of all numbers where it exceeds that."""
        most = self._most
        if most is None or not isinstance(value, int | float) or not most < abs(value) < math.inf:
            return self.expects()
        joined = " and" if self.low is not None or self.above is not None else ""
        return f"{self.expects()}{joined} ≤ {most:g}"

    @property
    def _most(self) -> float | None:
        """The bound of a number that has no other."""
        return LARGEST.get(self.type) if self.high is None and self.below is None else None

    def _in_range(self, value: float) -> bool:
        if self._most is not None and not abs(value) <= self._most:
            return False
        if not math.isfinite(value) or (self.type is int and value != int(value)):
            return False
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def option(default: Any, help: str, **attributes: Any) -> Any:
    """Declare a dataclass field that is a `Setting` as well; `options_of` returns it.

    Parameters
    ----------
    default
        Of the field.
    help, attributes
        As in `Setting`, whose type is the annotation of the field.
    """
    return field(default=default, metadata={"help": help, **attributes})


def options_of(dataclass: type) -> dict[str, Setting]:
    """Settings by name that the fields of a dataclass declare with `option`.

    A field that must be given declares them by its metadata; its default here is None. The module
    must have ``from __future__ import annotations``.
    """
    kinds = {kind.__name__: kind for kind in (bool, int, float, str)}
    return {
        f.name: Setting(
            f.name,
            None if f.default is MISSING else f.default,
            kind=kinds[str(f.type).split(" ")[0]],
            **f.metadata,
        )
        for f in fields(dataclass)
        if "help" in f.metadata
    }


def value_text(value: object) -> str:
    """A value as help shows it."""
    words = {None: "none", False: "no", True: "yes"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_number(text: str, kind: type) -> Any:
    """Read an int or float written in ASCII digits; None for any other text.

    An integer of more digits than Python reads keeps only its sign: it is beyond any bound.
    """
    if not text.isascii() or "_" in text:
        return None
    try:
        return kind(text)
    except ValueError:
        digits = text.strip().lstrip("+-")
        if kind is int and digits.isdecimal() and len(text.strip()) - len(digits) < 2:
            return (-1 if text.strip()[0] == "-" else 1) * 10 ** (2 * _LONGEST)
        return None


def shortened(value: object) -> str:
    """A wrong value as a sentence quotes it."""
    if isinstance(value, int) and abs(value) > 10**_LONGEST:  # Python formats none of thousands
        return f"an integer of more than {_LONGEST} digits"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def flag(option: str) -> str:
    """An option as it is written on the command line."""
    return f"--{option.replace('_', '-')}"


def wrong_values(settings: Iterable[Setting], values: Mapping[str, Any], owner: str) -> list[str]:
    """Sentences for the `values` that their settings do not allow."""
    problems = (s.problem(values[s.name], owner) for s in settings if s.name in values)
    return [problem for problem in problems if problem]


def scheduled(settings: Iterable[Setting], values: Mapping[str, Any]) -> bool:
    """Whether one of the `settings` has a value that changes what it belongs to over the epochs."""
    return any(
        setting.role in ("schedule", "epoch")
        and values.get(setting.name, setting.default) != setting.default
        for setting in settings
    )


def resolved(settings: Iterable[Setting], given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Values of `settings`: those `given`, checked, and defaults for the rest.

    Raises
    ------
    ConfigError
        For a wrong value, or a name that no setting has.
    """
    by_name = {setting.name: setting for setting in settings}
    for name in given:
        if name not in by_name:
            hint = errors.closest(name, by_name) if by_name else "It takes none."
            raise errors.ConfigError(f"The {owner} takes no setting {name!r}. {hint}")
    return {
        n: setting.check(given.get(n, setting.default), owner) for n, setting in by_name.items()
    }
