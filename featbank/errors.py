"""Everything featbank raises on purpose, in one tree.

::

    FeatbankError
    ├── BankError            a bank file that cannot be used
    │   ├── NotABank         missing, not HDF5, or HDF5 of another kind
    │   ├── Incomplete       written by a run that did not finish
    │   ├── Truncated        shorter than it says
    │   ├── Corrupt          a checksum or a structure is broken
    │   ├── Unsafe           links, storage or filters that lead outside the file
    │   ├── TooNew           a schema this version does not know
    │   └── Mismatch         two things that must belong together do not
    ├── ConfigError          a setting, option or name that is wrong
    │   └── SeveralErrors    several of them at once
    ├── DataError            arrays or images that cannot be used
    │   ├── EmptyClass       a class without a sample where one is needed
    │   ├── LabelRange       a label outside 0…K−1
    │   └── NotFinite        NaN or infinity
    └── OutputError          a target that cannot be written
        ├── OutputExists     it is there and overwriting was not asked for
        ├── OutputBusy       another run is writing it
        └── NoSpace          the disk has too little room for it

The first sentence of a message is the fact, with path and numbers; the second is the remedy. The
library raises; only the command line prints and exits.
"""

from collections.abc import Iterable


class FeatbankError(Exception):
    """The root: catch it to catch everything featbank raises on purpose."""

    @property
    def lines(self) -> list[str]:
        """The message as it is printed: one line, but for several errors at once."""
        return [str(self)]


class BankError(FeatbankError):
    """A bank file that cannot be used."""


class NotABank(BankError):
    """Missing, not HDF5, or HDF5 of another kind."""


class Incomplete(BankError):
    """Written by a run that did not finish."""


class Truncated(BankError):
    """Shorter than it says."""


class Corrupt(BankError):
    """A checksum or a structure is broken."""


class Unsafe(BankError):
    """Links, storage or filters that lead outside the file."""


class TooNew(BankError):
    """A schema this version does not know."""


class Mismatch(BankError):
    """Two things that must belong together do not."""


class ConfigError(FeatbankError):
    """A setting, option or name that is wrong."""


class SeveralErrors(ConfigError):
    """Several of them at once, a line for each below a title."""

    def __init__(self, title: str, problems: Iterable[str]) -> None:
        self._lines = [title, *problems]
        super().__init__("\n  ".join(self._lines))

    @property
    def lines(self) -> list[str]:
        """The title and the errors."""
        return self._lines


class DataError(FeatbankError):
    """Arrays or images that cannot be used."""


class EmptyClass(DataError):
    """A class without a sample where one is needed."""


class LabelRange(DataError):
    """A label outside 0…K−1."""


class NotFinite(DataError):
    """NaN or infinity."""


class OutputError(FeatbankError):
    """A target that cannot be written."""


class OutputExists(OutputError):
    """The target is there and overwriting was not asked for."""


class OutputBusy(OutputError):
    """Another run is writing the target."""


class NoSpace(OutputError):
    """The disk has too little room for the target."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's name where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``" Did you mean 'crt'?"`` where one of `choices` is close to `word`, else nothing."""
    import difflib

    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {match[0]!r}?" if match else ""


def closest(word: str, choices: Iterable[str]) -> str:
    """Name what `word` may have meant: ``"Did you mean 'crt'?"``, or the choices."""
    choices = list(choices)
    return did_you_mean(word, choices).strip() or f"Choose from: {', '.join(choices)}."
