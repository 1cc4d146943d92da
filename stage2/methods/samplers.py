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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featbank.settings import Setting, resolved, scheduled
from stage2.methods.class_weights import effective_number_weights
from stage2.methods.family import Moment
from stage2.methods.seeding import seeded


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
        sampler that draws in a way of its own; the others draw by `with_replacement`.
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
            entry, labels, epochs=epochs, draws=draws, settings=values, generator=generator
        )
    early = permutations(labels, values.get("defer", 0), draws, {}, seeded(seed, "sampler"))
    for late in stream:
        rows = next(early, late)
        if copies > 1:
            copy = torch.randint(copies, rows.shape, generator=chooser)
            rows = rows + len(labels) * copy
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


def with_replacement(
    sampler: Sampler,
    labels: Tensor,
    *,
    epochs: int,
    draws: int,
    settings: dict[str, Any],
    generator: torch.Generator,
) -> Iterator[Tensor]:
    """Classes by the sampler's frequencies in the epoch, rows uniformly within a class."""
    _, counts, starts, rows = _by_class(labels)
    for epoch in range(epochs):
        weight = sampler.function(counts.double().numpy(), settings, Moment(epoch, epochs))
        share = np.cumsum(weight)
        edges = torch.from_numpy(np.append(0, share / share[-1]))  # class k is [edge k, edge k+1)
        # One number chooses both: the class by where it falls, the row by its place within that.
        at = torch.rand(draws, generator=generator, dtype=torch.float64)
        which = torch.searchsorted(edges[1:], at, right=True)
        into = (at - edges.take(which)) / edges.diff().take(which)
        size = counts.take(which)
        item = (into * size).long().minimum(size - 1)
        yield rows.take(starts.take(which) + item)


def permutations(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Iterator[Tensor]:
    """A fresh permutation per epoch, followed by another where there are more draws than rows."""
    rounds = -(-draws // len(labels))
    for _ in range(epochs):
        yield shuffled(rounds, len(labels), generator).view(-1)[:draws]


def balanced_draws(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Iterable[Tensor]:
    """Classes uniformly, then rows uniformly within the class, with replacement."""
    classes, counts, starts, rows = _by_class(labels)
    which = torch.randint(len(classes), (epochs * draws,), generator=generator)
    size = counts.take(which)
    at = torch.rand(epochs * draws, generator=generator, dtype=torch.float64) * size
    return rows.take(starts.take(which) + at.long().minimum(size - 1)).view(epochs, draws)


def class_cycles(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Iterable[Tensor]:
    """Visit the classes in cycles; a visit takes the next `per_class` rows of the class's own
    cycle [cRT].

    The order of the classes and of the rows in each is reshuffled whenever a cycle ends. Cycles
    continue across epochs, and each epoch starts with a new visit.
    """
    classes, counts, starts, rows = _by_class(labels)
    per_class = settings["per_class"]
    visits = -(-draws // per_class)  # of one epoch
    laps = -(-epochs * visits // len(classes))
    order = shuffled(laps, len(classes), generator).view(-1)
    visited = order[: epochs * visits].repeat_interleave(per_class)  # class of every draw
    # The j-th draw of a class takes the j-th place of its cycles laid end to end.
    by_class = stable_order(visited)
    drawn = torch.bincount(visited, minlength=len(classes))
    first = drawn.cumsum(0) - drawn
    within = torch.arange(len(visited)) - first.repeat_interleave(drawn)
    place = torch.empty_like(visited).scatter_(0, by_class, within)
    cycles, offsets = _shuffled_cycles(counts, drawn, generator)
    item = cycles.take(offsets.take(visited) + place)
    return rows.take(starts.take(visited) + item).view(epochs, visits * per_class)[:, :draws]


def _shuffled_cycles(
    counts: Tensor, drawn: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Permutations of 0…n_k−1 laid end to end, enough for `drawn` rows of each class.

    Returns the rows of all classes in one tensor, and the start of each class in it.
    """
    laps = -(-drawn // counts)
    size = laps * counts
    offsets = size.cumsum(0) - size
    within = torch.arange(int(size.sum())) - offsets.repeat_interleave(size)
    owners = counts.repeat_interleave(size)
    own_lap = within // owners
    lap = (laps.cumsum(0) - laps).repeat_interleave(size) + own_lap
    key = lap + torch.rand(len(lap), generator=generator, dtype=torch.float64)
    order = torch.from_numpy(key.numpy().argsort())  # laps stay in order, items within one do not
    return (within - own_lap * owners).take(order), offsets


def shuffled(rounds: int, size: int, generator: torch.Generator) -> Tensor:
    """Random permutations of 0…size−1, [rounds, size] int64: the order of random numbers."""
    # Bits of floats from 0 on are in the order of their values.
    return stable_order(torch.rand(rounds, size, generator=generator).view(torch.int32))


def stable_order(keys: Tensor) -> Tensor:
    """Indices [..., n] int64 that sort keys [..., n] from 0 to 2³¹−1, equal ones in their order.

    Key and index are one number each, which NumPy sorts by vector instructions, ten times as fast
    as PyTorch's argsort. That leaves equal keys in an order that depends on the processor.
    """
    packed = (keys.long() << 32) + torch.arange(keys.shape[-1])
    packed.numpy().sort()
    return packed.bitwise_and_(2**32 - 1)


def _by_class(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes that have samples, their counts and starts, and the training rows by class."""
    rows = stable_order(labels)
    classes, counts = labels.unique(return_counts=True)
    return classes, counts, counts.cumsum(0) - counts, rows


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
