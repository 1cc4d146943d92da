"""Index streams: the training rows of each step of each epoch.

A stream is drawn epoch by epoch from the recipe's seed, on the CPU, so that the same seed gives the
same batches on a laptop and on a GPU. Recipes of a fused group share one stream, which makes their
comparison paired. An empty class is never drawn.

A sampler says how often each class is drawn, as a function of the class counts n_k. Unless it draws
in a way of its own, a class is then drawn with those frequencies and a row uniformly within the
class, with replacement. To add such a sampler, write its function and its entry in `SAMPLERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featbank.settings import Setting, resolved, scheduled
from stage2.methods.class_weights import effective_number_weights
from stage2.methods.draws import (
    balanced_draws,
    class_cycles,
    permutations,
    spans,
    with_replacement,
)
from stage2.methods.family import Moment
from stage2.methods.on_demand import torch
from stage2.methods.seeding import seeded

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    """A sampler of the registry.

    Attributes
    ----------
    function
        ``(counts [K] float64, all ≥ 1, settings, moment) → class frequencies [K]``, up to a factor.
    description, source
        One line; key of `stage2.methods.bibliography`, or the citation itself.
    settings
        What it takes.
    draw
        ``(labels [N], epochs, draws, settings, generator) → rows [draws] of each epoch``, for a
        sampler that draws in a way of its own; the others draw by `with_replacement`. An epoch's
        rows are a tensor of their own.
    scheduled
        Whether the frequencies depend on the epoch whatever its settings.
    """

    function: Callable[[np.ndarray, dict[str, Any], Moment], np.ndarray]
    description: str
    source: str
    settings: tuple[Setting, ...] = ()
    draw: Callable[[Tensor, int, int, dict[str, Any], torch.Generator], Iterable[Tensor]] | None = (
        None
    )
    scheduled: bool = False

    def distribution(
        self, counts: np.ndarray, settings: dict[str, Any] | None = None
    ) -> np.ndarray | None:
        """Expected share of each class in a stream, for training counts n_k [K].

        Returns
        -------
        Probabilities [K] float64, 0 for an empty class; None if they change over the epochs.
        """
        values = resolved(self.settings, settings or {}, "sampler")
        if self.scheduled or scheduled(self.settings, values):
            return None
        counts = np.asarray(counts, np.float64)
        weight = np.zeros_like(counts)
        weight[counts > 0] = self.function(counts[counts > 0], values, Moment())
        return weight / weight.sum()


def index_stream(
    sampler: str,
    labels: Tensor,
    *,
    epochs: int,
    steps: int,
    batch_size: int,
    seed: int,
    copies: int = 1,
    settings: dict[str, Any] | None = None,
) -> Iterator[Tensor]:
    """Draw the row indices of a training, epoch by epoch.

    Memory is that of the epoch that is drawn and of `stage2.methods.draws.PIECE` draws, however
    many epochs there are.

    Parameters
    ----------
    sampler
        A name of `SAMPLERS`.
    labels
        Training labels [N] int64.
    epochs, steps, batch_size
        Shape of the stream.
    seed
        The recipe's seed.
    copies
        A augmentation copies of each row: a draw takes one at random, row + N·copy.
    settings
        Of the sampler. With ``defer`` d > 0 the first d epochs are those of `instance` with the
        same seed, and later epochs those that the sampler draws without ``defer``: deferred
        re-sampling, DRS [LDAM].

    Yields
    ------
    The rows of each epoch, [steps, batch_size] int64 on the CPU.

    Raises
    ------
    ConfigError
        For settings the sampler does not take.
    """
    entry, labels, draws = SAMPLERS[sampler], labels.cpu(), steps * batch_size
    values = resolved(entry.settings, settings or {}, f"sampler {sampler!r}")
    generator, chooser = seeded(seed, "sampler"), seeded(seed, "copies")
    if entry.draw:
        stream = entry.draw(labels, epochs, draws, values, generator)
    else:
        stream = with_replacement(
            lambda counts, moment: entry.function(counts, values, moment),
            labels,
            epochs=epochs,
            draws=draws,
            generator=generator,
        )
    early = permutations(labels, values.get("defer", 0), draws, {}, seeded(seed, "sampler"))
    for late in stream:
        rows = next(early, late)
        for start, stop in spans(draws) if copies > 1 else ():
            copy = torch.randint(copies, (stop - start,), generator=chooser)
            rows[start:stop] += len(labels) * copy
        yield rows.view(steps, batch_size)


def instance(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """As the data are, n_k; drawn by `permutations`."""
    return counts


def balanced(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """Every class alike [cRT eq. 1, q = 0]; drawn by `class_cycles` or `balanced_draws`."""
    return np.ones_like(counts)


def sqrt(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """√n_k, an item by 1/√n_y [cRT eq. 1, q = ½]; the release draws with replacement as well."""
    return np.sqrt(counts)


def power(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """n_k^q [cRT eq. 1]: q = 1 as the data are, ½ `sqrt`, 0 every class alike, −1 `reversed`.

    Divided by n_max^q, so that no count overflows.
    """
    return (counts / counts.max()) ** settings["power"]


def progressive(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """From the data's frequencies to equal ones, (1−λ)·n_k/N + λ/K [cRT eq. 2].

    In epoch t = 1…T, ``ramp=released`` has λ = (t−1)/(T−1), from the data's frequencies to equal
    ones; ``paper`` has λ = t/T. With a single epoch the released λ is 0, as in the release, whose
    steps are ``linspace(0, 1, T)``. K counts the classes that have rows. The release draws the rows
    of each class in reshuffled cycles; here, as in the paper, they are drawn uniformly.
    """
    last = moment.epochs - 1
    mixed = moment.epoch / last if last else 0.0
    if settings["ramp"] == "paper":
        mixed = (moment.epoch + 1) / moment.epochs
    return (1 - mixed) * counts / counts.sum() + mixed / len(counts)


def reverse(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """n_max/n_k: the rarest class is drawn most often [BBN §4.2, the reversed sampler]."""
    return counts.max() / counts


def effective(counts: np.ndarray, settings: dict[str, Any], moment: Moment) -> np.ndarray:
    """An item by its class's effective-number weight (1−β)/(1−β^n_y), so a class by n_k times it
    [CB eq. 4].

    As the released re-sampling of [LDAM], with replacement. β = 0 is as the data are, β → 1 every
    class alike.
    """
    return counts * effective_number_weights(counts, settings["beta"])


_DEFER = Setting(
    "defer",
    0,
    "first epoch of this sampler, earlier ones use `instance`; 0 from the start",
    low=0,
    role="epoch",
)

SAMPLERS = {
    "instance": Sampler(instance, "every sample once per epoch", "crt", draw=permutations),
    "class_aware": Sampler(
        balanced,
        "cycles through the classes, a few consecutive rows of each",
        "crt",
        (Setting("per_class", 4, "rows drawn per visit to a class", low=1, high=100_000), _DEFER),
        draw=class_cycles,
    ),
    "class_balanced": Sampler(
        balanced, "uniform over classes, then rows", "crt", (_DEFER,), draw=balanced_draws
    ),
    "sqrt": Sampler(sqrt, "classes in proportion to √n", "crt", (_DEFER,)),
    "power": Sampler(
        power,
        "classes in proportion to n^q",
        "crt",
        (
            Setting("power", 0.5, "exponent q: 1 follows the data, 0 balances the classes", low=-1),
            _DEFER,
        ),
    ),
    "progressive": Sampler(
        progressive,
        "from the class frequencies of the data to equal ones over the epochs",
        "crt",
        (
            Setting(
                "ramp",
                "released",
                "weight of equal frequencies in epoch t: (t−1)/(T−1) as released, t/T as in the "
                "paper",
                choices=("released", "paper"),
            ),
            _DEFER,
        ),
        scheduled=True,
    ),
    "reversed": Sampler(reverse, "classes in proportion to 1/n", "bbn", (_DEFER,)),
    "effective": Sampler(
        effective,
        "rows weighted by the effective number of their class",
        "class_balanced",
        (Setting("beta", 0.9999, "effective-number β", low=0, below=1), _DEFER),
    ),
}
"""Every sampler by name."""
