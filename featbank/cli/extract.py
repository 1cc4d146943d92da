"""`featbank extract`: a run or a pretrained model → bank."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featbank.cli.data_options import (
    AUGMENTATION,
    BACKBONE,
    DATASET_OPTIONS,
    NORMALISATION,
    dataset_options,
    silence_pillow,
)
from featbank.cli.options import FILE, Integer, device_option
from featbank.cli.progress import progress
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.settings import flag

if TYPE_CHECKING:
    from stage1.extraction.frozen import Frozen


@click.command()
@click.argument("run", required=False, type=FILE)
@click.option(
    "-o",
    "--output",
    required=True,
    type=FILE,
    help="The bank to write.",
)
@click.option(
    "--views",
    default="instance,balanced",
    show_default=True,
    help="instance: the checkpoint's BatchNorm statistics; balanced: those of class-balanced data.",
)
@click.option("--dtype", default="float32", show_default=True, help="float32 or float16.")
@click.option(
    "--augmentations",
    metavar="A",
    type=Integer(),
    default=0,
    show_default=True,
    help="Augmented copies of each training image, in place of the plain one. The features of "
    "train take A times the room; 4 copies win back most of what is lost by not augmenting anew "
    "in every epoch of stage 2.",
)
@click.option(
    "--balanced-batches",
    type=Integer(),
    help="Batches of 128 for the balanced view. [default: one pass over train, at least 64]",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the balanced batches and the augmented copies.",
)
@device_option
@click.option("--overwrite", is_flag=True, help="Replace the bank that is there. [default: no]")
@click.option(
    "--weights",
    help="In place of RUN: state dict of a pretrained model, a torch file or .safetensors. It goes "
    "with --backbone and --dataset; the options below are for it. [default: none]",
)
@click.option("--backbone", help=f"{BACKBONE} [default: that of RUN]")
@click.option(
    "--normalisation",
    help=f"{NORMALISATION} [default: imagenet for colour images and a backbone of torchvision or "
    "timm, else data]",
)
@click.option(
    "--augmentation",
    help=f"{AUGMENTATION}: what is done to the copies of --augmentations, and to the images behind "
    "the balanced view. [default: standard]",
)
@dataset_options(
    default="that of RUN",
    root="Folder of the images, also of those of RUN, if they have moved. "
    "[default: cifar data; of RUN where they were; others: required]",
)
def extract(
    *,
    run: Path | None,
    output: Path,
    views: str,
    dtype: str,
    augmentations: int,
    root: str | None,
    balanced_batches: int | None,
    seed: int,
    device: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write the features of RUN, a run folder or its checkpoint, to a bank.

    Or those of a pretrained model, which needs no run: --weights, --backbone and --dataset in place
    of RUN. Where the weights have no classifier of the data set's number of classes, the bank has
    none, and stage 2 starts from a linear probe.

    Stopped or killed, it leaves what is finished; the same command goes on from there. Under
    torchrun, the processes share the work.

    \b
    featbank extract runs/digits -o bank.h5
    featbank extract --weights resnet50.pth --backbone resnet50 --dataset imagenet-lt \\
        --root images --views instance -o bank.h5
    torchrun --nproc-per-node 2 -m featbank extract runs/r50 -o r50.h5
    """
    from stage1.extraction.extract import extract as run_extraction
    from stage1.processes.distributed import leader_first, leads

    silence_pillow()
    if not leads():
        warnings.simplefilter("ignore")
    with leader_first():
        source = _frozen(root, options) if run is None else _alone(run, options)

    with progress("images") as advance:
        run_extraction(
            source,
            output,
            views=[view.strip() for view in views.split(",") if view.strip()],
            dtype=dtype,
            augmentations=augmentations,
            root=None if run is None else root,
            balanced_batches=balanced_batches,
            seed=seed,
            device=device,
            overwrite=overwrite,
            report=say,
            progress=advance,
        )
    if leads():
        say(f"Wrote {output}. Next: featbank sweep {output} --recipe crt -o results.sqlite")


def _alone(run: Path, options: dict[str, Any]) -> Path:
    """The run, where no option is given that is its own."""
    if given := _given(options):
        raise ConfigError(
            f"{', '.join(map(flag, given))}: not beside a run, which has its own. "
            f"Leave this out, or leave out {run}."
        )
    return run


def _frozen(root: str | None, options: dict[str, Any]) -> Frozen:
    """The pretrained model that the options name."""
    from stage1.data.images import DatasetSettings
    from stage1.extraction.frozen import Frozen

    given = _given(options)
    if missing := [name for name in ("weights", "backbone", "dataset") if name not in given]:
        raise ConfigError(
            f"There is no RUN, and no {', '.join(map(flag, missing))}. "
            "Give RUN, or --weights with --backbone and --dataset."
        )
    data = {name: given.pop(name) for name in DATASET_OPTIONS if name in given}
    dataset = DatasetSettings(given.pop("dataset"), root=root, **data)
    return Frozen(dataset=dataset, **given)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in options.items() if value is not None and value is not False
    }
