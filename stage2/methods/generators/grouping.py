"""Products of many groups of rows in few batched products, for a GPU.

Group g has t_g new rows, each ε·F_g with ε of r_g random numbers and a factor F_g [r_g, D]. A loop
over the groups launches a handful of kernels for each, which take longer to launch than to run.
Here groups of similar r and t are padded to the largest among them and multiplied at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stage2.methods.on_demand import torch

if TYPE_CHECKING:
    from torch import Tensor

GROUPED_BYTES = 256 << 20
"""Bytes of the factors, numbers and products of one batched product, unless one group has more."""

SMALL_BYTES = 4 << 20
"""Bytes up to which padding costs less than launching another product. Beyond it groups are padded
to at most twice their size."""


@dataclass(frozen=True)
class Padded:
    """Groups that are multiplied at once.

    Attributes
    ----------
    groups
        Their indices [G].
    rows, rank
        The largest t and r among them.
    row
        The new rows of these groups among all, [Σt].
    flat
        Their places among the G·`rows` rows of the product, [Σt].
    """

    groups: Tensor
    rows: int
    rank: int
    row: Tensor
    flat: Tensor


def padded(count: Tensor, rank: Tensor, dim: int) -> Iterator[Padded]:
    """Cut groups into those that are multiplied at once; groups without rows or rank are left out.

    Parameters
    ----------
    count, rank
        t and r of each group [G]; the rows of all groups follow one another.
    dim
        D.
    """
    device = count.device
    counts, ranks = torch.stack([count, rank]).tolist()
    wanted = [g for g, (t, r) in enumerate(zip(counts, ranks, strict=True)) if t and r]
    wanted.sort(key=lambda g: (ranks[g], counts[g], g))
    first, at = count.cumsum(0) - count, 0
    while at < len(wanted):
        end, needed, rows, most = at, 0, 0, 0
        while end < len(wanted):
            g = wanted[end]
            t, r = max(rows, counts[g]), max(most, ranks[g])
            size = (end + 1 - at) * _bytes(t, r, dim)
            needed += _bytes(counts[g], ranks[g], dim)
            if end > at and (size > GROUPED_BYTES or size > max(2 * needed, SMALL_BYTES)):
                break
            end, rows, most = end + 1, t, r
        groups = torch.tensor(wanted[at:end], device=device)
        total = sum(counts[g] for g in wanted[at:end])
        each = count[groups]
        begin = each.cumsum(0) - each  # of each group's rows among the Σt
        within = torch.arange(total, device=device)
        place = torch.arange(end - at, device=device)

        def spread(of: Tensor, each: Tensor = each, total: int = total) -> Tensor:
            return of.repeat_interleave(each, output_size=total)

        yield Padded(
            groups,
            rows,
            most,
            row=within + spread(first[groups] - begin),
            flat=within + spread(place * rows - begin),
        )
        at = end


def add_products(
    to: Tensor,
    count: Tensor,
    rank: Tensor,
    factors: Callable[[Tensor, int], Tensor],
    random: torch.Generator,
    *,
    shaped: Callable[[Tensor, Tensor], Tensor] = lambda noise, groups: noise,
    scale: Tensor | None = None,
) -> None:
    """Add ε·F_g to the rows of every group, ε ~ N(0, I).

    Parameters
    ----------
    to
        The rows of all groups, one group after another, [Σt, D].
    count, rank
        t and r of each group [G].
    factors
        F [G', r, D] of some groups [G'], the largest of whose ranks is given; rows beyond a group's
        own rank are not read where `shaped` makes their numbers 0.
    random
        On the device of the rows.
    shaped
        Changes the numbers ε [G', t, r] of groups [G'], in place.
    scale
        Factor of each row [Σt].
    """
    for part in padded(count, rank, to.shape[1]):
        noise = torch.empty(len(part.groups), part.rows, part.rank, device=to.device)
        noise = shaped(noise.normal_(generator=random), part.groups)
        product = torch.bmm(noise, factors(part.groups, part.rank)).view(-1, to.shape[1])
        drawn = product.index_select(0, part.flat)
        if scale is not None:
            drawn.mul_(scale[part.row, None])
        to.index_add_(0, part.row, drawn)


def _bytes(rows: int, rank: int, dim: int) -> int:
    """Bytes of a factor, its numbers and their product."""
    return 4 * (rank * dim + rows * rank + rows * dim)
