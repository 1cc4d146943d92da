"""The figure of every plot; a module of its own, as it imports matplotlib."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

from stage2.plots.figure import STYLE


class StyledFigure(Figure):
    """A figure that keeps its look wherever it is drawn, and that notebooks show without pyplot:
    matplotlib reads some settings only as it draws."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw it in our style."""
        with matplotlib.rc_context(STYLE):
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Write it to a file, in our style."""
        with matplotlib.rc_context(STYLE):
            super().savefig(fname, **options)

    def _repr_png_(self) -> bytes:
        """The picture of a notebook."""
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=144)
        return picture.getvalue()
