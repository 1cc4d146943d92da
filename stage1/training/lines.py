"""Progress lines of a training run."""

from __future__ import annotations

from typing import Any

from stage1.data.images import ImageDataset
from stage1.data.streaming import StreamedImages
from stage1.processes.distributed import ProcessGroup
from stage1.training.settings import TrainSettings


def describe(dataset: ImageDataset, settings: TrainSettings, group: ProcessGroup) -> str:
    """Line on the data set, the model and the device of a run."""
    counts, shape = dataset.train_counts, "×".join(map(str, dataset.image_shape))
    sizes = ", ".join(f"{len(split.labels)} {name}" for name, split in dataset.splits.items())
    streamed = isinstance(dataset.splits["train"].images, StreamedImages)
    return (
        f"{settings.dataset.name}: {sizes} images of {shape}, "
        + ("decoded as they are used, " if streamed else "")
        + f"{len(counts)} classes with {counts.max()}…{counts.min()} training images; "
        + (f"{settings.experts} experts of " if settings.experts > 1 else "")
        + f"{settings.backbone} on {group.device}"
        + ("" if group.size == 1 else f" and {group.size - 1} more like it")
        + ("" if settings.loss == "ce" else f", loss {settings.loss}")
    )


def epoch_line(epoch: dict[str, Any], epochs: int) -> str:
    """Line on an epoch of a run of `epochs`."""
    measured = "".join(
        f"  {split} {epoch[f'{split}_accuracy']:.1f} %"
        for split in ("train", "val", "test")
        if f"{split}_accuracy" in epoch
    )
    return (
        f"epoch {epoch['epoch']:>{len(str(epochs))}}/{epochs}  loss {epoch['loss']:.3f}{measured}"
        f"  lr {epoch['lr']:.2g}  {epoch['seconds']:.2f} s"
    )


def accuracy_line(split: str, values: dict[str, float | None]) -> str:
    """Line on the accuracies of a split."""
    shown = (
        f"{name} {'–' if value is None else f'{value:.1f} %'}" for name, value in values.items()
    )
    return f"{split}: {'  '.join(shown)}"
