"""The kinds of plots that a bank is enough for, and such a plot as a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featbank.bank import Bank
from stage2.plots.batchnorm import batchnorm
from stage2.plots.figure import WIDTH, save
from stage2.plots.loss_parameters import losses
from stage2.plots.maps import maps
from stage2.plots.picture import BankPicture, kind_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class BankKind:
    """A kind of plot of a bank: a row of `BANK_KINDS`.

    Attributes
    ----------
    draw
        Draws the figure.
    description
        One line for people.
    options
        The options it takes beside a bank and a width.
    """

    draw: Callable[[BankPicture], Figure]
    description: str
    options: tuple[str, ...] = ()


BANK_KINDS = {
    "loss": BankKind(
        losses,
        "what losses make of the counts, by class and over the epochs: ε, ω, m, … (MiSLAS Fig. 6 "
        "and 8, DisAlign Fig. 3, GLAG Fig. 3)",
        ("recipe", "set"),
    ),
    "batchnorm": BankKind(
        batchnorm,
        "shift of BatchNorm statistics between views, by layer and channel (MiSLAS Fig. 7)",
        ("view",),
    ),
    "maps": BankKind(
        maps, "whole maps: truth, prediction of an exported head, and difference", ("head",)
    ),
}
"""Every kind of plot of a bank by name."""


def plot_bank(
    kind: str,
    bank: Bank | str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    recipes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    view: str | None = None,
    head: str | os.PathLike[str] | None = None,
    width: float = WIDTH,
) -> Figure:
    """Draw what a bank alone says, into a file where one is given; one that is there is replaced.

    Parameters
    ----------
    kind
        A key of `BANK_KINDS`.
    bank
        An open bank or its path.
    output
        The file; its ending, one of `stage2.plots.FORMATS`, is the format. None: none is written.
    recipes, overrides
        For ``loss``: names of recipes, and values of their settings in every combination, as of
        ``featbank sweep --set``.
    view
        For ``batchnorm``: the view that is compared with ``instance``; by default ``balanced``.
    head
        For ``maps``: the file of an exported head.
    width
        Inches.

    Returns
    -------
    The figure, which notebooks show.

    Raises
    ------
    ConfigError
        For an unknown kind, format, recipe, setting or view, an option that the kind does not take,
        and where the bank has nothing to show.
    """
    given = {"recipe": recipes, "set": overrides, "view": view, "head": head}
    row = kind_of(BANK_KINDS, kind, given)
    with contextlib.ExitStack() as stack:
        if not isinstance(bank, Bank):
            bank = stack.enter_context(Bank(bank))
        picture = BankPicture(bank, tuple(recipes), tuple(overrides), view, head, width)
        return save(lambda: row.draw(picture), output)
