"""`featbank extract`: a run or a pretrained model → bank."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from featbank.cli.data_options import chosen_options, dataset_options, silence_pillow
from featbank.cli.options import FILE, device_option, label_option, setting_options
from featbank.cli.progress import progress
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.settings import flag, options_of
from stage1.data.catalogue import OPTIONS as DATASET
from stage1.data.settings import DatasetSettings
from stage1.extraction.settings import Frozen
from stage1.inference.options import VIEWS, FeatureOptions

FEATURES = {n: s for n, s in options_of(FeatureOptions).items() if n != "shard_rows"}
"""Settings of extraction that are options: the size of shards is for tests."""


@click.command()
@click.argument("run", required=False, type=FILE)
@click.option(
    "-o",
    "--output",
    required=True,
    type=FILE,
    help="The bank to write.",
)
@label_option
@click.option(
    "--views",
    default=",".join(VIEWS),
    show_default=True,
    help="instance: the checkpoint's BatchNorm statistics; balanced: those of class-balanced data.",
)
@click.option(
    "--layers",
    metavar="LAYER[,LAYER…]|all",
    help="Inner layers to write as further views, layer11/cls and so on: their numbers, -1 for the "
    "last, or names such as blocks.11; a wrong one shows what there is. [default: none]",
)
@click.option(
    "--tokens",
    metavar="TOKEN[,TOKEN…]",
    help="Views of each layer: cls, the class token, or mean where there is none; mean, over "
    "patches, or the positions of a CNN; patch, all of these as tokens. [default: cls]",
)
@setting_options(FEATURES)
@device_option
@click.option("--overwrite", is_flag=True, help="Replace an existing bank. [default: no]")
@setting_options(options_of(Frozen))
@dataset_options(
    default="that of RUN",
    without="stream",
    root="Folder of the images; for those of RUN, only where they have moved.",
)
def extract(
    *,
    run: Path | None,
    output: Path,
    label: str | None,
    views: str,
    layers: str | None,
    tokens: str | None,
    root: str | None,
    device: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write the features of RUN, a run folder or its checkpoint, to a bank.

    A pretrained model needs no RUN: give --weights, --backbone and --dataset instead. If the
    weights have no classifier of the data set's number of classes, the bank has none, and stage 2
    starts from a linear probe.

    An extraction that is stopped or killed keeps what is finished; the same command resumes it.
    Under torchrun, the processes share the work.

    \b
    featbank extract runs/digits -o bank.h5
    featbank extract --weights resnet50.pth --backbone resnet50 --dataset imagenet-lt \\
        --root images --views instance -o bank.h5
    featbank extract --weights dinov2.safetensors --backbone timm:vit_small_patch14_dinov2 \\
        --dataset folder --root images --image-size 224 --views instance \\
        --layers -1,-4,-8 --tokens cls,mean --dtype float16 -o bank.h5
    torchrun --nproc-per-node 2 -m featbank extract runs/r50 -o r50.h5
    """
    from stage1.extraction.extract import extract as run_extraction
    from stage1.processes.distributed import leader_first, leads

    silence_pillow()
    if not leads():
        warnings.simplefilter("ignore")
    chosen = chosen_options(options)
    features = {name: chosen.pop(name) for name in FEATURES if name in chosen}
    with leader_first():
        if run is None:
            source: Path | Frozen = _frozen(root, chosen)
        elif chosen:
            raise ConfigError(
                f"{', '.join(map(flag, chosen))}: not beside a run, which has its own. "
                f"Leave this out, or leave out {run}."
            )
        else:
            source = run

    with progress("images") as display:
        run_extraction(
            source,
            output,
            label=label,
            views=_names(views),
            layers=_names(layers),
            tokens=_names(tokens),
            root=None if run is None else root,
            device=device,
            overwrite=overwrite,
            report=display.say,
            progress=display,
            **features,
        )
    if leads():
        say(f"Wrote {output}. Next: featbank sweep {output} --recipe crt -o results.sqlite")


def _names(text: str | None) -> list[str]:
    """Names that commas separate."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _frozen(root: str | None, chosen: dict[str, Any]) -> Frozen:
    """The pretrained model that the options name."""
    if missing := [name for name in ("weights", "backbone", "dataset") if name not in chosen]:
        raise ConfigError(
            f"There is no RUN, and no {', '.join(map(flag, missing))}. "
            "Give RUN, or --weights with --backbone and --dataset."
        )
    data = {name: chosen.pop(name) for name in DATASET if name in chosen}
    dataset = DatasetSettings(chosen.pop("dataset"), root=root, **data)
    return Frozen(dataset=dataset, **chosen)
