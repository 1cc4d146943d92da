"""What shapes features beside model and data: the options of extraction, and the shards' key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from featbank import errors
from featbank.bank import schema
from featbank.bank.checks import check_choice
from featbank.bank.fingerprint import array_digest
from featbank.settings import Setting, wrong_values
from stage1.data.images import ImageDataset, images_digest
from stage1.inference.evaluate import BATCH
from stage1.inference.features import VIEWS, FeatureOptions
from stage1.training.checkpoint import versions

SHARD_ROWS = 4096
"""Most images a shard holds the features of, each copy counted, under all views."""

_SETTINGS = (
    Setting("balanced_batches", None, "class-balanced batches M", low=1, kind=int),
    Setting("augmentations", 0, "augmented copies A of the training images", low=0),
    Setting("seed", 0, "seed of balanced batches and augmented copies", low=0, high=2**63 - 1),
    Setting("shard_rows", SHARD_ROWS, "most images in a shard, copies counted", low=BATCH),
)


def check_options(chosen: Mapping[str, Any]) -> None:
    """Check the type and the numbers of `FeatureOptions`, given by name.

    Raises
    ------
    ConfigError
        Naming every wrong number at once.
    """
    check_choice("dtype", chosen["dtype"], schema.DTYPES)
    problems = wrong_values(_SETTINGS, chosen, "extraction")
    if not problems and chosen["shard_rows"] % BATCH:
        problems = [
            f"The 'shard_rows' of extraction must be a multiple of {BATCH}, got "
            f"{chosen['shard_rows']}."
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
