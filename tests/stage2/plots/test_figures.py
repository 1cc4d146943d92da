"""Plots in a Python session: figures, with or without a file."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

import stage2
from featbank import Bank
from stage2.methods.recipe import expand
from stage2.plots.figure import STYLE
from stage2.results.store import Store
from stage2.sweep import sweep


@pytest.fixture
def results(bank: Bank, tmp_path: Path) -> Path:
    """A results file of a small sweep."""
    sweep(bank, expand({"tau_norm": {"tau": [0.0, 1.0]}, "ncm": {}}), results=tmp_path / "r.sqlite")
    return tmp_path / "r.sqlite"


def test_a_plot_is_a_figure(results: Path, bank: Bank, tmp_path: Path) -> None:
    """Of a path as of an open store or bank, with a file as without."""
    by_path = stage2.plot("groups", results)
    with Store(results) as store:
        by_store = stage2.plot("groups", store, tmp_path / "groups.svg")
    assert isinstance(by_path, Figure)
    texts = [[each.get_text() for each in figure.texts] for figure in (by_path, by_store)]
    assert texts[0] == texts[1]
    assert (tmp_path / "groups.svg").read_text().count("<svg")
    figures = [stage2.plot_bank("loss", each, recipes=["mislas"]) for each in (bank, bank.path)]
    assert all(isinstance(figure, Figure) for figure in figures)


def test_a_notebook_shows_it_in_our_style(results: Path) -> None:
    """Reference: the picture that is drawn where all of matplotlib's settings are ours."""
    figure = stage2.plot("groups", results)
    shown = Image.open(io.BytesIO(figure._repr_png_()))
    expected = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        stage2.plot("groups", results).savefig(expected, format="png", dpi=144)
    assert shown.size[0] == pytest.approx(144 * figure.get_figwidth(), abs=1)
    assert shown.tobytes() == Image.open(expected).tobytes()
    assert matplotlib.rcParams["font.size"] != STYLE["font.size"]
