"""One setting of a method: its type, range, default and meaning, and how a value is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featbank import errors


@dataclass(frozen=True)
class Setting:
    """A named value of a recipe.

    Attributes
    ----------
    name
        As written in ``--set``, TOML, JSON and Python.
    default
        Value where neither the preset nor the user gives one; it also tells the type. None stands
        for "derived from the bank", and then `kind` tells the type.
    help
        One line: meaning, and unit where there is one.
    low, high
        Inclusive bounds of a number.
    above
        Exclusive lower bound of a number.
    choices
        The allowed texts.
    """

    name: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    kind: type | None = None

    @property
    def type(self) -> type:
        """bool, int, float or str."""
        return self.kind or type(self.default)

    def check(self, value: Any, recipe: str) -> Any:
        """Return `value` in the setting's type.

        Raises
        ------
        ConfigError
            ``The 'tau' of recipe 'tau_norm' must be a float ≥ 0, got -1.``
        """
        if value is None and self.default is None:
            return None
        if self.choices and isinstance(value, str) and value not in self.choices:
            hint = errors.closest(value, list(self.choices))
            raise errors.ConfigError(f"The {self.name!r} of recipe {recipe!r}: {value!r}. {hint}")
        if self.type in (int, float):
            right = type(value) in (int, float) and self._in_range(value)
        else:
            right = isinstance(value, self.type)
        if not right:
            raise errors.ConfigError(
                f"The {self.name!r} of recipe {recipe!r} must be {self.expects()}, got {value!r}."
            )
        return self.type(value)

    def parse(self, text: str, recipe: str) -> Any:
        """Return the value written as `text` on a command line, checked."""
        value: Any = text
        if self.type is bool:
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif self.type in (int, float):
            try:
                value = int(text) if self.type is int else float(text)
            except ValueError:
                value = text
        return self.check(value, recipe)

    def expects(self) -> str:
        """What a value must be, in words: ``a float > 0``."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        word = {bool: "true or false", int: "an integer", float: "a float", str: "a text"}
        bounds = [
            f"{sign} {bound:g}"
            for sign, bound in ((">", self.above), ("≥", self.low), ("≤", self.high))
            if bound is not None
        ]
        return " ".join([word[self.type], " and ".join(bounds)]).strip()

    def _in_range(self, value: float) -> bool:
        if self.type is int and value != int(value):
            return False
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and value - value == 0  # neither NaN nor infinite
        )


def defaults(settings: tuple[Setting, ...], given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Values of `settings`: those `given`, checked, and the defaults of the rest.

    Raises
    ------
    ConfigError
        For a name that is none of the settings.
    """
    by_name = {setting.name: setting for setting in settings}
    for name in given:
        if name not in by_name:
            raise errors.ConfigError(
                f"{owner!r} takes no {name!r}. {errors.closest(name, list(by_name))}"
                if by_name
                else f"{owner!r} takes no settings, got {name!r}."
            )
    return {
        name: setting.check(given.get(name, setting.default), owner)
        for name, setting in by_name.items()
    }
