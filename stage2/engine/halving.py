"""Successive halving: of configurations that train together, the better go on [Jamieson 2016].

After its first epochs a fused group of n configurations keeps the ⌈n/η⌉ that are best on val, after
η times as many epochs ⌈⌈n/η⌉/η⌉ of these, and so on. Learning rates and losses follow the whole
number of epochs throughout, so that what is left at the end is what it is without halving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from featbank.settings import Setting, resolved


@dataclass(frozen=True)
class Halving:
    """When a group is compared, and how many of it go on.

    Attributes
    ----------
    eta
        η: one in so many goes on.
    first
        Epochs before the first comparison; the next follow at η times as many each.

    Raises
    ------
    ConfigError
        For a value that its setting does not allow.
    """

    eta: int = 3
    first: int = 1

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("eta", 3, "η: one configuration in so many goes on", low=2),
        Setting("first", 1, "epochs before the first comparison; ×η for each that follows", low=1),
    )

    def __post_init__(self) -> None:
        for name, value in resolved(self.settings, vars(self), "search 'halving'").items():
            object.__setattr__(self, name, value)

    def rungs(self, epochs: int) -> list[int]:
        """After how many of the `epochs` a group is compared: first, first·η, … < epochs.

        >>> Halving(eta=3).rungs(10)
        [1, 3, 9]
        """
        found, epoch = [], self.first
        while epoch < epochs:
            found.append(epoch)
            epoch *= self.eta
        return found

    def counts(self, configs: int, epochs: int) -> list[int]:
        """How many of `configs` train from the start on, and from each rung on.

        >>> Halving(eta=3).counts(128, 10)
        [128, 43, 15, 5]
        """
        found = [configs]
        for _ in self.rungs(epochs):
            found.append(-(-found[-1] // self.eta))
        return found

    def share(self, configs: int, epochs: int) -> float:
        """The part of all epochs of all configurations that is trained, 0 … 1.

        >>> Halving(eta=2).share(8, 4)  # 8 for an epoch, 4 for one more, 2 for the last two
        0.5
        """
        ends = [0, *self.rungs(epochs), epochs]
        trained = sum(
            count * (end - begin)
            for count, begin, end in zip(
                self.counts(configs, epochs), ends[:-1], ends[1:], strict=True
            )
        )
        return trained / (configs * epochs)

    def going_on(self, scores: Sequence[float], hashes: Sequence[str]) -> list[bool]:
        """Which of n configurations are among the best ⌈n/η⌉.

        Parameters
        ----------
        scores
            What they reached on val, in percent; −∞ where the loss left the finite numbers.
        hashes
            Of their recipes: in the order of these stand equal ones, however a sweep is cut.
        """
        # Equal accuracies may differ in their last bits, by how many were averaged side by side.
        order = sorted(range(len(scores)), key=lambda c: (round(-scores[c], 6), hashes[c]))
        best = set(order[: -(-len(order) // self.eta)])
        return [c in best for c in range(len(scores))]
