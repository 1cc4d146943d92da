"""``featbank extract-maps``."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from featbank.cli.data_options import silence_pillow
from featbank.cli.options import (
    FILE,
    Integer,
    device_option,
    dtype_option,
    output_option,
    require_h5,
)
from featbank.cli.terminal import say
from featbank.wording import number
from stage1.inference.normalisation import CHANNEL_MOMENTS


@click.command("extract-maps")
@click.argument("weights", type=FILE)
@click.option(
    "--model",
    default="deeplabv3_resnet50",
    show_default=True,
    metavar="NAME",
    help="torchvision's network that the weights are of: fcn_resnet50, fcn_resnet101, "
    "deeplabv3_resnet50, deeplabv3_resnet101 or deeplabv3_mobilenet_v3_large.",
)
@click.option("--images", type=FILE, required=True, help="Folder of the images.")
@click.option(
    "--labels",
    type=FILE,
    required=True,
    help="Folder of PNG files with the labels of their pixels, of 8 or 16 bits or with a palette, "
    "named as the images but for the ending.",
)
@click.option(
    "--resize",
    type=(Integer(1), Integer(1)),
    metavar="H W",
    help="Height and width that images and labels are resized to, needed where sizes differ.",
)
@click.option(
    "--normalisation",
    type=click.Choice([*CHANNEL_MOMENTS]),
    default="imagenet",
    show_default=True,
    help="Means and deviations of the channels.",
)
@click.option(
    "--batch-size", type=Integer(1), default=1, show_default=True, help="Images in a pass."
)
@dtype_option("float16")
@device_option
@output_option("The file, .h5.")
def extract_maps(
    *,
    weights: Path,
    model: str,
    images: Path,
    labels: Path,
    resize: tuple[int, int] | None,
    normalisation: str,
    batch_size: int,
    dtype: str,
    device: str,
    output: Path,
) -> None:
    """Extract maps of features with an FCN or DeepLabV3 of torchvision.

    WEIGHTS is a file of its state dict. The output has the input of its last layer, features
    [M, h, w, D], labels [M, H, W] and names [M], which `featbank import --maps` takes, and weight
    and bias of that layer.

    \b
    featbank extract-maps deeplab.pth --images train --labels train_labels -o train.h5
    featbank import --maps --train train.h5:features train.h5:labels \\
        --classifier train.h5:weight train.h5:bias --ignore-label 255 --class-names names.txt \\
        --pixels-per-image 256 -o bank.h5
    """
    from featbank.cli.progress import progress
    from featbank.devices import find_device
    from stage1 import segmentation
    from stage1.data.labelmaps import find_pairs

    silence_pillow()
    require_h5(output)
    pairs, alone = find_pairs(images, labels)
    segmenter = segmentation.load_segmenter(
        model, weights, device=find_device(device), normalisation=normalisation
    )
    if alone:
        warnings.warn(
            f"{number(alone, 'file')} in {images} and {labels} without a partner left out."
        )
    with progress("images") as report:
        count, height, width, dim = segmentation.extract_maps(
            segmenter,
            pairs,
            output,
            size=resize,
            batch_size=batch_size,
            half=dtype == "float16",
            report=report,
        )
    say(f"Wrote {number(count, 'map')} of {height} × {width}, {dim} channels, to {output}.")
