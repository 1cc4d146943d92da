"""Weights & Biases: a run for each run, grouped by configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featbank import errors
from stage2.loggers.record import Record
from stage2.results.leaderboard import Leaderboard
from stage2.results.tables import table_of


class WeightsAndBiases:
    """Logs to a project. ``WANDB_MODE=offline`` writes to a folder that ``wandb sync`` sends later.

    Parameters
    ----------
    target
        The project, or ``entity/project``.

    Raises
    ------
    ConfigError
        Where wandb is not installed.
    """

    def __init__(self, target: str) -> None:
        try:
            import wandb  # noqa: F401  an extra
        except ImportError:
            raise errors.ConfigError(
                "Logging to wandb needs the package wandb. Run pip install 'featbank[wandb]'."
            ) from None
        entity, _, self.project = target.rpartition("/")
        self.entity = entity or None

    def log(self, records: Sequence[Record]) -> None:
        """Create a run for each: curves by epoch, metrics in its summary."""
        for record in records:
            run = self._begin(
                name=record.name,
                group=record.group,
                job_type="sweep",
                config={**record.parameters, "bank": record.facts["bank"]},
            )
            for step in sorted({step for curve in record.curves.values() for step in curve}):
                values = {n: curve[step] for n, curve in record.curves.items() if step in curve}
                run.log(values, step=step)
            run.summary.update({**record.metrics, **record.facts, "status": record.status})
            run.finish(exit_code=1 if record.status == "diverged" else 0)

    def end(self, bank: str, board: Leaderboard) -> None:
        """Create or update a run ``leaderboard-BANK`` with the table."""
        import wandb

        table = table_of(board)
        name = f"leaderboard-{bank[:12]}"
        run = self._begin(name=name, id=name, resume="allow", notes=board.protocol)
        run.log({"leaderboard": wandb.Table(columns=table.header, data=table.lines)})
        run.finish()

    def _begin(self, **options: Any) -> Any:
        import wandb

        return wandb.init(
            project=self.project,
            entity=self.entity,
            settings=wandb.Settings(silent=True, console="off"),
            **options,
        )
