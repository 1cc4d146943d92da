"""MLflow: a run for each run, in one experiment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from featbank import errors
from stage2.loggers.record import Record
from stage2.results.leaderboard import Leaderboard
from stage2.results.tables import render

if TYPE_CHECKING:
    from mlflow import MlflowClient

_MOST = 1000, 100
"""Metrics and parameters that MLflow takes in one request."""


class MLflow:
    """Logs to an experiment, where ``MLFLOW_TRACKING_URI`` says: a server, a folder or SQLite.

    Parameters
    ----------
    target
        The experiment, which is created where it is absent.

    Raises
    ------
    ConfigError
        Where MLflow is not installed.
    """

    def __init__(self, target: str) -> None:
        try:
            from mlflow import MlflowClient  # an extra
        except ImportError:
            raise errors.ConfigError(
                "Logging to mlflow needs the package mlflow. Run pip install 'featbank[mlflow]'."
            ) from None
        self.experiment = target
        self._client = MlflowClient

    def log(self, records: Sequence[Record]) -> None:
        """Create a run for each: settings, curves by epoch, final metrics; diverged ones failed."""
        from mlflow.entities import Metric, Param

        client, experiment = self._open()
        now = int(1000 * time.time())
        for record in records:
            tags = {"group": record.group, "bank": record.facts["bank"], "status": record.status}
            run = client.create_run(experiment, run_name=record.name, tags=tags).info.run_id
            params = [Param(name, str(value)) for name, value in record.parameters.items()]
            metrics = [
                Metric(name, value, now, step)
                for name, values in record.curves.items()
                for step, value in values.items()
            ]
            final = record.metrics | {n: v for n, v in record.facts.items() if n != "bank"}
            metrics += [Metric(n, float(v), now, 0) for n, v in final.items() if v is not None]
            for begin in range(0, len(metrics), _MOST[0]):
                client.log_batch(run, metrics=metrics[begin : begin + _MOST[0]])
            for begin in range(0, len(params), _MOST[1]):
                client.log_batch(run, params=params[begin : begin + _MOST[1]])
            client.set_terminated(run, "FAILED" if record.status == "diverged" else "FINISHED")

    def end(self, bank: str, board: Leaderboard) -> None:
        """Create or update a run ``leaderboard-BANK`` with the table as a file."""
        client, experiment = self._open()
        name = f"leaderboard-{bank[:12]}"
        known = client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
        run = (known[0] if known else client.create_run(experiment, run_name=name)).info.run_id
        client.log_text(run, render(board, "md"), "leaderboard.md")
        client.set_terminated(run)

    def _open(self) -> tuple[MlflowClient, str]:
        client = self._client()
        known = client.get_experiment_by_name(self.experiment)
        return client, known.experiment_id if known else client.create_experiment(self.experiment)
