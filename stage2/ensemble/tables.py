"""An ensemble as tables: its members, and its figures beside those of the best configuration."""

from __future__ import annotations

from stage2.engine.metrics import METRICS
from stage2.results.ensembles import ENSEMBLE, EnsembleRecipe
from stage2.results.leaderboard import Leaderboard, differences
from stage2.results.results import Results
from stage2.results.tables import Table

SHOWN = {
    "val": ("macro", "nll_t"),
    "test": ("macro", "top1", "many", "medium", "few", "ece", "nll"),
}
"""Metrics of the figures by split."""


def ensemble_tables(results: Results, recipe: EnsembleRecipe) -> tuple[list[Table], str]:
    """The members of a stored ensemble with their weights, its figures with those of the best
    configuration, and the protocol line.

    Parameters
    ----------
    results
        The results that it is in.
    recipe
        The ensemble.
    """
    boards = [results.on("val").board, *([results.board] if results.split == "test" else [])]
    rows = {each[0]["recipe"]: each for each in boards[0].configurations()}
    total = sum(member.count for member in recipe.members)
    lines = [
        [
            member.id,
            differences(rows[member.id][0]),
            str(member.seed),
            f"{100 * member.count / total:.0f}",
            f"{member.temperature:.2f}",
        ]
        for member in recipe.members
    ]
    title = f"Members, chosen from {recipe.pool} configurations"
    members = Table(title, ["recipe", "settings", "seed", "weight %", "T"], lines, 2)
    single = next(id_ for id_, (first, *_) in rows.items() if first["name"] != ENSEMBLE)
    shown = [(board, name) for board in boards for name in SHOWN[board.terms.split]]
    figures = [
        [id_, *(_figure(board, id_, name) for board, name in shown)] for id_ in (recipe.id, single)
    ]
    labels = [f"{board.terms.split} {board.terms.metrics[name].label}" for board, name in shown]
    title = "The ensemble, cross-fitted on val, and the best configuration, which val chose"
    return [members, Table(title, ["", *labels], figures)], results.board.protocol


def _figure(board: Leaderboard, id_: str, name: str) -> str:
    """A metric of a configuration at the epoch that ranks."""
    row = board.ranked([row for row in board.rows if row["recipe"] == id_])
    return "–" if row[name] is None else f"{row[name]:.{METRICS[name].decimals}f}"
