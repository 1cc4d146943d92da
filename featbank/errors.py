"""Everything featbank raises on purpose, in one tree.

::

    FeatbankError
    ├── BankError            a bank file that cannot be used
    │   ├── NotABank         missing, not HDF5, or HDF5 of another kind
    │   ├── Incomplete       written by a run that did not finish
    │   ├── Truncated        shorter than it declares
    │   ├── Corrupt          a damaged checksum or structure
    │   ├── Unsafe           links, storage or filters that lead outside the file
    │   ├── TooNew           a schema that this version does not know
    │   └── Mismatch         two things that must match and do not
    ├── ConfigError          a wrong setting, option or name
    │   └── SeveralErrors    several of them at once
    ├── DataError            arrays or images that cannot be used
    │   ├── EmptyClass       a class without a sample where one is needed
    │   ├── LabelRange       a label outside 0…K−1
    │   └── NotFinite        NaN or infinity
    └── OutputError          a target that cannot be written
        ├── OutputExists     it exists and overwriting was not requested
        ├── OutputBusy       another run is writing it
        └── NoSpace          the disk is too full for it

The first sentence of a message is the fact, with path and numbers; the second is the remedy. The
library raises; only the command line prints and exits.
"""

from collections.abc import Iterable


class FeatbankError(Exception):
    """The root of the tree: everything featbank raises on purpose."""

    @property
    def lines(self) -> list[str]:
        """The message as printed: one line, or one per error if there are several."""
        return [str(self)]


class BankError(FeatbankError):
    """A bank file that cannot be used."""


class NotABank(BankError):
    """Missing, not HDF5, or HDF5 of another kind."""


class Incomplete(BankError):
    """Written by a run that did not finish."""


class Truncated(BankError):
    """Shorter than it declares."""


class Corrupt(BankError):
    """A damaged checksum or structure."""


class Unsafe(BankError):
    """Links, storage or filters that lead outside the file."""


class TooNew(BankError):
    """A schema that this version does not know."""


class Mismatch(BankError):
    """Two things that must match and do not."""


class ConfigError(FeatbankError):
    """A wrong setting, option or name."""


class SeveralErrors(ConfigError):
    """Several errors at once, one line each below a title."""

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
    """The target exists and overwriting was not requested."""


class OutputBusy(OutputError):
    """Another run is writing the target."""


class NoSpace(OutputError):
    """The disk is too full for the target."""


SYNONYMS = {
    **{"learning_rate": "lr", "learningrate": "lr", "wd": "weight_decay"},
    **{"bs": "batch_size", "batch": "batch_size", "batchsize": "batch_size"},
    **{"n_epochs": "epochs", "num_epochs": "epochs", "epoch": "epochs", "max_epochs": "epochs"},
    **{"optimizer": "optimiser", "scheduler": "schedule", "lr_scheduler": "schedule"},
    **{"acc": "macro", "accuracy": "macro", "balanced_accuracy": "macro", "top_1": "top1"},
    **{"top-1": "top1", "criterion": "loss", "classifier": "head"},
}
"""Names that other programs use, and those of ours."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``" Did you mean 'crt'?"`` if one of `choices` is close to `word`, else nothing."""
    import difflib

    choices = list(choices)
    ours = SYNONYMS.get(word.lower().replace(" ", "_"))
    match = [ours] if ours in choices else difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f" Did you mean {match[0]!r}?" if match else ""


def closest(word: str, choices: Iterable[str]) -> str:
    """Suggest the closest of `choices`, ``"Did you mean 'crt'?"``, or list them all."""
    choices = list(choices)
    return did_you_mean(word, choices).strip() or f"Choose from: {', '.join(choices)}."
