"""`featbank train`: images → checkpoint."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli import completion
from featbank.cli.data_options import chosen_options, dataset_options, silence_pillow
from featbank.cli.options import FILE, setting_options
from featbank.cli.progress import progress
from featbank.cli.terminal import say
from featbank.errors import ConfigError, OutputExists
from stage1.data.catalogue import OPTIONS as DATASET
from stage1.data.catalogue import defaults_help
from stage1.data.settings import DatasetSettings
from stage1.training.presets import PRESETS
from stage1.training.settings import OPTIONS, TrainSettings, default_settings, deferral_epoch

if TYPE_CHECKING:
    from stage2.objective import AutogradLoss


@click.command()
@dataset_options()
@click.option(
    "--preset",
    shell_complete=completion.presets,
    help=f"Published settings, which other options override: {', '.join(PRESETS)}; "
    "`featbank methods NAME` shows them, and the paper they come from. [default: none]",
)
@setting_options(
    OPTIONS,
    {name: f"{setting.help} {defaults_help(setting)}" for name, setting in OPTIONS.items()},
    flags={"deferred_sampling": "--drs"},
)
@click.option(
    "--set",
    "loss_settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of the loss, by `featbank methods LOSS`; repeat for more. [default: its own]",
)
@click.option(
    "--drw",
    is_flag=True,
    help="Deferred re-weighting: the class weights of a --loss that has the setting defer, such as "
    "class_balanced, act from the epoch of --deferral on. [default: no]",
)
@click.option(
    "--tensorboard",
    is_flag=True,
    help="Write scalars to the folder tensorboard of the run, too; needs featbank[tensorboard]. "
    "[default: no]",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=FILE,
    help="Run folder for checkpoint.pt and log.jsonl.",
)
@click.option(
    "--bank",
    type=FILE,
    help="Extract to this bank afterwards, as `featbank extract` does. [default: none]",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Start over, and replace an existing run and --bank. [default: no]",
)
def train(
    *,
    dataset: str,
    output: Path,
    bank: Path | None,
    tensorboard: bool,
    overwrite: bool,
    loss_settings: tuple[str, ...],
    drw: bool,
    **options: Any,
) -> None:
    """Train a backbone on a long-tailed data set.

    Hold a val out, with --val-per-class or --val-fraction, where the data set has none: stage 2
    selects and calibrates on images that this run has never seen.

    A run that is stopped or killed keeps its state in the folder `unfinished`; the same command
    resumes it. Under torchrun, the processes share each batch.

    \b
    featbank train --dataset digits-lt -o runs/digits
    featbank train --dataset folder --root photos --val-fraction 0.2 -o runs/photos
    featbank train --dataset cifar100-lt --imbalance 100 --backbone resnet32 --mixup 1.0 \\
        --root data --download -o runs/r32
    featbank train --dataset cifar100-lt --preset mislas-cifar --loss class_balanced --drw \\
        --set beta=0.999 -o runs/drw
    featbank train --dataset cifar100-lt --preset sla-cifar -o runs/sla --bank sla.h5
    torchrun --nproc-per-node 2 -m featbank train --dataset imagenet-lt --root data -o runs/r50
    """
    from featbank.cli.extract import extract
    from stage1.processes.distributed import leader_first, leads
    from stage1.training.train import train as run_training
    from stage2.objective import weighing_rows

    silence_pillow()
    if not leads():
        warnings.simplefilter("ignore")
    shown = progress("images", resumes=True, talks=True) if leads() else nullcontext()
    with leader_first(), shown as display:
        if bank is not None and bank.exists() and not overwrite:
            raise OutputExists(f"{bank} exists. Choose another --bank or --overwrite.")
        chosen = chosen_options(options)
        data = {name: chosen.pop(name) for name in DATASET if name in chosen}
        settings = default_settings(DatasetSettings(dataset, **data), **chosen)
        settings = _with_loss(settings, loss_settings, drw=drw)
        defers = drw or settings.deferred_sampling or settings.drop_augmentation
        defers = defers or settings.loss in weighing_rows()
        if "deferral" in chosen and not defers:
            raise ConfigError(
                "--deferral defers nothing alone. Add --drw, --drs or --drop-augmentation, or take "
                f"--loss {' or '.join(weighing_rows())}."
            )
        path = run_training(
            settings,
            output,
            objective=_objective(settings),
            report=display.say if display else _silent,
            progress=display or _silent,
            tensorboard=tensorboard,
            overwrite=overwrite,
        )
    if leads():
        after = "" if bank else f" Next: featbank extract {output} -o bank.h5"
        say(f"Wrote {path}.{after}")
    if bank is not None:
        click.get_current_context().invoke(
            extract, run=output, output=bank, device=settings.device, overwrite=overwrite
        )


def _silent(*_: Any) -> None:
    """Discard progress and lines: processes beside the leader print nothing."""


def _objective(settings: TrainSettings) -> Callable[[Any], AutogradLoss] | None:
    """The loss by class counts; None for plain cross-entropy, which is PyTorch's own."""
    from stage2.objective import AutogradLoss, weighing_rows

    if settings.loss == "ce":
        return None
    return lambda counts: AutogradLoss(
        settings.loss,
        settings.loss_settings,
        class_counts=counts,
        epochs=settings.epochs,
        classifier=settings.classifier,
        switch=deferral_epoch(settings) if settings.loss in weighing_rows() else 0,
    )


def _with_loss(settings: TrainSettings, texts: Sequence[str], *, drw: bool) -> TrainSettings:
    """`settings` with all those of their loss, from ``--set`` and ``--drw``."""
    from stage2.objective import classifier_problem, objective_settings

    if problem := classifier_problem(settings.loss, settings.classifier):
        raise ConfigError(problem)
    chosen = {**settings.loss_settings, **dict(map(_parse_setting, texts))}
    if drw:
        if "defer" not in objective_settings(settings.loss, {}):
            raise ConfigError(
                f"--drw defers class weights, and loss {settings.loss!r} has none. "
                "Take --loss class_balanced, for example."
            )
        chosen.setdefault("defer", deferral_epoch(settings))
    chosen = objective_settings(settings.loss, chosen)
    return dataclasses.replace(settings, loss_settings=chosen)


def _parse_setting(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` as (key, value)."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals and value):
        raise ConfigError(f"--set {text} is not KEY=VALUE. Write --set tau=1.5, for example.")
    return key, value
