"""Index streams: which training row each step of each epoch sees.

A stream is drawn whole, [epochs, steps·B] int64, from the recipe's seed, on the CPU: the same seed
gives the same batches on a laptop and on a GPU. Recipes of a fused group share one stream, so their
comparison is paired. An empty class is never drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featbank.settings import Setting
from stage2.methods.seeding import seeded


@dataclass(frozen=True)
class Sampler:
    """A sampler of the registry: ``function(labels [N], epochs, draws, settings, generator)``."""

    function: Callable[[Tensor, int, int, dict[str, Any], torch.Generator], Tensor]
    description: str
    source: str
    settings: tuple[Setting, ...] = ()


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
) -> Tensor:
    """Draw a whole training's row indices.

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
        The sampler's own.

    Returns
    -------
    [epochs, steps, batch_size] int64 on the CPU.
    """
    draws = steps * batch_size
    generator = seeded(seed, "sampler")
    stream = SAMPLERS[sampler].function(labels.cpu(), epochs, draws, settings or {}, generator)
    if copies > 1:
        chooser = seeded(seed, "copies")
        stream = stream + len(labels) * torch.randint(copies, stream.shape, generator=chooser)
    return stream.view(epochs, steps, batch_size)


def instance(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Tensor:
    """A fresh permutation per epoch; more draws than rows go on with the next permutation."""
    rounds = -(-draws // len(labels))
    order = torch.rand(epochs, rounds, len(labels), generator=generator).argsort(-1)
    return order.view(epochs, -1)[:, :draws]


def class_balanced(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Tensor:
    """Class uniform, then item uniform, with replacement."""
    classes, counts, starts, rows = _by_class(labels)
    which = torch.randint(len(classes), (epochs * draws,), generator=generator)
    at = torch.rand(epochs * draws, generator=generator, dtype=torch.float64) * counts[which]
    return rows[starts[which] + at.long().minimum(counts[which] - 1)].view(epochs, draws)


def class_aware(
    labels: Tensor, epochs: int, draws: int, settings: dict[str, Any], generator: torch.Generator
) -> Tensor:
    """Cycle through the classes, `per_class` consecutive items of the class's own cycle a visit
    [cRT].

    Class order and each class's items are reshuffled whenever their cycle ends; cycles go on over
    the epochs, and an epoch begins with a new visit.
    """
    classes, counts, starts, rows = _by_class(labels)
    per_class = settings.get("per_class", 4)
    visits = -(-draws // per_class)  # of one epoch
    laps = -(-epochs * visits // len(classes))
    order = torch.rand(laps, len(classes), generator=generator).argsort(1).view(-1)
    visited = order[: epochs * visits].repeat_interleave(per_class)  # class of every draw
    # The j-th draw of a class takes place j of the class's cycles laid end to end.
    by_class = visited.argsort(stable=True)
    drawn = torch.bincount(visited, minlength=len(classes))
    first = drawn.cumsum(0) - drawn
    place = torch.empty_like(visited)
    place[by_class] = torch.arange(len(visited)) - first.repeat_interleave(drawn)
    cycles, offsets = _shuffled_cycles(counts, drawn, generator)
    item = cycles[offsets[visited] + place]
    return rows[starts[visited] + item].view(epochs, visits * per_class)[:, :draws]


def _shuffled_cycles(
    counts: Tensor, drawn: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Permutations of 0…n_k−1 laid end to end, enough for `drawn` items of each class.

    Returns the items of all classes in one tensor, and where each class begins.
    """
    laps = -(-drawn // counts)
    size = laps * counts
    offsets = size.cumsum(0) - size
    owner = torch.arange(len(counts)).repeat_interleave(size)
    within = torch.arange(int(size.sum())) - offsets[owner]
    lap = (laps.cumsum(0) - laps)[owner] + within // counts[owner]
    key = lap + torch.rand(len(lap), generator=generator, dtype=torch.float64)
    shuffled = key.argsort()  # laps keep their order, items within a lap change places
    return (within % counts[owner])[shuffled], offsets


def _by_class(labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Classes that have samples, their counts, and where each begins in the rows by class."""
    rows = labels.argsort(stable=True)
    classes, counts = labels.unique(return_counts=True)
    return classes, counts, counts.cumsum(0) - counts, rows


SAMPLERS = {
    "instance": Sampler(instance, "every sample once per epoch", "crt"),
    "class_aware": Sampler(
        class_aware,
        "cycles of classes, consecutive items of each",
        "crt",
        (Setting("per_class", 4, "items of one class visit", low=1),),
    ),
    "class_balanced": Sampler(class_balanced, "class uniform, then item uniform", "crt"),
}
"""Every sampler by name."""
