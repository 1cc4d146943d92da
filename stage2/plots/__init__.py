"""Plots for papers: a kind of plot is a function and a line in `KINDS`, or in `BANK_KINDS`."""

from stage2.plots.bank_kinds import BANK_KINDS, BankKind, plot_bank
from stage2.plots.figure import FORMATS
from stage2.plots.kinds import KINDS, PlotKind, plot

__all__ = ["BANK_KINDS", "FORMATS", "KINDS", "BankKind", "PlotKind", "plot", "plot_bank"]
