"""``featbank extract-regions`` and ``featbank import-regions``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from featbank.cli.options import (
    FILE,
    Finite,
    Integer,
    device_option,
    dtype_option,
    output_option,
    overwrite_option,
    require_h5,
)
from featbank.cli.terminal import say
from featbank.errors import ConfigError
from featbank.wording import number

_PAIR = (FILE, FILE)


@click.command("extract-regions")
@click.argument("weights", type=FILE)
@click.option(
    "--model",
    default="fasterrcnn_resnet50_fpn",
    show_default=True,
    metavar="NAME",
    help="torchvision's detector that the weights are of: fasterrcnn_resnet50_fpn, "
    "fasterrcnn_resnet50_fpn_v2, fasterrcnn_mobilenet_v3_large_fpn, "
    "fasterrcnn_mobilenet_v3_large_320_fpn, maskrcnn_resnet50_fpn or maskrcnn_resnet50_fpn_v2.",
)
@click.option("--annotations", type=FILE, required=True, help="The images: json as of COCO.")
@click.option("--root", type=FILE, required=True, help="Folder that the images' names start from.")
@click.option("--proposals", type=Integer(1), help="Of an image, at most. [default: 1000]")
@click.option("--min-size", type=Integer(1), help="Shorter side in pixels. [default: the model's]")
@click.option("--max-size", type=Integer(1), help="Longer side, at most. [default: the model's]")
@click.option(
    "--norm-eps",
    type=Finite(0, 1),
    default=1e-5,
    show_default=True,
    help="ε of BatchNorm; 0 for torchvision's weights COCO_V1.",
)
@click.option(
    "--class-boxes/--no-class-boxes",
    default=True,
    show_default=True,
    help="Write the detector's box for each class, as `featbank predict` takes it; rows of train "
    "need none.",
)
@dtype_option("float32")
@device_option
@output_option("The file, .h5.")
def extract_regions(
    *,
    weights: Path,
    model: str,
    annotations: Path,
    root: Path,
    proposals: int | None,
    class_boxes: bool,
    dtype: str,
    device: str,
    output: Path,
    **options: Any,
) -> None:
    """Extract proposals and their features with a Faster or Mask R-CNN of torchvision.

    WEIGHTS is a file of its state dict. The output has the arrays that `featbank import-regions`
    and `featbank predict --detections` take, and weight and bias of the classifier.

    \b
    featbank extract-regions detector.pth --annotations train.json --root images -o train.h5
    featbank import-regions --train train.h5 train.json --classifier train.h5:weight train.h5:bias \
        -o regions.h5
    """
    from featbank.cli.progress import progress
    from featbank.devices import find_device
    from featbank.exchange.coco import read_annotations
    from stage1 import regions

    require_h5(output)
    truth = read_annotations(annotations)
    options["rpn_post_nms_top_n_test"] = proposals
    detector = regions.load_detector(model, weights, truth, device=find_device(device), **options)
    with progress("images") as report:
        count = regions.extract_regions(
            detector,
            truth,
            root,
            output,
            class_boxes=class_boxes,
            half=dtype == "float16",
            report=report,
        )
    say(f"Wrote {number(count, 'proposal')} of {number(len(truth.images), 'image')} to {output}.")


@click.command("import-regions")
@click.option(
    "--train",
    type=_PAIR,
    metavar="P ANN",
    required=True,
    help="Proposals and annotations of train.",
)
@click.option("--val", type=_PAIR, metavar="P ANN", help="The same of val.")
@click.option("--test", type=_PAIR, metavar="P ANN", help="The same of test.")
@click.option(
    "--features",
    type=(str, FILE),
    multiple=True,
    metavar="SPLIT X",
    help="Features [N, D] of a split whose proposals have none: --features train x.npy.",
)
@click.option(
    "--classifier",
    type=(str, str),
    metavar="W B",
    help="The detector's weight [K+1, D] and bias [K+1], categories by ascending id, and the "
    "background last.",
)
@click.option(
    "--foreground-iou",
    type=Finite(0, 1),
    default=0.5,
    show_default=True,
    help="Least overlap with an annotated box to be of its class.",
)
@click.option(
    "--background-iou",
    type=Finite(0, 1),
    default=0.0,
    show_default=True,
    help="Largest overlap from which on a proposal is background; 0.1 in Fast R-CNN.",
)
@click.option(
    "--rows-per-image",
    type=Integer(1),
    default=512,
    show_default=True,
    help="Proposals of an image that become rows, at most.",
)
@click.option(
    "--foreground-share",
    type=Finite(0, 1),
    default=0.25,
    show_default=True,
    help="Share of these that may be foreground.",
)
@click.option("--seed", type=Integer(0), default=0, show_default=True, help="Seed of their draw.")
@output_option("The bank.")
@overwrite_option("Replace an existing bank.")
def import_regions(
    *,
    train: tuple[Path, Path],
    val: tuple[Path, Path] | None,
    test: tuple[Path, Path] | None,
    features: tuple[tuple[str, Path], ...],
    classifier: tuple[str, str] | None,
    output: Path,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Make a bank from the boxes that a detector proposes, and their features.

    P is .npz or .h5 with image_ids [N], boxes [N, 4] (x1, y1, x2, y2) and features [N, D], or a
    json list with image_id and bbox (x, y, width, height), with --features. ANN is json of
    annotations as COCO's or LVIS'. A proposal is of the class of the annotated box that it overlaps
    most, or background; of each image a sample is taken. Images become source groups, and LVIS'
    frequencies the class groups.

    \b
    featbank import-regions --train p.npz train.json --test pt.npz val.json -o regions.h5
    """
    from featbank.exchange.formats import read_array
    from stage2.detections.banking import read_regions, write_regions
    from stage2.detections.matching import Sampling
    from stage2.export.arrays import read_features

    if settings["background_iou"] >= settings["foreground_iou"]:
        raise ConfigError(
            f"--background-iou {settings['background_iou']:g} is not below --foreground-iou "
            f"{settings['foreground_iou']:g}. Lower it."
        )
    given = {"train": train, "val": val, "test": test}
    pairs = {split: pair for split, pair in given.items() if pair}
    if strange := next((split for split, _ in features if split not in pairs), None):
        raise ConfigError(
            f"--features {strange}: no such split is given. Name one of: {', '.join(pairs)}."
        )
    sampling = Sampling(**settings)
    arrays = {split: read_features(place) for split, place in features}
    regions, names, groups = read_regions(pairs, arrays, sampling)
    for split, each in regions.items():
        for note in each.notes:
            warnings.warn(note)
        background = int((each.labels == len(names) - 1).sum())
        images = number(len(set(each.proposals.image_ids[each.rows].tolist())), "image")
        rows = number(len(each.rows), "row")
        say(f"{split}: {rows} of {images}, {background} of them background")
    read = None
    if classifier is not None:
        weight, bias = (read_array(place)[:] for place in classifier)
        read = weight, bias
    write_regions(
        output, regions, names, groups, sampling=sampling, classifier=read, overwrite=overwrite
    )
    say(f"Wrote {output}. Next: featbank info {output}")
