"""Search methods, by the names they have under ``[search]`` and ``--search``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from featbank import errors
from featbank.settings import Setting, resolved
from stage2.engine.halving import Halving


@dataclass(frozen=True)
class Sampling:
    """Trials that Optuna suggests, a batch at a time.

    Attributes
    ----------
    trials
        Configurations to try.
    batch
        Trials that train together; their values inform the batches after them.
    sampler
        ``tpe``, the tree-structured Parzen estimator [Bergstra 2011], or ``random``.
    seed
        The sampler's seed: the same seed suggests the same trials.

    Raises
    ------
    ConfigError
        For a value that its setting does not allow.
    """

    trials: int = 60
    batch: int = 16
    sampler: str = "tpe"
    seed: int = 0

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("trials", 60, "configurations tried", low=1, high=100_000),
        Setting("batch", 16, "trials that train together", low=1, high=100_000),
        Setting("sampler", "tpe", "how trials are suggested", choices=("tpe", "random")),
        Setting("seed", 0, "seed of the sampler", low=0, high=2**32 - 1),
    )

    def __post_init__(self) -> None:
        for name, value in resolved(self.settings, vars(self), "search 'optuna'").items():
            object.__setattr__(self, name, value)

    @property
    def batches(self) -> list[int]:
        """Sizes of the batches; the last takes the rest.

        >>> Sampling(trials=40, batch=16).batches
        [16, 16, 8]
        """
        whole, rest = divmod(self.trials, self.batch)
        return [self.batch] * whole + [rest] * bool(rest)


Search = Halving | Sampling

SEARCHES: dict[str, type[Halving | Sampling]] = {"halving": Halving, "optuna": Sampling}
"""Every search by name."""


def make_search(method: str, settings: Mapping[str, Any]) -> Search:
    """A search by its name, with the settings that differ from the defaults.

    Raises
    ------
    ConfigError
        For an unknown method or setting, or a wrong value.
    """
    if method not in SEARCHES:
        raise errors.ConfigError(f"Unknown search {method!r}. {errors.closest(method, SEARCHES)}")
    made = SEARCHES[method]
    return made(**resolved(made.settings, settings, f"search {method!r}"))
