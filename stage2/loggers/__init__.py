"""Loggers of a sweep: TensorBoard, Weights & Biases, MLflow, or any `Logger`."""

from __future__ import annotations

from collections.abc import Callable

from featbank import errors
from stage2.loggers.mlflow import MLflow
from stage2.loggers.record import Logger, Loggers, Record
from stage2.loggers.tensorboard import TensorBoard
from stage2.loggers.wandb import WeightsAndBiases

__all__ = [
    "LOGGERS",
    "Logger",
    "Loggers",
    "MLflow",
    "Record",
    "TensorBoard",
    "WeightsAndBiases",
    "open_logger",
]

LOGGERS: dict[str, Callable[[str], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
"""Every logger by name, made from a folder, a project or an experiment."""


def open_logger(text: str) -> Logger:
    """The logger that ``tensorboard:FOLDER``, ``wandb:PROJECT`` or ``mlflow:EXPERIMENT`` means.

    Raises
    ------
    ConfigError
        For another text, or where its package is not installed.
    """
    name, _, target = text.partition(":")
    if name not in LOGGERS:
        raise errors.ConfigError(f"No logger is called {name!r}. {errors.closest(name, LOGGERS)}")
    if not target:
        raise errors.ConfigError(
            f"{text!r} does not say where to log. Write tensorboard:FOLDER, wandb:PROJECT or "
            "mlflow:EXPERIMENT."
        )
    return LOGGERS[name](target)
