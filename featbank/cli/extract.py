"""`featbank extract`: checkpoint → bank."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from featbank.cli.options import device_option
from featbank.cli.progress import progress


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
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
    type=int,
    default=0,
    show_default=True,
    help="Augmented copies of each training image, in place of the plain one. The features of "
    "train take A times the room; 4 copies win back most of what is lost by not augmenting anew "
    "in every epoch of stage 2.",
)
@click.option("--root", help="Where the images are now. [default: where they were in training]")
@click.option(
    "--balanced-batches",
    type=int,
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
def extract(
    *,
    run: Path,
    output: Path,
    views: str,
    dtype: str,
    augmentations: int,
    root: str | None,
    balanced_batches: int | None,
    seed: int,
    device: str,
    overwrite: bool,
) -> None:
    """Write the features of RUN, a run folder or its checkpoint, to a bank.

    Stopped or killed, it leaves what is finished; the same command goes on from there. Under
    torchrun, the processes share the work.

    \b
    featbank extract runs/digits -o bank.h5
    torchrun --nproc-per-node 2 -m featbank extract runs/r50 -o r50.h5
    """
    from stage1.distributed import leads
    from stage1.extract import extract as run_extraction

    if not leads():
        warnings.simplefilter("ignore")

    with progress("images") as advance:
        run_extraction(
            run,
            output,
            views=[view.strip() for view in views.split(",") if view.strip()],
            dtype=dtype,
            augmentations=augmentations,
            root=root,
            balanced_batches=balanced_batches,
            seed=seed,
            device=device,
            overwrite=overwrite,
            report=click.echo,
            progress=advance,
        )
    if leads():
        click.echo(f"Wrote {output}. Next: featbank sweep {output} --recipe crt -o results.sqlite")
