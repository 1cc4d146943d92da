"""Plots of stored results, for papers: a kind of plot is a function and a line in `KINDS`."""

from stage2.plots.figure import FORMATS
from stage2.plots.kinds import KINDS, PlotKind, plot

__all__ = ["FORMATS", "KINDS", "PlotKind", "plot"]
