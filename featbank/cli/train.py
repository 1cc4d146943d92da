"""`featbank train`: images → checkpoint."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.progress import progress_beside_lines
from featbank.errors import ConfigError

if TYPE_CHECKING:
    from stage1.settings import TrainSettings

_DATASET_OPTIONS = (
    "root",
    "download",
    "imbalance",
    "val_per_class",
    "data_seed",
    "train_list",
    "test_list",
    "val_list",
    "class_names",
    "image_size",
    "test_per_class",
    "train_balanced",
    "skip_unreadable",
    "stream",
)


@click.command()
@click.option(
    "--dataset",
    required=True,
    help="digits-lt, cifar10-lt, cifar100-lt, imagenet-lt, places-lt, inaturalist2018, lists or "
    "folder; `featbank datasets` tells of them.",
)
@click.option("--root", help="Folder of the images. [default: cifar data; others: required]")
@click.option("--download", is_flag=True, help="cifar: download to --root. [default: no]")
@click.option(
    "--imbalance",
    type=float,
    help="n_max / n_min of the training counts. "
    "[default: cifar 100, digits-lt 50, folder its own counts]",
)
@click.option(
    "--val-per-class",
    type=int,
    help="cifar, folder: training images held out for val. [default: 0]",
)
@click.option(
    "--test-per-class",
    type=int,
    help="folder: training images held out for test, before those for val. [default: 0]",
)
@click.option(
    "--data-seed", type=int, help="Seed of what is held out and of the long tail. [default: 0]"
)
@click.option(
    "--train-balanced",
    is_flag=True,
    help="Keep the training images before the long tail, too, as the split train_balanced of the "
    "bank: what `oracle` learns from. [default: no]",
)
@click.option(
    "--train-list",
    help="lists: file of lines 'relative/path label'. "
    "[imagenet-lt, places-lt, inaturalist2018: as published, in --root; lists: required]",
)
@click.option(
    "--test-list", help="The same, of the test split. [others: as above; lists: required]"
)
@click.option(
    "--val-list", help="The same, of the val split. [default: no val split; others: as above]"
)
@click.option(
    "--class-names", help="lists: file with one name per line. [default: classes are numbers]"
)
@click.option(
    "--image-size",
    type=int,
    help="lists, folder: resize the shorter side, keep the centre. "
    "[default: the images' own size; imagenet-lt, places-lt, inaturalist2018: 224]",
)
@click.option(
    "--skip-unreadable",
    is_flag=True,
    help="lists, folder: leave missing and broken images out, with a warning. [default: no]",
)
@click.option(
    "--stream",
    is_flag=True,
    help="lists, folder: decode images as they are used, in place of keeping them all in memory. "
    "[default: where they do not fit]",
)
@click.option(
    "--preset",
    help="Published settings, which options given beside it override: mislas-cifar, los-cifar100, "
    "crt-imagenet-lt, mislas-imagenet-lt, mislas-places-lt or mislas-inaturalist. [default: none]",
)
@click.option(
    "--backbone",
    help="resnetN: for N of 10, 18, 34, 50, 101, 152 torchvision's, for any other 6n+2 the CIFAR "
    "ResNet, which is cifar-resnetN for all 6n+2, so cifar-resnet50; cifar-resnet34, the ResNet-34 "
    "for 32×32 images; resnext50_32x4d, resnext101_32x8d; torchvision:NAME, any other model of it; "
    "timm:NAME, with featbank[timm]. [default: resnet32, digits-lt resnet8]",
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
@click.option("--epochs", type=int, help="[default: 200, digits-lt 100]")
@click.option("--lr", type=float, help="Learning rate of SGD. [default: 0.1]")
@click.option("--batch-size", type=int, help="[default: 128, digits-lt 32]")
@click.option("--momentum", type=float, help="[default: 0.9]")
@click.option("--nesterov", is_flag=True, help="Nesterov's momentum. [default: no]")
@click.option("--weight-decay", type=float, help="[default: 0.0002]")
@click.option(
    "--schedule",
    help="multistep (×0.1 at 80 and 90 % of the epochs) or cosine. [default: multistep]",
)
@click.option(
    "--warmup",
    type=int,
    help="Epochs of linear warm-up. [default: 5, at most a tenth of the epochs]",
)
@click.option(
    "--augmentation",
    help="standard (crop and mirror), none, cutout, autoaugment (the CIFAR-10 policy, and Cutout), "
    "simclr or resized-crop. Extraction uses it, too. [default: standard]",
)
@click.option("--mixup", type=float, help="α of mixup's Beta(α, α); 0 is off. [default: 0.0]")
@click.option("--loss", help="A loss of `featbank methods`. [default: ce]")
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
    type=float,
    help="Share of the epochs before --drw and --drs act: 160 of 200. [default: 0.8]",
)
@click.option("--seed", type=int, help="Seed of weights, order and augmentation. [default: 0]")
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
    type=int,
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
    type=click.Path(path_type=Path),
    help="Run folder for checkpoint.pt and log.jsonl.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Start anew and replace the run that is there. [default: no]",
)
def train(
    *,
    dataset: str,
    output: Path,
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
    torchrun --nproc-per-node 2 -m featbank train --dataset imagenet-lt --root data -o runs/r50
    """
    from stage1.distributed import leader_first, leads
    from stage1.images import DatasetSettings
    from stage1.settings import default_settings
    from stage1.train import train as run_training
    from stage2.engine.objective import Objective

    if not leads():
        warnings.simplefilter("ignore")
    told = progress_beside_lines("images") if leads() else nullcontext((_silent, _silent))
    with leader_first(), told as (advance, say):
        given = {name: value for name, value in options.items() if value is not None}
        data = {name: given.pop(name) for name in _DATASET_OPTIONS if name in given}
        settings = default_settings(DatasetSettings(dataset, **data), **given)
        settings = _with_loss(settings, loss_settings, drw=drw)
        if "deferral" in given and not (drw or settings.deferred_sampling):
            raise ConfigError("--deferral defers nothing alone. Add --drw, --drs or both.")

        def objective(counts: Any) -> Objective:
            loss, chosen = settings.loss, settings.loss_settings
            return Objective(loss, chosen, class_counts=counts, epochs=settings.epochs)

        path = run_training(
            settings,
            output,
            # Plain cross-entropy is PyTorch's own.
            objective=None if settings.loss == "ce" else objective,
            report=say,
            progress=advance,
            tensorboard=tensorboard,
            overwrite=overwrite,
        )
    if leads():
        click.echo(f"Wrote {path}. Next: featbank extract {output} -o bank.h5")


def _silent(*_: Any) -> None:
    """Take anything, tell nothing."""


def _with_loss(settings: TrainSettings, texts: Sequence[str], *, drw: bool) -> TrainSettings:
    """`settings` with all those of their loss, from ``--set`` and ``--drw``."""
    from stage1.settings import deferral_epoch
    from stage2.engine.objective import objective_settings

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
