"""`featbank train`: images → checkpoint."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli import completion
from featbank.cli.data_options import (
    AUGMENTATION,
    BACKBONE,
    DATASET_OPTIONS,
    NORMALISATION,
    dataset_options,
    silence_pillow,
)
from featbank.cli.options import FILE, Finite, Integer
from featbank.cli.progress import progress_beside_lines
from featbank.cli.terminal import say
from featbank.errors import ConfigError, OutputExists

if TYPE_CHECKING:
    from stage1.training.settings import TrainSettings


@click.command()
@dataset_options()
@click.option(
    "--stream",
    is_flag=True,
    help="lists, folder: decode images as they are used, in place of keeping them all in memory. "
    "[default: where they do not fit]",
)
@click.option(
    "--preset",
    shell_complete=completion.presets,
    help="Published settings, which options given beside it override: mislas-cifar, sla-cifar, "
    "los-cifar100, crt-imagenet-lt, mislas-imagenet-lt, mislas-places-lt or "
    "mislas-inaturalist. [default: none]",
)
@click.option(
    "--backbone",
    help=f"{BACKBONE} [default: resnet32, digits-lt resnet8]",
)
@click.option(
    "--weights",
    help="Begin with the state dict of this file; its classifier only where the number of classes "
    "is the same. [default: none, random weights]",
)
@click.option(
    "--freeze-but-last-block",
    is_flag=True,
    help="Train only the last residual stage (layer4) and the classifier, as cRT does on "
    "Places-LT; all else stays as in --weights, BatchNorm statistics too. [default: no]",
)
@click.option(
    "--experts",
    metavar="E",
    type=Integer(),
    help="Deep branches over shared early layers, each with a classifier; the bank has their views "
    "expert0/instance, … [default: 1]",
)
@click.option(
    "--classifier",
    help="linear, or cosine with a scale of 30, which --loss ldam needs. [default: linear]",
)
@click.option("--epochs", type=Integer(), help="[default: 200, digits-lt 100]")
@click.option("--lr", type=Finite(), help="Learning rate of SGD. [default: 0.1]")
@click.option("--batch-size", type=Integer(), help="[default: 128, digits-lt 32]")
@click.option("--momentum", type=Finite(), help="[default: 0.9]")
@click.option("--nesterov", is_flag=True, help="Nesterov's momentum. [default: no]")
@click.option("--weight-decay", type=Finite(), help="[default: 0.0002]")
@click.option(
    "--schedule",
    help="multistep (×0.1 at 80 and 90 % of the epochs) or cosine. [default: multistep]",
)
@click.option(
    "--warmup",
    type=Integer(),
    help="Epochs of linear warm-up. [default: 5, at most a tenth of the epochs]",
)
@click.option(
    "--augmentation",
    help=f"{AUGMENTATION}; one for each expert joined by +, as standard+cutout+simclr. "
    "Extraction uses it, too. [default: standard]",
)
@click.option("--normalisation", help=f"{NORMALISATION} [default: data]")
@click.option("--mixup", type=Finite(), help="α of mixup's Beta(α, α); 0 is off. [default: 0.0]")
@click.option(
    "--loss",
    help="A loss of `featbank methods`; sla is logit_adjusted before the epoch of --deferral, and "
    "without mixup from there on. [default: ce]",
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
    help="Deferred re-weighting: the weights of --loss weighted, class_balanced or cb_focal act "
    "from the epoch of --deferral on. [default: no]",
)
@click.option(
    "--drs",
    "deferred_sampling",
    is_flag=True,
    help="Deferred re-sampling: class-balanced batches from the epoch of --deferral on. "
    "[default: no]",
)
@click.option(
    "--deferral",
    type=Finite(),
    help="Share of the epochs before --drw, --drs and the weights of sla act: 160 of 200. "
    "[default: 0.8]",
)
@click.option(
    "--seed", type=Integer(), help="Seed of weights, order and augmentation. [default: 0]"
)
@click.option(
    "--precision",
    help="fp32, or bf16 autocast, slower on CPUs without bf16 instructions. [default: fp32]",
)
@click.option(
    "--compile",
    is_flag=True,
    help="Compile the training step with torch.compile: a minute or so at the start, which pays in "
    "long runs on a GPU. [default: no]",
)
@click.option(
    "--keep",
    help="Weights of which epoch the checkpoint has: last, or best, the first with the highest "
    "accuracy on val. [default: last]",
)
@click.option(
    "--checkpoint-every",
    metavar="K",
    type=Integer(),
    help="Epochs between two states from which a run that was stopped goes on. [default: 10]",
)
@click.option(
    "--tensorboard",
    is_flag=True,
    help="Write scalars to the folder tensorboard of the run, too; needs featbank[tensorboard]. "
    "[default: no]",
)
@click.option("--device", help="auto, cpu, cuda, cuda:1, … [default: auto]")
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
    help="Extract to this bank afterwards, as `featbank extract` does. [default: do not]",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Start anew and replace the run, and the --bank, that is there. [default: no]",
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

    Stopped or killed, it keeps a state in the folder `unfinished` of the run; the same command goes
    on from there. Under torchrun, the processes share each batch.

    \b
    featbank train --dataset digits-lt -o runs/digits
    featbank train --dataset cifar100-lt --imbalance 100 --backbone resnet32 --mixup 1.0 \\
        --root data --download -o runs/r32
    featbank train --dataset cifar100-lt --preset mislas-cifar --loss class_balanced --drw \\
        --set beta=0.999 -o runs/drw
    featbank train --dataset cifar100-lt --preset sla-cifar -o runs/sla --bank sla.h5
    torchrun --nproc-per-node 2 -m featbank train --dataset imagenet-lt --root data -o runs/r50
    """
    from featbank.cli.extract import extract
    from stage1.data.images import DatasetSettings
    from stage1.processes.distributed import leader_first, leads
    from stage1.training.settings import default_settings, deferral_epoch
    from stage1.training.train import train as run_training
    from stage2.engine.objective import Objective

    silence_pillow()
    if not leads():
        warnings.simplefilter("ignore")
    told = progress_beside_lines("images") if leads() else nullcontext((_silent, _silent))
    with leader_first(), told as (advance, report):
        if bank is not None and bank.exists() and not overwrite:
            raise OutputExists(f"{bank} exists. Choose another --bank or --overwrite.")
        given = {name: value for name, value in options.items() if value is not None}
        data = {name: given.pop(name) for name in (*DATASET_OPTIONS, "stream") if name in given}
        settings = default_settings(DatasetSettings(dataset, **data), **given)
        settings = _with_loss(settings, loss_settings, drw=drw)
        defers = drw or settings.deferred_sampling or settings.loss == "sla"
        if "deferral" in given and not defers:
            raise ConfigError(
                "--deferral defers nothing alone. Add --drw, --drs or both, or take --loss sla."
            )

        def objective(counts: Any) -> Objective:
            return Objective(
                settings.loss,
                settings.loss_settings,
                class_counts=counts,
                epochs=settings.epochs,
                classifier=settings.classifier,
                switch=deferral_epoch(settings) if settings.loss == "sla" else 0,
            )

        path = run_training(
            settings,
            output,
            # Plain cross-entropy is PyTorch's own.
            objective=None if settings.loss == "ce" else objective,
            report=report,
            progress=advance,
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
    """Take anything, tell nothing."""


def _with_loss(settings: TrainSettings, texts: Sequence[str], *, drw: bool) -> TrainSettings:
    """`settings` with all those of their loss, from ``--set`` and ``--drw``."""
    from stage1.training.settings import deferral_epoch
    from stage2.engine.objective import classifier_problem, objective_settings

    if problem := classifier_problem(settings.loss, settings.classifier):
        raise ConfigError(problem)
    chosen: dict[str, Any] = dict(map(_parse_setting, texts))
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
