"""`featbank train`: images → checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

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
)


@click.command()
@click.option("--dataset", required=True, help="digits-lt, cifar10-lt, cifar100-lt or lists.")
@click.option("--root", help="Folder of the images. [default: data; lists: required]")
@click.option("--download", is_flag=True, help="cifar: download to --root. [default: no]")
@click.option(
    "--imbalance",
    type=float,
    help="n_max / n_min of the training counts. [default: cifar 100, digits-lt 50]",
)
@click.option(
    "--val-per-class", type=int, help="cifar: training images held out for val. [default: 0]"
)
@click.option("--data-seed", type=int, help="Seed of the long-tailed selection. [default: 0]")
@click.option("--train-list", help="lists: file of lines 'relative/path label'. [lists: required]")
@click.option("--test-list", help="lists: the same, of the test split. [lists: required]")
@click.option("--val-list", help="lists: the same, of the val split. [default: no val split]")
@click.option(
    "--class-names", help="lists: file with one name per line. [default: classes are numbers]"
)
@click.option(
    "--image-size",
    type=int,
    help="lists: resize the shorter side, keep the centre. [default: the images' own size]",
)
@click.option(
    "--backbone", help="CIFAR ResNet of depth 6n+2. [default: resnet32, digits-lt resnet8]"
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
@click.option("--mixup", type=float, help="α of mixup's Beta(α, α); 0 is off. [default: 0.0]")
@click.option("--seed", type=int, help="Seed of weights, order and augmentation. [default: 0]")
@click.option(
    "--precision",
    help="fp32, or bf16 autocast, slower on CPUs without bf16 instructions. [default: fp32]",
)
@click.option("--device", help="auto, cpu, cuda, cuda:1, … [default: auto]")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Run folder for checkpoint.pt and log.jsonl.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run that is there. [default: no]")
def train(*, dataset: str, output: Path, overwrite: bool, nesterov: bool, **options: Any) -> None:
    """Train a backbone on a long-tailed data set.

    \b
    featbank train --dataset digits-lt -o runs/digits
    featbank train --dataset cifar100-lt --imbalance 100 --backbone resnet32 --mixup 1.0 \\
        --root data --download -o runs/r32
    """
    from rich.console import Console
    from rich.progress import Progress

    from stage1.images import DatasetSettings
    from stage1.settings import default_settings
    from stage1.train import train as run_training

    given = {name: value for name, value in options.items() if value is not None}
    data = {name: given.pop(name) for name in _DATASET_OPTIONS if name in given}
    settings = default_settings(DatasetSettings(dataset, **data), nesterov=nesterov, **given)
    console = Console(markup=False, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("epochs", total=settings.epochs)
        path = run_training(
            settings,
            output,
            report=console.print,
            progress=lambda done, _: bar.update(task, completed=done),
            overwrite=overwrite,
        )
    click.echo(f"Wrote {path}. Next: featbank extract {output} -o bank.h5")
