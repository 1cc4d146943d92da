"""TensorBoard: a folder of event files for each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featbank import errors
from stage2.loggers.record import Record
from stage2.results.leaderboard import Leaderboard
from stage2.results.tables import render


class TensorBoard:
    """Writes ``FOLDER/BANK/RUN`` with scalars, hyper-parameters and final metrics.

    Parameters
    ----------
    target
        The folder.

    Raises
    ------
    ConfigError
        Where TensorBoard is not installed, or the folder is a file.
    """

    def __init__(self, target: str) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401  an extra
        except ImportError:
            raise errors.ConfigError(
                "Logging to tensorboard needs the package tensorboard. "
                "Run pip install 'featbank[tensorboard]'."
            ) from None
        self.folder = Path(target)
        if self.folder.exists() and not self.folder.is_dir():
            raise errors.ConfigError(f"{target} is not a folder. Choose another for tensorboard.")

    def log(self, records: Sequence[Record]) -> None:
        """Write a folder for each run."""
        from torch.utils.tensorboard import SummaryWriter

        for record in records:
            place = self.folder / record.facts["bank"][:12] / record.name
            with SummaryWriter(place) as writer:
                for name, values in record.curves.items():
                    for step, value in values.items():
                        writer.add_scalar(name, value, step)
                parameters = record.parameters | record.facts
                parameters |= {"group": record.group, "status": record.status}
                writer.add_hparams(
                    {n: "none" if value is None else value for n, value in parameters.items()},
                    record.metrics,
                    run_name=".",
                )

    def end(self, bank: str, board: Leaderboard) -> None:
        """Write the leaderboard as a text."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.folder / bank[:12]) as writer:
            writer.add_text("leaderboard", render(board, "md"))
