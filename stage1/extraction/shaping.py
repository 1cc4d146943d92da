"""What shapes features beside model and data: the options of extraction, and the shards' key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import check_choice
from featbank.bank.fingerprint import array_digest
from featbank.settings import options_of, wrong_values
from stage1.data.images import ImageDataset, images_digest
from stage1.inference.options import BATCH, VIEWS, FeatureOptions
from stage1.training.checkpoint import versions


def check_options(options: FeatureOptions) -> None:
    """Check type and numbers.

    Raises
    ------
    ConfigError
        Naming every wrong number at once.
    """
    check_choice("dtype", options.dtype, schema.DTYPES)
    problems = wrong_values(options_of(FeatureOptions).values(), vars(options), "extraction")
    if not problems and options.shard_rows % BATCH:
        problems = [
            f"The 'shard_rows' of extraction must be a multiple of {BATCH}, got "
            f"{options.shard_rows}."
        ]
    if problems:
        raise errors.ConfigError(" ".join(problems))


def checked_views(views: Sequence[str]) -> tuple[str, ...]:
    """The views in their own order, each once.

    Raises
    ------
    ConfigError
        For an unknown one, or none.
    """
    for view in views:
        if view not in VIEWS:
            raise errors.ConfigError(f"Unknown view {view!r}. {errors.closest(view, [*VIEWS])}")
    if not views:
        raise errors.ConfigError(f"No view was given. Choose from: {', '.join(VIEWS)}.")
    return tuple(view for view in VIEWS if view in views)


def shaped_by(
    options: FeatureOptions, dataset: ImageDataset, device: torch.device
) -> dict[str, Any]:
    """What features depend on beside the model, by field: the rest of the shards' key.

    Devices round differently, and CPUs by their vector width and number of threads.
    """
    if device.type == "cuda":
        computer = f"cuda, {torch.cuda.get_device_name(device)}"
    else:
        cpu = torch.backends.cpu.get_cpu_capability()
        computer = f"cpu, {cpu}, {torch.get_num_threads()} threads"
    balanced, augmented = "balanced" in options.views, options.augmentations > 0
    key = {
        "views": ", ".join(options.views),
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
