"""Options of extraction: their checks, and their part in the key of shards."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import check_choice
from featbank.bank.fingerprint import array_digest
from featbank.settings import options_of, wrong_values
from stage1.data.images import ImageDataset, images_digest
from stage1.inference.options import BATCH, TOKENS, VIEWS, FeatureOptions
from stage1.training.checkpoint import versions


def checked(options: FeatureOptions) -> FeatureOptions:
    """Check views, type and numbers; return the options with each view and token once, in order.

    Raises
    ------
    ConfigError
        For an unknown view or none, layers without the view that they come with, and naming every
        wrong number at once.
    """
    for view in options.views:
        if view not in VIEWS:
            raise errors.ConfigError(f"Unknown view {view!r}. {errors.closest(view, VIEWS)}")
    if not options.views:
        raise errors.ConfigError(f"No view was given. Choose from: {', '.join(VIEWS)}.")
    for token in options.tokens:
        check_choice("token", token, TOKENS)
    if options.layers and "instance" not in options.views:
        raise errors.ConfigError(
            "Layers come with the view instance, under the statistics of the checkpoint. "
            "Add instance to --views."
        )
    if (options.tokens or options.layer_norm) and not options.layers:
        raise errors.ConfigError(
            "--tokens and --layer-norm are of inner layers. Add --layers -1 for the last."
        )
    check_choice("dtype", options.dtype, schema.DTYPES)
    problems = wrong_values(options_of(FeatureOptions).values(), vars(options), "extraction")
    if not problems and options.shard_rows % BATCH:
        problems = [
            f"The 'shard_rows' of extraction must be a multiple of {BATCH}, got "
            f"{options.shard_rows}."
        ]
    if problems:
        raise errors.ConfigError(" ".join(problems))
    views = tuple(view for view in VIEWS if view in options.views)
    tokens = tuple(token for token in TOKENS if token in (options.tokens or ("cls",)))
    return dataclasses.replace(options, views=views, tokens=tokens if options.layers else ())


def feature_key(
    options: FeatureOptions, dataset: ImageDataset, device: torch.device
) -> dict[str, Any]:
    """Values that features depend on beside the model, by name: the rest of the key of shards.

    Rounding depends on the device, on CPUs also on the vector width and the number of threads.
    """
    if device.type == "cuda":
        computer = f"cuda, {torch.cuda.get_device_name(device)}"
    else:
        cpu = torch.backends.cpu.get_cpu_capability()
        computer = f"cpu, {cpu}, {torch.get_num_threads()} threads"
    balanced, augmented = "balanced" in options.views, options.augmentations > 0
    key = {
        "views": ", ".join(options.views),
        "layers": ", ".join(options.layers) or None,
        "tokens": ", ".join(options.tokens) or None,
        "norm of layers": options.layer_norm or None,
        "number of balanced batches": options.balanced_batches if balanced else None,
        "number of augmentations": options.augmentations,
        "seed": options.seed if balanced or augmented else None,
        "dtype": options.dtype,
        "shard size": options.shard_rows,
        "device": computer,
        "torch version": str(torch.__version__),
        "featbank version": versions()["featbank"],
    }
    for name, split in dataset.splits.items():
        key[f"{name} images"] = images_digest(split.images)
        key[f"{name} labels"] = array_digest(split.labels.numpy())
        key[f"{name} index"] = array_digest(split.index)
    return key
