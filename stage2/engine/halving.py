"""Successive halving: of configurations that train together, the better continue [Jamieson 2016].

After its first epochs a fused group of n configurations keeps the ⌈n/η⌉ that are best on val, after
η times as many epochs ⌈⌈n/η⌉/η⌉ of these, and so on. Schedules are those of the full number of
epochs throughout, so that the configurations left at the end are as they would be without halving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from featbank.settings import Setting, resolved


@dataclass(frozen=True)
class Halving:
    """When the configurations of a group are compared, and how many of them continue.

    Attributes
    ----------
    eta
        η: one configuration in η continues.
    first
        Epochs before the first comparison; each following one is after η times as many.

    Raises
    ------
    ConfigError
        For a value that its setting does not allow.
    """

    eta: int = 3
    first: int = 1

    settings: ClassVar[tuple[Setting, ...]] = (
        Setting("eta", 3, "η: one configuration in η continues", low=2),
        Setting("first", 1, "epochs before the first comparison; ×η for each that follows", low=1),
    )

    def __post_init__(self) -> None:
        for name, value in resolved(self.settings, vars(self), "search 'halving'").items():
            object.__setattr__(self, name, value)

    def rungs(self, epochs: int) -> list[int]:
        """Epochs after which a group is compared: first, first·η, … < epochs.

        >>> Halving(eta=3).rungs(10)
        [1, 3, 9]
        """
        rungs, epoch = [], self.first
        while epoch < epochs:
            rungs.append(epoch)
            epoch *= self.eta
        return rungs

    def counts(self, configs: int, epochs: int) -> list[int]:
        """Number of configurations that train at first, and after each rung.

        >>> Halving(eta=3).counts(128, 10)
        [128, 43, 15, 5]
        """
        counts = [configs]
        for _ in self.rungs(epochs):
            counts.append(-(-counts[-1] // self.eta))
        return counts

    def share(self, configs: int, epochs: int) -> float:
        """Share of all epochs of all configurations that is trained, 0 … 1.

        >>> Halving(eta=2).share(8, 4)  # 8 for an epoch, 4 for one more, 2 for the last two
        0.5
        """
        ends = [0, *self.rungs(epochs), epochs]
        trained = sum(
            count * (end - start)
            for count, start, end in zip(
                self.counts(configs, epochs), ends[:-1], ends[1:], strict=True
            )
        )
        return trained / (configs * epochs)

    def continuing(self, scores: Sequence[float], hashes: Sequence[str]) -> list[bool]:
        """Whether each of n configurations is among the best ⌈n/η⌉.

        Parameters
        ----------
        scores
            Accuracy on val in percent; −∞ for a configuration that diverged.
        hashes
            Hashes of the recipes; they order equal scores, however a sweep is cut into tiles.
        """
        # The last bits of equal accuracies depend on how many were averaged side by side.
        order = sorted(range(len(scores)), key=lambda c: (round(-scores[c], 6), hashes[c]))
        best = set(order[: -(-len(order) // self.eta)])
        return [c in best for c in range(len(scores))]
